"""Raw messages from the topics of a task into the bag of the episode in progress.

Beside the subscriptions that decode, because a bag holds what came, also what a task does not name or a codec
refuses. Easy to get wrong: a command may have been sent before the episode began and still be in force, so the last
one of each topic that commands opens the bag.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rclpy.qos import QoSProfile

from dp_ros.bridge.bags.definitions import message_definition
from dp_ros.bridge.bags.raw_bag import BagProblem, RawBag, RawMessage, set_aside_unfinished
from dp_ros.bridge.codecs import message_class
from dp_ros.bridge.command_intake import COMMAND_DEPTH
from dp_ros.bridge.command_topics import CommandTopic
from dp_ros.bridge.observations import CAUGHT_UP
from dp_ros.bridge.qos import latched_qos, observation_qos, reliable_qos
from dp_ros.task import TaskSpec

#: Which streams are recorded as they come: none, all but pictures, or all.
RawStreams = Literal["none", "vectors", "all"]


def raw_folder(recording: Path) -> Path:
    """Where the raw messages of the episodes of a recording are."""
    return recording.with_name(f"{recording.stem}.raw")


class RawIntake:
    """Subscriptions, and the bag of the episode in progress.

    Args:
        node: an rclpy node.
        task: topics and types.
        recording: beside which the bags go.
        streams: which of the observations.
        commands: what commands; always taken.

    Attributes:
        recovery: what a killed recorder had left and where it is now, for a person; empty if nothing.
        problem: why the bag in progress is not complete; empty while it is.
    """

    def __init__(
        self,
        node: Any,
        task: TaskSpec,
        recording: Path,
        streams: RawStreams,
        commands: Sequence[CommandTopic],
    ) -> None:
        self._node, self._folder = node, raw_folder(recording)
        kept = ", ".join(map(str, set_aside_unfinished(self._folder)))
        self.recovery = f"raw messages of an episode that was never saved are in {kept}" if kept else ""
        self.problem = ""
        self._bag: RawBag | None = None
        self._taking = False
        self._last: dict[str, RawMessage] = {}
        self._topics: dict[str, tuple[str, str]] = {}
        self._subscriptions: dict[str, Any] = {}
        self._commanding: set[str] = set()
        for spec in task.observations.values():
            if streams == "all" or (streams == "vectors" and not spec.is_image):
                self._subscribe(spec.topic, spec.type, observation_qos(lockstep=False, picture=spec.is_image))
        for command in commands:
            qos = latched_qos() if command.latched else reliable_qos(COMMAND_DEPTH)
            self._subscribe(command.name, command.type, qos, commands=True)

    def begin(self) -> None:
        """Begin the bag of an episode. Raises BagProblem if it cannot be made."""
        self.discard()  # of an episode of which no step came
        self.problem = ""
        self._bag = RawBag(self._folder, self._topics)
        self._taking = True
        for message in self._last.values():
            self._put(message)

    def stop(self) -> None:
        """Take no more messages for the bag in progress but those that are here."""
        if self._taking:
            for topic in self._subscriptions:
                self._take_waiting(topic)
        self._taking = False

    def save(self) -> Path | None:
        """Complete the bag in progress; can be repeated. None if it cannot be completed: see `problem`."""
        self.stop()
        if self._bag is None:
            return None
        try:
            return self._bag.save()
        except BagProblem as problem:
            self.problem, self._bag = str(problem), None
            return None

    def forget(self) -> None:
        """What was saved is somebody else's now."""
        self._bag = None

    def discard(self) -> None:
        """Remove the bag in progress."""
        self._taking = False
        if self._bag is not None:
            self._bag.discard()
        self._bag = None

    def _subscribe(self, topic: str, kind: str, qos: QoSProfile, *, commands: bool = False) -> None:
        if topic in self._subscriptions:
            return
        if commands:
            self._commanding.add(topic)
        self._topics[topic] = (kind, message_definition(kind))

        def receive(data: Any, info: Any) -> None:
            self._handle(topic, data, info)
            self._take_waiting(topic)

        self._subscriptions[topic] = self._node.create_subscription(
            message_class(kind), topic, receive, qos, raw=True
        )

    def _take_waiting(self, topic: str) -> None:
        """Take what waits of a topic: the executor takes one message at a time, too few of a fast stream."""
        subscription = self._subscriptions[topic]
        for _ in range(CAUGHT_UP):
            with subscription.handle:
                taken = subscription.handle.take_message(subscription.msg_type, True)
            if taken is None:
                return
            self._handle(topic, *taken)

    def _handle(self, topic: str, data: Any, info: Any) -> None:
        clock = self._node.get_clock()
        log_ns = clock.now().nanoseconds if clock.ros_time_is_active else int(info["received_timestamp"])
        sent_ns = log_ns if clock.ros_time_is_active else int(info["source_timestamp"])
        message = RawMessage(
            topic, bytes(data), log_ns, sent_ns, int(info["publication_sequence_number"] or 0)
        )
        if topic in self._commanding:
            self._last[topic] = message
        if self._taking:
            self._put(message)

    def _put(self, message: RawMessage) -> None:
        assert self._bag is not None
        try:
            self._bag.put(message)
        except BagProblem as problem:
            self.problem, self._taking = str(problem), False
