"""A recording as one MCAP file with the ROS messages of its task, for Foxglove, `ros2 bag` and others.

The episodes follow one another in time, each at the time at which it was saved if the recording says so. Beside the
streams and commands there is a topic that says where episodes begin and end (`episode_marks`), and the task is among
the file's metadata. Easy to get wrong: messages are stored in the order of their times, so that reading the file from
its beginning is playing it.
"""

from __future__ import annotations

import calendar
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mcap.writer import CompressionType, Writer
from rclpy.serialization import serialize_message
from std_msgs.msg import Float64MultiArray, String

from dp_ros.bridge.bags.definitions import message_definition
from dp_ros.bridge.bags.encoders import encode_command, encode_observation
from dp_ros.bridge.bags.episode_marks import MARK_TOPIC, MARK_TYPE, EpisodeMark
from dp_ros.bridge.bags.reading import OPERATOR_TOPIC
from dp_ros.bridge.clock import to_stamp
from dp_ros.bridge.command_topics import GRIPPER_TYPE, TAKEOVER_TYPE
from dp_ros.data.durable_store import complete_or_absent
from dp_ros.data.layout import ACTION, TAKEOVER, TIMESTAMP, UNMARKED
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.surgery import recorded_task
from dp_ros.errors import UserError
from dp_ros.msg import Takeover
from dp_ros.runtime.action_space import ActionSpace
from dp_ros.runtime.demonstration import DemonstrationRows
from dp_ros.task import TaskSpec

TAKEOVER_TOPIC = "/policy/takeover"
#: Between two episodes; longer than any command holds.
GAP_NS = 5_000_000_000
#: When the first episode begins if nobody knows: 2020-01-01.
EPOCH_NS = 1_577_836_800_000_000_000
_CHUNK_BYTES = 2**22

Timed = tuple[int, str, Any]


def export_mcap(
    buffer: ReplayBuffer, episodes: Sequence[int], out: Path, progress: Callable[[], None]
) -> str:
    """Write episodes as ROS messages.

    Args:
        buffer: the recording.
        episodes: indices, in the order in which they are written.
        out: the file to make; must end in .mcap.
        progress: called after each episode.

    Returns:
        What was done, for a person.

    Raises:
        UserError: if the recording does not name its task, or the disk refuses; nothing is there then.
    """
    if out.suffix != ".mcap":
        raise UserError(f"{out}: expected a name that ends in .mcap, such as {out.stem}.mcap")
    task = recorded_task(buffer)
    topics = Counter(spec.topic for spec in task.observations.values())
    if shared := [topic for topic, streams in topics.items() if streams > 1]:
        raise UserError(
            f"{buffer.path}: several streams of task {task.name} come from {', '.join(shared)}; its messages cannot be "
            "made again of what was recorded of each. Keep the bags of raw_streams instead"
        )
    count, end_ns = 0, EPOCH_NS - GAP_NS
    with complete_or_absent(out) as draft, draft.open("xb") as file:
        writer = Writer(file, chunk_size=_CHUNK_BYTES, compression=CompressionType.ZSTD)
        writer.start(profile="ros2", library="dp_ros")
        channels = _Channels(writer, task, TAKEOVER in buffer)
        for index in episodes:
            for time_ns, topic, message in _messages(buffer, task, index, end_ns + GAP_NS):
                writer.add_message(
                    channels.by_topic[topic],
                    time_ns,
                    serialize_message(message),
                    time_ns,
                    channels.next(topic),
                )
                count, end_ns = count + 1, time_ns
            progress()
        said = {"task": yaml.safe_dump(task.model_dump(mode="json")), "task_digest": task.digest()}
        writer.add_metadata("dp_ros", {**said, "recording": buffer.path.name})
        writer.finish()
        file.flush()
        os.fsync(file.fileno())
    return f"{len(episodes)} episodes, {count} messages, {out.stat().st_size / 1e6:.1f} MB"


class _Channels:
    """The channel of each topic, and how many messages it has."""

    def __init__(self, writer: Writer, task: TaskSpec, takeovers: bool) -> None:
        kinds = {spec.topic: spec.type for spec in task.observations.values()}
        kinds |= {str(g.topic): GRIPPER_TYPE for g in task.action.grippers if g.topic is not None}
        kinds |= {task.action.topic: task.action.type, MARK_TOPIC: MARK_TYPE}
        if takeovers:
            kinds |= {OPERATOR_TOPIC: task.action.type, TAKEOVER_TOPIC: TAKEOVER_TYPE}
        schemas = {
            kind: writer.register_schema(kind, "ros2msg", message_definition(kind).encode())
            for kind in sorted(set(kinds.values()))
        }
        self.by_topic = {
            topic: writer.register_channel(topic, "cdr", schemas[kind], {"offered_qos_profiles": ""})
            for topic, kind in kinds.items()
        }
        self._counts = dict.fromkeys(kinds, 0)

    def next(self, topic: str) -> int:
        """Number of the topic's next message."""
        self._counts[topic] += 1
        return self._counts[topic] - 1


def _messages(buffer: ReplayBuffer, task: TaskSpec, index: int, earliest_ns: int) -> Iterator[Timed]:
    """Everything of an episode in the order of time."""
    start, stop = int(buffer.episode_ends[index - 1]) if index else 0, int(buffer.episode_ends[index])
    info = buffer.episode_info[index]
    times_s = buffer.rows(TIMESTAMP, start, stop)
    begin_ns = max(earliest_ns, _saved_ns(info) - round(1e9 * float(times_s[-1])))
    times_ns = [begin_ns + round(1e9 * float(at_s - times_s[0])) for at_s in times_s]
    latest_ns = round(1e9 * max(spec.latency_s for spec in task.observations.values()))
    success = int(buffer.episode_success[index])
    mark = EpisodeMark(
        "begin",
        index,
        begin_ns,
        seed=int(buffer.episode_seeds[index]),
        success=None if success == UNMARKED else bool(success),
        info=info,
    )
    yield begin_ns, MARK_TOPIC, String(data=mark.to_json())
    waiting: list[Timed] = []  # messages that are stamped after the next row's time
    actions = ActionSpace.absolute(task).to_commands(buffer.rows(ACTION, start, stop).astype(np.float64))
    for row, time_ns in zip(range(start, stop), times_ns, strict=True):
        due = sorted((m for m in waiting if m[0] < time_ns), key=lambda timed: timed[0])
        yield from due
        waiting = [m for m in waiting if m[0] >= time_ns]
        taken_over = bool(buffer.rows(TAKEOVER, row, row + 1)[0]) if TAKEOVER in buffer else None
        before = (
            bool(buffer.rows(TAKEOVER, row - 1, row)[0]) if taken_over is not None and row > start else None
        )
        yield from _commands(task, actions[row - start], time_ns, taken_over, before)
        for key, spec in task.observations.items():
            message = encode_observation(buffer.rows(key, row, row + 1)[0], spec, time_ns)
            waiting.append((time_ns + round(1e9 * spec.latency_s), spec.topic, message))
    yield from sorted(waiting, key=lambda timed: timed[0])
    end = replace(mark, event="end", end_ns=times_ns[-1])
    yield times_ns[-1] + latest_ns, MARK_TOPIC, String(data=end.to_json())


def _commands(
    task: TaskSpec, command: Any, time_ns: int, taken_over: bool | None, before: bool | None
) -> Iterator[Timed]:
    """What is commanded at a row, and by whom."""
    action = task.action
    own = {gripper.name: str(gripper.topic) for gripper in action.grippers if gripper.topic is not None}
    values = dict(zip(action.command_names, command.tolist(), strict=True))
    names = DemonstrationRows(task, 1).command_names
    if taken_over is not None and taken_over != before:
        message = Takeover(active=taken_over, topic=OPERATOR_TOPIC)
        message.header.stamp = to_stamp(time_ns)
        yield time_ns, TAKEOVER_TOPIC, message
    topic = OPERATOR_TOPIC if taken_over else action.topic
    yield time_ns, topic, encode_command([values[n] for n in names], names, action, time_ns, task.dt_ns)
    for name, gripper_topic in own.items():
        yield time_ns, gripper_topic, Float64MultiArray(data=[values[name]])


def _saved_ns(info: dict[str, str]) -> int:
    try:
        return calendar.timegm(time.strptime(info.get("saved_at", ""), "%Y-%m-%dT%H:%M:%SZ")) * 10**9
    except (ValueError, OverflowError):
        return 0
