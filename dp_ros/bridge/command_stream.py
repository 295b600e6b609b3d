"""From the outlet of the runtime to the robot: trajectories when something changes, setpoints from another process.

In a dry run there is no publisher at all, and everything before it runs as ever. Easy to get wrong: the sending of
setpoints ends only after the motion has come to rest, or a robot is left with the last speed it was told.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from dp_ros.bridge.outputs import TrajectoryOutput
from dp_ros.bridge.setpoint_process import SetpointProcess
from dp_ros.bridge.ticker import TickStatistics
from dp_ros.bridge.watchers import count_executors
from dp_ros.runtime.motion.spline import TrajectoryPoints
from dp_ros.runtime.outlet import Outlet
from dp_ros.task import ActionSpec

#: How long the end waits for the robot to come to rest.
REST_S = 2.0


class CommandStream:
    """What sends a task's commands: a publisher of trajectories, or a process that sends setpoints.

    Args:
        node: an rclpy node.
        action: what is commanded, as what.
        outlet: where it comes from.
        dry_run: publish nothing.
        realtime_priority: of the thread that sends setpoints, see `Ticker`.
        on_error: called from another thread with what went wrong; no setpoint is sent any more then.

    Raises:
        UserError: if setpoints cannot be sent, or not with that priority.
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
        self._node, self._action, self._outlet, self._dry_run = node, action, outlet, dry_run
        self._output: TrajectoryOutput | None = None
        self._setpoints: SetpointProcess | None = None
        if action.output == "setpoint":
            self._setpoints = SetpointProcess(
                node,
                action,
                outlet,
                dry_run=dry_run,
                realtime_priority=realtime_priority,
                on_error=on_error,
            )
            node.get_logger().info(
                f"setpoints at {action.rate_hz:g} Hz, {_scheduling(self._setpoints.priority)}"
            )
        elif not dry_run:
            self._output = TrajectoryOutput(node, action)

    @property
    def listeners(self) -> int:
        """How many subscribe to the command topic and do not only watch; of setpoints, no more than they reach."""
        known = count_executors(self._node, self._action.topic)
        if self._setpoints is not None and not self._dry_run:
            return min(known, self._setpoints.listeners)
        return known

    @property
    def dry_run(self) -> bool:
        """Whether nothing is published."""
        return self._dry_run

    def statistics(self) -> TickStatistics | None:
        """Punctuality of the setpoints, None where there are none."""
        return None if self._setpoints is None else self._setpoints.statistics()

    def update(self, now_ns: int) -> None:
        """What is commanded has changed: where trajectories go out, send the new one. Raises BadAction."""
        if self._setpoints is None:
            self.publish(self._outlet.trajectory(now_ns))

    def publish(self, points: TrajectoryPoints | None) -> None:
        """Send a trajectory."""
        if points is not None and self._output is not None:
            self._output.publish(points)

    def publish_grippers(self, now_ns: int) -> None:
        """Beside trajectories: send the grippers that have a topic of their own, where that is due."""
        if self._output is None:
            return
        position = self._outlet.last_position(now_ns)
        if position is not None and np.isfinite(position).all():
            self._output.grippers.publish(position, now_ns)

    def destroy(self, now_ns: int) -> bool:
        """End once the robot stands still, or after 2 s; False if what sends setpoints did not come to its end."""
        ended = True
        if self._setpoints is not None:
            rest_s = self._outlet.rest_in_s(now_ns)
            if rest_s > 0.0:
                threading.Event().wait(min(rest_s, REST_S))
            ended = self._setpoints.close()
        if self._output is not None:
            self._output.destroy()
        return ended


def _scheduling(priority: int) -> str:
    if priority:
        return f"with real-time priority {priority}"
    return "without real-time priority (a user with the right rtprio would have it)"
