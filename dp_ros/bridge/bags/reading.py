"""Bags as recordings: the rows that the recorder would have made of the same messages.

Messages go in their order of arrival through the codecs, the alignment and the refusals of live recording, so nothing
is filled in: where a stream fails or the operator pauses, an episode ends, and the next begins where both are there
again. A bag that says itself where its episodes are (`episode_marks`) is taken at its word. Easy to get wrong: a row is
due only when no sample that belongs to it can come any more, and a bag's time is when messages arrived.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rclpy.serialization import deserialize_message

from dp_ros.bridge.bags.bag_files import bags_of, messages_of, topics_of
from dp_ros.bridge.bags.episode_marks import MARK_TOPIC, MARK_TYPE, EpisodeMark
from dp_ros.bridge.clock import to_ns
from dp_ros.bridge.codecs import CodecProblem, decode, message_class
from dp_ros.bridge.command_topics import TAKEOVER_HOLD_NS, TAKEOVER_NOTICED_NS, CommandTopic, command_topics
from dp_ros.data.durable_store import complete_or_absent
from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.data.layout import NO_SEED
from dp_ros.errors import UserError
from dp_ros.runtime.demonstration import CommandGapError, DemonstrationRows
from dp_ros.runtime.observation import BadObservation, ObservationProblem
from dp_ros.task import TaskSpec

#: As the recorder's parameters have them.
HOLD_STEPS = 3.0
OPERATOR_TOPIC = "/policy/operator"
#: Shorter stretches are no demonstration.
MIN_STEPS = 2
_SAID = 3  # reasons that are listed


def import_bag(
    source: Path,
    task: TaskSpec,
    out: Path,
    progress: Callable[[], None],
    *,
    takeover_topic: str = "",
    operator_topic: str = OPERATOR_TOPIC,
    min_steps: int = MIN_STEPS,
) -> str:
    """Make a recording of a bag, or of a folder of bags.

    Args:
        source: a rosbag2 folder, an MCAP or SQLite file, or a folder of these.
        task: topics, types, rate.
        out: the recording to make.
        progress: called after each episode.
        takeover_topic: on which a policy said that an operator had taken over; marks these steps.
        operator_topic: on which the operator commanded then.
        min_steps: shorter stretches are left out.

    Returns:
        What was done, for a person.

    Raises:
        UserError: if a bag cannot be read, lacks a topic or has it with another type, or gives no episode. Nothing is
            written then.
    """
    paths = bags_of(source)
    ends: Counter[str] = Counter()
    short = refused = 0
    with (
        complete_or_absent(out) as draft,
        EpisodeWriter(draft, task, takeover=bool(takeover_topic)) as writer,
    ):
        for path in paths:
            cutter = _Cutter(task, operator_topic if takeover_topic else "", takeover_topic)
            cutter.check(path)
            for rows, mark, why in cutter.episodes(path):
                if len(rows) < min_steps:
                    short += 1
                    continue
                for row in rows:
                    writer.add(row)
                ends[why] += 1
                seed, success, info = (NO_SEED, None, {}) if mark is None else mark.said()
                writer.save(seed, success=success, info={**info, "bag": path.name})
                progress()
            refused += cutter.refused
        if not writer.n_episodes:
            raise UserError(
                f"{source}: no episode came of it: {short} stretches shorter than {min_steps} steps, "
                f"{refused} messages refused{cutter.hint()}"
            )
        done = f"{writer.n_episodes} episodes, {writer.n_rows} steps, of {len(paths)} bag(s)"
    said = "; ".join(f"{count} ended because {why}" for why, count in ends.most_common(_SAID))
    left = f"; {short} shorter than {min_steps} steps left out" if short else ""
    left += f"; {refused} messages refused" if refused else ""
    return f"{done}; {said}{left}"


class _Cutter:
    """Cuts a bag into episodes, in the way in which the recorder makes rows."""

    def __init__(self, task: TaskSpec, operator_topic: str, takeover_topic: str) -> None:
        hold_ns = round(task.dt_ns * HOLD_STEPS)
        if takeover_topic:
            hold_ns = max(hold_ns, TAKEOVER_HOLD_NS)
        self._task = task
        self._rows = DemonstrationRows(task, hold_ns, takeovers=bool(takeover_topic))
        self._commands: dict[str, CommandTopic] = {
            topic.name: topic for topic in command_topics(task, self._rows, operator_topic, takeover_topic)
        }
        self._streams = {spec.topic: [] for spec in task.observations.values()}  # type: dict[str, list[str]]
        for key, spec in task.observations.items():
            self._streams[spec.topic].append(key)
        self._max_age_ns = round(1e9 * max(spec.max_age_s for spec in task.observations.values()))
        self._due_ns: list[int] = []
        self._mark: EpisodeMark | None = None
        self._marked = False  # the bag says where its episodes are
        self._taken: list[dict[str, Any]] = []
        self._problem = ""
        self.refused = 0

    def check(self, path: Path) -> None:
        """Refuse a bag that lacks a topic of the task, or has it with another type."""
        found = topics_of(path)
        needed = {spec.topic: spec.type for spec in self._task.observations.values()}
        needed |= {topic.name: topic.type for topic in self._commands.values() if topic.needed}
        held = ", ".join(f"{name} ({kind})" for name, kind in sorted(found.items())) or "nothing"
        for name in needed:
            if name not in found:
                raise UserError(f"{path}: has no {name}, which task {self._task.name} names; it holds {held}")
        known = needed | {topic.name: topic.type for topic in self._commands.values()}
        for name, kind in known.items():
            if found.get(name, kind) != kind:
                raise UserError(f"{path}: {name} has type {found[name]}, task {self._task.name} says {kind}")
        self._marked = found.get(MARK_TOPIC) == MARK_TYPE
        self._types = {name: message_class(kind) for name, kind in known.items()}
        if self._marked:
            self._types[MARK_TOPIC] = message_class(MARK_TYPE)

    def hint(self) -> str:
        """The last reason for which something could not be used."""
        return f"; the last one: {self._problem}" if self._problem else ""

    def episodes(self, path: Path) -> Iterator[tuple[list[dict[str, Any]], EpisodeMark | None, str]]:
        """Rows of each episode, what the bag says of it, and why it ended."""
        log_ns = 0
        for topic, data, log_ns in messages_of(path, list(self._types)):
            try:
                message = deserialize_message(data, self._types[topic])
            except (
                Exception
            ) as error:  # a message may hold anything; what it makes the library raise is its own
                self._refuse(f"{topic}: {type(error).__name__}: {error}")
                continue
            if topic == MARK_TOPIC:
                yield from self._marked_at(message, log_ns)
            elif topic in self._commands:
                problem = self._commands[topic].take(message, log_ns)
                if problem is not None:
                    self._refuse(problem)
            else:
                self._observe(topic, message, log_ns)
            yield from self._advance(log_ns)
        yield from self._advance(log_ns, last=True)
        yield from self._end("the bag ends")

    def _observe(self, topic: str, message: Any, log_ns: int) -> None:
        buffer, anchor = self._rows.buffer, self._task.anchor
        for key in self._streams[topic]:
            newest_ns = buffer.newest_ns(anchor)
            try:
                value = decode(message, self._task.observations[key])
                buffer.add(key, to_ns(message.header.stamp), value, now_ns=log_ns)
            except (BadObservation, CodecProblem) as problem:
                self._refuse(str(problem))
                continue
            searching = not self._marked and self._rows.first_ns is None
            if searching and buffer.newest_ns(anchor) not in (None, newest_ns):
                self._due_ns.append(buffer.newest_ns(anchor) or 0)

    def _marked_at(
        self, message: Any, log_ns: int
    ) -> Iterator[tuple[list[dict[str, Any]], EpisodeMark | None, str]]:
        try:
            mark = EpisodeMark.from_json(message.data)
        except ValueError as error:
            self._refuse(f"{MARK_TOPIC}: {error}")
            return
        if mark.event == "begin":
            yield from self._end("another begins")
            self._mark, self._due_ns = mark, [mark.begin_ns]
        elif self._mark is not None:
            self._mark = mark
            yield from self._advance(log_ns, last=True)
            yield from self._end("the bag says so")

    def _advance(
        self, now_ns: int, *, last: bool = False
    ) -> Iterator[tuple[list[dict[str, Any]], EpisodeMark | None, str]]:
        while self._due_ns and (last or self._ready(self._due_ns[0], now_ns)):
            time_ns = self._due_ns.pop(0)
            end_ns = now_ns if self._mark is None or self._mark.end_ns is None else self._mark.end_ns
            if time_ns > end_ns:
                return
            begun = self._rows.first_ns is not None
            try:
                row = self._rows.row(time_ns)
            except (ObservationProblem, CommandGapError) as problem:
                self._problem = str(problem)
                if begun:
                    yield from self._end(self._problem)
                continue
            if row is not None:
                self._taken.append(row)
                self._due_ns = [time_ns + self._task.dt_ns]
            elif begun:
                yield from self._end("the operator paused")
            elif self._mark is not None:
                self._due_ns = [time_ns + self._task.dt_ns]

    def _ready(self, time_ns: int, now_ns: int) -> bool:
        """Whether everything that belongs to `time_ns` is here, or will not come any more."""
        if self._rows.takeovers is not None and now_ns < time_ns + TAKEOVER_NOTICED_NS:
            return False
        buffer = self._rows.buffer
        late = any((buffer.newest_ns(key) or 0) < time_ns for key in self._task.observations)
        return not late or now_ns - time_ns > self._max_age_ns

    def _end(self, why: str) -> Iterator[tuple[list[dict[str, Any]], EpisodeMark | None, str]]:
        if self._taken:
            yield self._taken, self._mark, why
        self._taken, self._mark, self._due_ns = [], None, []
        self._rows.begin()

    def _refuse(self, problem: str) -> None:
        self.refused += 1
        self._problem = problem
