"""From the outlet of the runtime to the robot: trajectories when something changes, setpoints from a thread.

In a dry run there is no publisher at all, and everything before it runs as ever. Easy to get wrong: the setpoint
thread ends only after the motion has come to rest, or a robot is left with the last speed it was told.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from dp_ros.bridge.outputs import SetpointOutput, TrajectoryOutput, make_output
from dp_ros.bridge.ticker import Ticker, TickStatistics, prompt_interpreter
from dp_ros.runtime.outlet import Outlet
from dp_ros.runtime.safety import BadAction
from dp_ros.runtime.spline import TrajectoryPoints
from dp_ros.task import ActionSpec

#: How long the end waits for the robot to come to rest.
REST_S = 2.0


class CommandStream:
    """Publishers and thread of a task's commands.

    Args:
        node: an rclpy node.
        action: what is commanded, as what.
        outlet: where it comes from.
        dry_run: publish nothing.
        realtime_priority: of the setpoint thread, see `Ticker`.
        on_error: called from the setpoint thread with what went wrong there; it has ended then.

    Raises:
        UserError: if the thread may not have its priority.
    """

    def __init__(
        self,
        node: Any,
        action: ActionSpec,
        outlet: Outlet,
        *,
        dry_run: bool,
        realtime_priority: int,
        on_error: Callable[[Exception], None],
    ) -> None:
        self._node, self._action, self._outlet = node, action, outlet
        self._output: TrajectoryOutput | SetpointOutput | None = (
            None if dry_run else make_output(node, action)
        )
        self._ticker: Ticker | None = None
        self._prompt = contextlib.ExitStack()
        if action.output == "setpoint":
            assert action.rate_hz is not None
            self._ticker = Ticker(
                self._send, action.rate_hz, node.get_clock(), on_error, realtime_priority=realtime_priority
            )
            self._prompt.enter_context(prompt_interpreter())
            try:
                self._ticker.start()
            except Exception:
                self.destroy(0)
                raise

    @property
    def listeners(self) -> int:
        """How many subscribe to the command topic."""
        return int(self._node.count_subscribers(self._action.topic))

    @property
    def dry_run(self) -> bool:
        """Whether nothing is published."""
        return self._output is None

    def statistics(self) -> TickStatistics | None:
        """Punctuality of the setpoints, None where there are none."""
        return None if self._ticker is None else self._ticker.statistics()

    def update(self, now_ns: int) -> None:
        """What is commanded has changed: where trajectories go out, send the new one. Raises BadAction."""
        if self._ticker is None:
            self.publish(self._outlet.trajectory(now_ns))

    def publish(self, points: TrajectoryPoints | None) -> None:
        """Send a trajectory."""
        if points is not None and isinstance(self._output, TrajectoryOutput):
            self._output.publish(points)

    def publish_grippers(self, now_ns: int) -> None:
        """Beside trajectories: send the grippers that have a topic of their own, where that is due."""
        if not isinstance(self._output, TrajectoryOutput):
            return
        position = self._outlet.last_position(now_ns)
        if position is not None and np.isfinite(position).all():
            self._output.grippers.publish(position, now_ns)

    def destroy(self, now_ns: int) -> bool:
        """End once the robot stands still, or after 2 s; False if the setpoint thread did not come back."""
        ended = True
        if self._ticker is not None:
            rest_s = self._outlet.rest_in_s(now_ns)
            if rest_s > 0.0:
                threading.Event().wait(min(rest_s, REST_S))
            ended = self._ticker.stop()
            self._prompt.close()
        if self._output is not None:
            self._output.destroy()
        return ended

    def _send(self, now_ns: int) -> None:
        state = self._outlet.setpoint(now_ns)
        if state is None:
            return
        if not np.isfinite(state.position).all():
            raise BadAction(f"the setpoint is {state.position.tolist()}; nothing was sent")
        if isinstance(self._output, SetpointOutput):
            self._output.publish(state, now_ns)
