"""What people use to stop a policy or to take over: topics and services in front of the supervisor.

`~/emergency_stop` (std_msgs/Bool, true stops; and a service), `~/clear_emergency_stop` (service), `~/deadman`
(std_msgs/Bool, true while it is held, repeated) and the operator's command topic, of which only that it is live
counts. Easy to get wrong: false on `~/emergency_stop` clears nothing, or a second sender would undo the first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from dp_ros.bridge.clock import to_stamp
from dp_ros.bridge.codecs import message_class
from dp_ros.bridge.qos import latched_qos, reliable_qos
from dp_ros.msg import Takeover
from dp_ros.runtime.supervisor import Supervisor


class SafetyInputs:
    """Subscriptions and services of one node.

    Args:
        node: an rclpy node.
        supervisor: is told what comes in.
        react: called after each event, for the reaction not to wait for the next tick.
        goal_running: whether a goal is being run.
        operator_topic: on which the operator commands; empty: nobody can take over.
        operator_type: message type of that topic.
    """

    def __init__(
        self,
        node: Any,
        supervisor: Supervisor,
        *,
        react: Callable[[], None],
        goal_running: Callable[[], bool],
        operator_topic: str,
        operator_type: str,
    ) -> None:
        self._node, self._supervisor = node, supervisor
        self._react, self._goal_running, self._operator_topic = react, goal_running, operator_topic
        self._takeover = False
        qos = reliable_qos()
        self._subscriptions = [
            node.create_subscription(Bool, "~/emergency_stop", self._emergency_stop, qos),
            node.create_subscription(Bool, "~/deadman", self._deadman, qos),
        ]
        if operator_topic:
            kind = message_class(operator_type)
            # Unread bytes: that a message came is all that counts, whatever is in it.
            self._subscriptions.append(
                node.create_subscription(kind, operator_topic, self._operator, qos, raw=True)
            )
        self._services = [
            node.create_service(Trigger, "~/emergency_stop", self._press),
            node.create_service(Trigger, "~/clear_emergency_stop", self._clear),
        ]
        self._takeover_pub = node.create_publisher(Takeover, "~/takeover", latched_qos())

    def publish_takeover(self, active: bool, now_ns: int) -> None:
        """Say whether the operator commands, when that has changed."""
        if active != self._takeover:
            self._takeover = active
            message = Takeover(active=active, topic=self._operator_topic)
            message.header.stamp = to_stamp(now_ns)
            self._takeover_pub.publish(message)

    def destroy(self) -> None:
        """Remove everything."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        for service in self._services:
            self._node.destroy_service(service)
        self._node.destroy_publisher(self._takeover_pub)

    def _emergency_stop(self, message: Any) -> None:
        if message.data:
            self._supervisor.press_emergency_stop("the topic emergency_stop")
            self._react()

    def _deadman(self, message: Any) -> None:
        self._supervisor.hold_deadman(message.data, time.monotonic())
        if not message.data:
            self._react()

    def _operator(self, message: bytes) -> None:
        live = self._supervisor.operator_is_live(time.monotonic())
        self._supervisor.operator_commands(self._operator_topic, time.monotonic())
        if not live:
            self._react()

    def _press(self, request: Any, response: Any) -> Any:
        self._supervisor.press_emergency_stop("the service emergency_stop")
        self._react()
        response.success, response.message = True, "stopped; the service clear_emergency_stop releases it"
        return response

    def _clear(self, request: Any, response: Any) -> Any:
        was = self._supervisor.emergency_stopped
        refusal = self._supervisor.clear_emergency_stop(goal_running=self._goal_running())
        response.success = not refusal
        response.message = refusal or ("cleared" if was else "it was not pressed")
        return response
