"""Messages that command a robot as the commands of a demonstration: trajectories, setpoints, grippers, takeovers.

Of every type that a task can command; live and from a bag. A trajectory counts by its own times; a setpoint from its
header stamp on, where its type has one and it is set, else from when it was sent. Easy to get wrong: a gripper with a
topic of its own is commanded when it changes, so what was sent last stands until the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from dp_ros.bridge.clock import to_ns
from dp_ros.bridge.codecs import CodecProblem, decode_setpoint, decode_trajectory
from dp_ros.runtime.demonstration import CommandTrack, DemonstrationRows
from dp_ros.task import TaskSpec

GRIPPER_TYPE, TAKEOVER_TYPE = "std_msgs/msg/Float64MultiArray", "dp_ros/msg/Takeover"
#: Between the operator's last command and the policy's first: its timeout, and an inference.
TAKEOVER_HOLD_NS = 1_500_000_000
#: Rows wait that long for the policy to notice, and say, that the operator took over.
TAKEOVER_NOTICED_NS = 100_000_000
#: A setpoint is for now; one that is stamped this far from its arrival comes from another clock.
STAMP_TOLERANCE_NS = 1_000_000_000


@dataclass(frozen=True)
class CommandTopic:
    """A topic on which somebody commands.

    Attributes:
        name: of the topic. type: of its messages.
        take: takes a message and when it was sent, ns; returns why it cannot be used, or None.
        needed: without it there is no demonstration. latched: the last message comes to those who join late.
    """

    name: str
    type: str
    take: Callable[[Any, int], str | None]
    needed: bool = False
    latched: bool = False


def command_topics(
    task: TaskSpec, rows: DemonstrationRows, operator_topic: str, takeover_topic: str
) -> list[CommandTopic]:
    """Every topic that commands, with what takes its messages into `rows`.

    Args:
        task: topics and types.
        rows: take the commands.
        operator_topic: on which an operator commands who takes over from a policy; empty: nobody does.
        takeover_topic: on which the policy says so; empty: nobody does.
    """
    action = task.action
    take = _setpoint if action.output == "setpoint" else _trajectory
    topics = [CommandTopic(action.topic, action.type, partial(take, task, rows, rows.commands), needed=True)]
    own = {gripper.name: str(gripper.topic) for gripper in action.grippers}
    topics += [
        CommandTopic(own[name], GRIPPER_TYPE, partial(_gripper, name, track), needed=True)
        for name, track in rows.grippers.items()
    ]
    if operator_topic:
        topics.append(CommandTopic(operator_topic, action.type, partial(take, task, rows, rows.operator)))
    if takeover_topic:
        topics.append(CommandTopic(takeover_topic, TAKEOVER_TYPE, partial(_takeover, rows), latched=True))
    return topics


def _trajectory(
    task: TaskSpec, rows: DemonstrationRows, track: CommandTrack, message: Any, sent_ns: int
) -> str | None:
    command = decode_trajectory(message)
    return track.add(command.stamp_ns, command.names, command.times_ns, command.positions, sent_ns)


def _setpoint(
    task: TaskSpec, rows: DemonstrationRows, track: CommandTrack, message: Any, sent_ns: int
) -> str | None:
    try:
        values = decode_setpoint(message, task.action, rows.command_names)
    except CodecProblem as problem:
        return f"a command on {problem}"
    stamp_ns = to_ns(message.header.stamp) if hasattr(message, "header") else 0
    if stamp_ns and abs(stamp_ns - sent_ns) > STAMP_TOLERANCE_NS:
        return (
            f"a command on {task.action.topic} is stamped {(stamp_ns - sent_ns) / 1e9:+.3f} s from its "
            "arrival; synchronise the clocks, or let it be stamped zero"
        )
    begin_ns = stamp_ns or sent_ns
    return track.add(begin_ns, rows.command_names, [0], [values], begin_ns)


def _gripper(name: str, track: CommandTrack, message: Any, sent_ns: int) -> str | None:
    if len(message.data) != 1:
        return f"a command of gripper {name} has {len(message.data)} values, expected 1"
    return track.add(sent_ns, [name], [0], [list(message.data)], sent_ns)


def _takeover(rows: DemonstrationRows, message: Any, sent_ns: int) -> str | None:
    if rows.takeovers is not None:
        rows.takeovers.add(to_ns(message.header.stamp), message.active)
    return None
