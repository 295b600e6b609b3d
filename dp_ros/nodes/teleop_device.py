"""A person with a gamepad (`sensor_msgs/Joy`) or a leader arm (`sensor_msgs/JointState`) as the operator.

The robot moves while the deadman is held, at the operator's speed and within the task's limits, and stops when it is
let go, the device falls silent or the emergency stop is pressed; after that the deadman has to be pressed anew. Easy to
get wrong: a leader arm stands elsewhere than the robot when it is taken up, so the robot goes there at the operator's
speed instead of jumping.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sensor_msgs.msg import JointState, Joy
from std_srvs.srv import Trigger

from dp_ros.bridge.emergency_stop import POLICY, EmergencyStopWatch
from dp_ros.bridge.operator_output import MOST_HZ, OperatorOutput, command_rate
from dp_ros.bridge.parameters import declare
from dp_ros.bridge.qos import observation_qos
from dp_ros.errors import UserError
from dp_ros.runtime.operator import OperatorMotion, drive_names
from dp_ros.task import TaskSpec

#: Fewer commands a second than that are no motion.
LEAST_HZ = 5.0
#: Nothing is this button: the device counts as held as long as it speaks.
NO_BUTTON = -1


def declare_motion(node: Any, task: TaskSpec) -> OperatorMotion:
    """The motion of an operator with the parameters that every device has. Raises UserError."""
    speed = list(
        declare(
            node,
            "speed",
            [0.0],
            f"largest speed of {', '.join(drive_names(task.action))}, units/s; [0.0]: speed_scale of the limits",
            read_only=True,
        )
    )
    scale: float = declare(
        node,
        "speed_scale",
        0.25,
        "share of the task's velocity limits, where speed is not given",
        low=0.001,
        high=1.0,
        read_only=True,
    )
    timeout_s: float = declare(
        node,
        "command_timeout_s",
        0.3,
        "a device that is silent for so long was let go, s",
        low=0.05,
        high=2.0,
        read_only=True,
    )
    hold_s: float = declare(
        node,
        "hold_s",
        2.0,
        "how long the place is commanded where the robot stopped, s",
        low=0.0,
        high=60.0,
        read_only=True,
    )
    rate_hz = command_rate(task)
    rate_hz = declare(
        node,
        "command_rate_hz",
        rate_hz,
        f"commands a second, {min(LEAST_HZ, rate_hz):g} to {MOST_HZ:g}; {rate_hz:g} by the task",
        low=min(LEAST_HZ, rate_hz),
        high=MOST_HZ,
        read_only=True,
    )
    try:
        return OperatorMotion(
            task,
            tick_s=1.0 / rate_hz,
            speed=None if speed == [0.0] else speed,
            speed_scale=scale,
            timeout_s=timeout_s,
            hold_s=hold_s,
        )
    except ValueError as error:
        raise UserError(f"parameter {error}") from None


class DeviceOperator:
    """A gamepad or a leader arm.

    Args:
        node: an rclpy node; gets the device's parameters and topics.
        task: that is demonstrated.
        kind: `joy` or `leader`.

    Raises:
        UserError: parameters that do not fit the task.
    """

    def __init__(self, node: Any, task: TaskSpec, kind: str) -> None:
        self._node, self._task = node, task
        self._motion = declare_motion(node, task)
        self._names = self._motion.names
        joy_topic: str = declare(
            node, "joy_topic", "/joy", "gamepad, also for a leader's deadman", read_only=True
        )
        self._deadman: int = declare(
            node,
            "deadman_button",
            4 if kind == "joy" else NO_BUTTON,
            "button of the gamepad that has to be held; -1: none, only with a leader arm",
            low=NO_BUTTON,
            high=63,
            read_only=True,
        )
        topic: str = declare(
            node,
            "takeover_topic",
            "/policy/operator",
            "on which every command is repeated, so that a policy yields; empty: nowhere",
            read_only=True,
        )
        policy: str = declare(
            node, "policy", POLICY, "policy node whose emergency stop counts here, too", read_only=True
        )
        self._stop = EmergencyStopWatch(node, policy, self._stopped)
        self._again = False  # the deadman has to be let go before it counts again
        node.create_service(Trigger, "~/clear_emergency_stop", self._clear_stop)
        self._held = self._deadman == NO_BUTTON
        self._held_ns = 0
        if kind == "joy":
            self._declare_axes()
        else:
            self._declare_leader()
        if kind == "joy" or self._deadman != NO_BUTTON:
            node.create_subscription(
                Joy, joy_topic, self._joy if kind == "joy" else self._button, observation_qos(lockstep=False)
            )
        self._output = OperatorOutput(node, task, self._motion, takeover_topic=topic, on_tick=self._say)
        node.get_logger().info(
            f"{kind} drives {', '.join(self._names)} on {task.action.topic}"
            + ("" if self._deadman == NO_BUTTON else f" while button {self._deadman} of {joy_topic} is held")
        )

    def close(self) -> None:
        """Nothing goes on by itself."""

    # --- gamepad ----------------------------------------------------------------------------------------

    def _declare_axes(self) -> None:
        names = self._names
        self._axes: list[int] = self._declare_each(
            "axes", names, list(range(len(names))), "axis of the gamepad for each of {}; -1: none"
        )
        self._scales: list[float] = self._declare_each(
            "axis_scales", names, [1.0] * len(names), "what each axis is multiplied with; -1.0 turns it round"
        )
        self._deadzone: float = declare(
            self._node, "deadzone", 0.05, "of a stick, of 1", low=0.0, high=0.9, read_only=True
        )
        if self._deadman == NO_BUTTON:
            raise UserError("parameter deadman_button: a gamepad needs one, got -1")

    def _joy(self, message: Any) -> None:
        if not self._pressed(message):
            self._again = False
            self._motion.let_go()
            return
        missing = [axis for axis in self._axes if axis >= len(message.axes)]
        if missing:
            self._node.get_logger().error(
                f"the gamepad has {len(message.axes)} axes, parameter axes names {missing}",
                throttle_duration_sec=5.0,
            )
            self._motion.let_go()
            return
        rates = [
            scale * self._beyond(message.axes[axis]) if axis >= 0 else 0.0
            for axis, scale in zip(self._axes, self._scales, strict=True)
        ]
        self._wish("drive", rates)

    def _beyond(self, value: float) -> float:
        """A stick's value with its dead zone taken out."""
        beyond = max(abs(value) - self._deadzone, 0.0) / (1.0 - self._deadzone)
        return math.copysign(beyond, value)

    def _pressed(self, message: Any) -> bool:
        return 0 <= self._deadman < len(message.buttons) and bool(message.buttons[self._deadman])

    # --- leader arm -------------------------------------------------------------------------------------

    def _declare_leader(self) -> None:
        if self._task.action.is_pose or self._task.action.is_velocity:
            raise UserError(
                f"task {self._task.name}: a leader arm points with its joints, this task does not command any"
            )
        names = self._task.action.command_names
        topic: str = declare(self._node, "leader_topic", "/leader/joint_states", "leader arm", read_only=True)
        self._joints: list[str] = self._declare_each("leader_joints", names, names, "its joints for {}")
        self._gains: list[float] = self._declare_each(
            "leader_scales", names, [1.0] * len(names), "what each position is multiplied with"
        )
        self._offsets: list[float] = self._declare_each(
            "leader_offsets", names, [0.0] * len(names), "what is added to it then, units"
        )
        self._node.create_subscription(
            JointState, topic, self._leader, observation_qos(lockstep=False, picture=False)
        )

    def _button(self, message: Any) -> None:
        self._held, self._held_ns = self._pressed(message), self._now_ns()
        if not self._held:
            self._again = False
            self._motion.let_go()

    def _leader(self, message: Any) -> None:
        positions = dict(zip(message.name, message.position, strict=False))
        missing = [name for name in self._joints if name not in positions]
        if missing:
            self._node.get_logger().error(
                f"the leader arm lacks joint(s) {', '.join(missing)}; it has {', '.join(message.name)}",
                throttle_duration_sec=5.0,
            )
            self._motion.let_go()
            return
        silent = self._deadman != NO_BUTTON and not self._motion.recent(self._held_ns, self._now_ns())
        if not self._held or silent:
            self._motion.let_go()
            return
        self._wish(
            "place",
            [
                gain * positions[name] + offset
                for name, gain, offset in zip(self._joints, self._gains, self._offsets, strict=True)
            ],
        )

    # --- both -------------------------------------------------------------------------------------------

    def _declare_each(self, parameter: str, names: Sequence[str], default: list[Any], text: str) -> list[Any]:
        """Declare a list with one value for each name; raises UserError for one of another length."""
        listed = ", ".join(names)
        values = list(declare(self._node, parameter, default, text.format(listed), read_only=True))
        if len(values) != len(names):
            wanted = f"{len(names)}, one for each of {listed}"
            raise UserError(f"parameter {parameter}: got {len(values)} values, expected {wanted}")
        return values

    def _wish(self, how: str, values: list[float]) -> None:
        if self._stop.problem or self._again:
            self._motion.let_go()
            return
        try:
            getattr(self._motion, how)(values, self._now_ns())
        except ValueError as error:
            self._node.get_logger().error(f"the device: {error}", throttle_duration_sec=5.0)
            self._motion.let_go()

    def _stopped(self) -> None:
        self._motion.let_go()
        self._again = self._deadman != NO_BUTTON

    def _clear_stop(self, request: Any, response: Any) -> Any:
        problem = self._stop.clear()
        response.success, response.message = not problem, problem or "the emergency stop is cleared here"
        return response

    def _say(self, now_ns: int) -> None:
        if problem := self._stop.problem or self._output.problem:
            self._node.get_logger().warning(problem, throttle_duration_sec=2.0)

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)
