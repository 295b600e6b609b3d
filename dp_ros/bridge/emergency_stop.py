"""The emergency stop as those see it who move the robot beside the policy: an operator, a replay.

It is latched: the policy node's status says so where one runs, whether it was pressed on the topic, by the service or
before this began; a message on the topic counts at once, also where no policy runs. Easy to get wrong: a status that
was sent before the policy heard of it says nothing, so what the topic latched here goes when the policy's status has
said that it was stopped and then that it is not, or when somebody clears it here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from std_msgs.msg import Bool

from dp_ros.bridge.qos import reliable_qos
from dp_ros.msg import PolicyStatus

POLICY = "/policy"


class EmergencyStopWatch:
    """Listens for the emergency stop.

    Args:
        node: an rclpy node.
        policy: name of the policy node, whose topics are `POLICY/emergency_stop` and `POLICY/status`.
        on_stop: called when it was not stopped and now is.
    """

    def __init__(self, node: Any, policy: str = POLICY, on_stop: Callable[[], None] = lambda: None) -> None:
        self._node, self._on_stop = node, on_stop
        self._status_topic = f"{policy}/status"
        self._policy: bool | None = None  # what its status said last
        self._pressed = False  # on the topic
        node.create_subscription(Bool, f"{policy}/emergency_stop", self._topic, reliable_qos())
        node.create_subscription(PolicyStatus, self._status_topic, self._status, reliable_qos())

    @property
    def problem(self) -> str:
        """Why nothing may move, for a person; empty where it may."""
        if self._policy:
            return "the emergency stop is latched; clear it with the policy's service clear_emergency_stop"
        return "the emergency stop was pressed" if self._pressed else ""

    @property
    def unheard(self) -> bool:
        """Whether a policy runs that has not yet said whether it is stopped."""
        return self._policy is None and self._node.count_publishers(self._status_topic) > 0

    def clear(self) -> str:
        """Let go of what the topic latched; returns why not, for a person, while the policy is stopped."""
        if self._policy:
            return self.problem
        self._pressed = False
        return ""

    def _topic(self, message: Any) -> None:
        if message.data:
            self._change(pressed=True, policy=self._policy)

    def _status(self, message: Any) -> None:
        stopped = bool(message.emergency_stop)
        cleared = self._policy is True and not stopped
        self._change(pressed=self._pressed and not cleared, policy=stopped)

    def _change(self, *, pressed: bool, policy: bool | None) -> None:
        before = self.problem
        self._pressed, self._policy = pressed, policy
        if self.problem and not before:
            self._on_stop()
