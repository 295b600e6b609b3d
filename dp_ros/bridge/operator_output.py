"""An operator's motion on the robot's command topic: its state in, ticks, commands out.

Used by every node with which a person moves a robot. Easy to get wrong: a tick must not be late by more than the
device's time-out, and a tick of another node's clock is none, so ticks are of the wall clock and stamps of ROS time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.clock import Clock, ClockType

from dp_ros.bridge.clock import to_ns
from dp_ros.bridge.codecs import CodecProblem, decode, message_class
from dp_ros.bridge.outputs import TrajectoryOutput, make_output
from dp_ros.bridge.qos import observation_qos, reliable_qos
from dp_ros.errors import UserError
from dp_ros.runtime.operator import OperatorMotion, measured_position, state_stream
from dp_ros.task import TaskSpec

Floats = npt.NDArray[np.float64]
#: Commands a second where the task does not say: a trajectory joins on to the one before it.
TRAJECTORY_HZ = 20.0
MOST_HZ = 100.0


def command_rate(task: TaskSpec) -> float:
    """How many commands a second an operator sends where nobody says otherwise, Hz."""
    return min(task.action.rate_hz or max(TRAJECTORY_HZ, task.rate_hz), MOST_HZ)


class OperatorOutput:
    """Publishes what an operator commands.

    Args:
        node: an rclpy node.
        task: topic, type and limits.
        motion: the operator's; a command leaves at each of its ticks.
        takeover_topic: on which every command is repeated, so that a policy yields; empty: nowhere.
        on_tick: called before each tick, with the present time; where devices are asked.

    Raises:
        UserError: if nothing measures where the robot is.
    """

    def __init__(
        self,
        node: Any,
        task: TaskSpec,
        motion: OperatorMotion,
        *,
        takeover_topic: str = "",
        on_tick: Callable[[int], None] = lambda now_ns: None,
    ) -> None:
        self._node, self._task, self.motion, self._on_tick = node, task, motion, on_tick
        action = task.action
        self._key = state_stream(task)
        self._measured: Floats | None = None
        self._measured_ns = 0
        self._problem = ""
        if self._key is None and not action.is_velocity:
            raise UserError(
                f"task {task.name}: no stream measures {', '.join(action.command_names)}, from which an operator's "
                "motion begins; name it with action.state"
            )
        self._output = make_output(node, action)
        self._repeated = None
        if takeover_topic:
            self._repeated = node.create_publisher(message_class(action.type), takeover_topic, reliable_qos())
        if self._key is not None:
            spec = task.observations[self._key]
            node.create_subscription(
                message_class(spec.type),
                spec.topic,
                self._receive,
                observation_qos(lockstep=False, picture=False),
            )
        node.create_timer(motion.tick_s, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    @property
    def problem(self) -> str:
        """Why nothing is commanded although the device is held; empty otherwise."""
        return self._problem or self.motion.problem

    @property
    def measured_ns(self) -> int:
        """When the robot was where it was measured last; 0: never."""
        return self._measured_ns

    def measured(self, now_ns: int) -> Floats | None:
        """Where the robot is (command_dim,); None if that is unknown or too old."""
        if self._key is None or self._measured is None:
            return None
        fresh = now_ns - self._measured_ns <= round(1e9 * self._task.observations[self._key].max_age_s)
        return self._measured if fresh else None

    def _receive(self, message: Any) -> None:
        assert self._key is not None
        try:
            sample = decode(message, self._task.observations[self._key])
            self._measured = measured_position(self._task, self._key, sample)
            self._measured_ns, self._problem = to_ns(message.header.stamp), ""
        except CodecProblem as problem:
            self._measured, self._problem = None, str(problem)

    def _tick(self) -> None:
        now_ns = self._node.get_clock().now().nanoseconds
        self._on_tick(now_ns)
        state = self.motion.tick(now_ns, self.measured(now_ns))
        if state is None:
            return
        if isinstance(self._output, TrajectoryOutput):
            message = self._output.publish(self.motion.trajectory(now_ns), now_ns)
            self._output.grippers.publish(state.position, now_ns)
        else:
            self._output.publish(state, now_ns)
            message = self._output.message
        if self._repeated is not None:
            self._repeated.publish(message)
