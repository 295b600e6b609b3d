"""Subscriptions to everything that commands a robot, for whoever records it.

Easy to get wrong: a process that was held up finds commands that came meanwhile, and its clock says when it looks at
them, not when they were sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from dp_ros.bridge.clock import to_ns
from dp_ros.bridge.codecs import message_class
from dp_ros.bridge.command_topics import CommandTopic, command_topics
from dp_ros.bridge.qos import latched_qos, reliable_qos
from dp_ros.runtime.demonstration import DemonstrationRows
from dp_ros.task import TaskSpec

#: Commands that wait for this process while it is held up: 2 s of a 100 Hz operator.
COMMAND_DEPTH = 200


class CommandIntake:
    """Subscriptions to everything that commands a robot.

    Args:
        node: an rclpy node.
        task: topics and types.
        rows: take the commands.
        lockstep: a command's stamp is the time at which it came.
        now_ns: present time.
        operator_topic: on which an operator commands who takes over from a policy; empty: nobody does.
        takeover_topic: on which the policy says so.
        on_command: called after each message with why it could not be used, or None.

    Attributes:
        here: stamps of the last commands on the action's topic.
    """

    def __init__(
        self,
        node: Any,
        task: TaskSpec,
        rows: DemonstrationRows,
        *,
        lockstep: bool,
        now_ns: Callable[[], int],
        operator_topic: str,
        takeover_topic: str,
        on_command: Callable[[str | None], None],
    ) -> None:
        self._node, self._lockstep, self._now_ns, self._on_command = node, lockstep, now_ns, on_command
        self._own = task.action.topic
        self.here: deque[int] = deque(maxlen=64)
        self._subscriptions: list[tuple[Any, CommandTopic]] = []
        self._needed = []
        for topic in command_topics(task, rows, operator_topic, takeover_topic):
            subscription = self._subscribe(topic)
            if topic.needed:
                self._needed.append(subscription)

    def unconnected(self) -> list[str]:
        """Topics that have to command and to which nothing is connected."""
        return [s.topic_name for s in self._needed if not s.get_publisher_count()]

    def take_waiting(self) -> None:
        """Take the commands that are here but not handled yet: one of them may belong to the row that is due.

        After this process was held up, the executor takes one message of each topic in turn.
        """
        for subscription, topic in self._subscriptions:
            while True:
                with subscription.handle:
                    taken = subscription.handle.take_message(subscription.msg_type, False)
                if taken is None:
                    break
                self._handle(topic, *taken)

    def _subscribe(self, topic: CommandTopic) -> Any:
        def receive(message: Any, info: Any) -> None:
            self._handle(topic, message, info)

        qos = latched_qos() if topic.latched else reliable_qos(COMMAND_DEPTH)
        kind = message_class(topic.type)
        subscription = self._node.create_subscription(kind, topic.name, receive, qos)
        self._subscriptions.append((subscription, topic))
        return subscription

    def _handle(self, topic: CommandTopic, message: Any, info: Any) -> None:
        if self._lockstep:  # where trajectories alone command, each at the time of its stamp
            received_ns = to_ns(message.header.stamp)
            if topic.name == self._own:
                self.here.append(received_ns)
        elif self._node.get_clock().ros_time_is_active:
            received_ns = self._now_ns()
        else:
            received_ns = int(
                info["source_timestamp"]
            )  # when it was sent: this process may have been held up
        self._on_command(topic.take(message, received_ns))
