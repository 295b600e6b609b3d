"""Commands from topics into the rows of a demonstration: trajectories, setpoints, grippers, and takeovers.

Of every type that a task can command. A trajectory counts by its own times; a setpoint from its header stamp on,
where its type has one and it is set, else from its arrival. Easy to get wrong: a process that was held up finds
commands that came meanwhile, and its clock says when it looks at them, not when they were sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from std_msgs.msg import Float64MultiArray

from dp_ros.bridge.clock import to_ns
from dp_ros.bridge.codecs import CodecProblem, decode_setpoint, decode_trajectory, message_class
from dp_ros.bridge.qos import latched_qos, reliable_qos
from dp_ros.msg import Takeover
from dp_ros.runtime.demonstration import CommandTrack, DemonstrationRows
from dp_ros.task import TaskSpec

#: Commands that wait for this process while it is held up: 2 s of a 100 Hz operator.
COMMAND_DEPTH = 200
#: A setpoint is for now; one that is stamped this far from its arrival comes from another clock.
STAMP_TOLERANCE_NS = 1_000_000_000


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
        self._node, self._task, self._rows = node, task, rows
        self._lockstep, self._now_ns, self._on_command = lockstep, now_ns, on_command
        self._names = rows.command_names
        self.here: deque[int] = deque(maxlen=64)
        self._subscriptions: list[tuple[Any, Callable[[Any, Any], str | None]]] = []
        kind, topic = message_class(task.action.type), task.action.topic
        self._needed = [self._subscribe(kind, topic, partial(self._command, rows.commands))]
        topics = {gripper.name: gripper.topic for gripper in task.action.grippers}
        for name, track in rows.grippers.items():
            self._needed.append(
                self._subscribe(
                    Float64MultiArray,
                    str(topics[name]),
                    partial(self._gripper, name, track),
                )
            )
        if operator_topic:
            self._subscribe(kind, operator_topic, partial(self._command, rows.operator))
        if takeover_topic:
            self._subscribe(Takeover, takeover_topic, self._taken_over, latched=True)

    def unconnected(self) -> list[str]:
        """Topics that have to command and to which nothing is connected."""
        return [s.topic_name for s in self._needed if not s.get_publisher_count()]

    def take_waiting(self) -> None:
        """Take the commands that are here but not handled yet: one of them may belong to the row that is due.

        After this process was held up, the executor takes one message of each topic in turn.
        """
        for subscription, handle in self._subscriptions:
            while True:
                with subscription.handle:
                    taken = subscription.handle.take_message(subscription.msg_type, False)
                if taken is None:
                    break
                self._on_command(handle(*taken))

    def _subscribe(
        self, kind: Any, topic: str, handle: Callable[[Any, Any], str | None], *, latched: bool = False
    ) -> Any:
        qos = latched_qos() if latched else reliable_qos(COMMAND_DEPTH)

        def receive(message: Any, info: Any) -> None:
            self._on_command(handle(message, info))

        subscription = self._node.create_subscription(kind, topic, receive, qos)
        self._subscriptions.append((subscription, handle))
        return subscription

    def _received_ns(self, info: Any) -> int:
        if self._node.get_clock().ros_time_is_active:
            return self._now_ns()
        return int(info["source_timestamp"])  # when it was sent: this process may have been held up since

    def _command(self, track: CommandTrack, message: Any, info: Any) -> str | None:
        if self._task.action.output == "setpoint":
            return self._setpoint(track, message, info)
        command = decode_trajectory(message)
        received_ns = command.stamp_ns if self._lockstep else self._received_ns(info)
        if track is self._rows.commands:
            self.here.append(command.stamp_ns)
        return track.add(command.stamp_ns, command.names, command.times_ns, command.positions, received_ns)

    def _setpoint(self, track: CommandTrack, message: Any, info: Any) -> str | None:
        try:
            values = decode_setpoint(message, self._task.action, self._names)
        except CodecProblem as problem:
            return f"a command on {problem}"
        received_ns = self._received_ns(info)
        stamp_ns = to_ns(message.header.stamp) if hasattr(message, "header") else 0
        if stamp_ns and abs(stamp_ns - received_ns) > STAMP_TOLERANCE_NS:
            return (
                f"a command on {self._task.action.topic} is stamped {(stamp_ns - received_ns) / 1e9:+.3f} s from its "
                "arrival; synchronise the clocks, or let it be stamped zero"
            )
        begin_ns = stamp_ns or received_ns
        return track.add(begin_ns, self._names, [0], [values], begin_ns)

    def _gripper(self, name: str, track: CommandTrack, message: Any, info: Any) -> str | None:
        if len(message.data) != 1:
            return f"a command of gripper {name} has {len(message.data)} values, expected 1"
        received_ns = self._received_ns(info)
        return track.add(received_ns, [name], [0], [list(message.data)], received_ns)

    def _taken_over(self, message: Any, info: Any) -> None:
        if self._rows.takeovers is not None:
            self._rows.takeovers.add(to_ns(message.header.stamp), message.active)
