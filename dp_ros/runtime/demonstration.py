"""Rows of a demonstration: what was observed and what was commanded, on one time grid.

Samples and commands come in as they arrive; `row` gives what belongs to one grid time. A gap ends the
episode, nothing is filled in. Where an operator may take over from a policy, both command, and what counts is the
operator while the takeover lasts. Easy to get wrong: the command that belongs to an observation is the one in
force at the same time, which may have been sent earlier and holds only for a while; a gripper with a topic of its
own is commanded when it changes, so its command holds until the next.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_ros.runtime.action_space import ActionSpace
from dp_ros.runtime.observation import ObservationBuffer
from dp_ros.task import GripperSpec, TaskSpec

_KEPT_COMMANDS = 512
#: Rows may be asked for this much later than windows: while slow streams catch up after a hold-up.
_HISTORY_S = 1.0
#: A command that holds until the next one.
_FOR_EVER_NS = 2**62


class CommandGapError(RuntimeError):
    """The operator stopped commanding and went on later."""


@dataclass(frozen=True)
class _Command:
    start_ns: int
    times_ns: list[int]
    positions: NDArray[np.float64]


class CommandTrack:
    """The operator's commands: which position was commanded at a time.

    Args:
        names: joints of an action, in its order.
        hold_ns: how long a command's last position counts as commanded. The robot may hold it longer, but a
            demonstration goes on only while the operator does.
    """

    def __init__(self, names: Sequence[str], hold_ns: int) -> None:
        self._names, self._hold_ns = list(names), hold_ns
        self._commands: deque[_Command] = deque(maxlen=_KEPT_COMMANDS)

    def add(
        self,
        stamp_ns: int,
        names: Sequence[str],
        times_ns: Sequence[int],
        positions: Sequence[Sequence[float]],
        received_ns: int,
    ) -> str | None:
        """Take a command, a trajectory of one or more points.

        Args:
            stamp_ns: header stamp; 0 means from now on. names: joint names, any order. times_ns:
                time_from_start of each point. positions: position of each point. received_ns: when it
                arrived; a trajectory that had ended by then was never executed and is ignored.

        Returns:
            None, or why the command cannot be used, for a person.
        """
        if sorted(names) != sorted(self._names):
            return f"a command names joints {list(names)}, the task says {self._names}"
        if not times_ns or any(b <= a for a, b in zip(times_ns, times_ns[1:], strict=False)):
            return "a command has no points, or their time_from_start does not increase"
        if any(len(position) != len(names) for position in positions) or len(positions) != len(times_ns):
            return f"a command has points without a position for each of {list(names)}"
        values = np.array(positions, dtype=np.float64)[:, [list(names).index(name) for name in self._names]]
        if not np.isfinite(values).all():
            return "a command has a position that is not a finite number"
        begin_ns = stamp_ns or received_ns
        points_ns = [begin_ns + time_ns for time_ns in times_ns]
        if points_ns[-1] >= received_ns:
            self._commands.append(_Command(begin_ns, points_ns, values))
        return None

    def at(self, time_ns: int) -> NDArray[np.float64] | None:
        """Commanded position (n,) at `time_ns`, linear between points; None if no command was in force."""
        for command in reversed(self._commands):
            if command.start_ns <= time_ns:
                if command.times_ns[-1] <= time_ns - self._hold_ns:
                    return None
                columns = command.positions.T
                return np.array([np.interp(time_ns, command.times_ns, column) for column in columns])
        return None

    def began_ns(self, time_ns: int) -> int:
        """When the command that counts at `time_ns`, or counted last, began; -1: there was none."""
        return next((c.start_ns for c in reversed(self._commands) if c.start_ns <= time_ns), -1)

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been commanded."""
        return not self._commands

    def clear(self) -> None:
        """Forget every command."""
        self._commands.clear()


class TakeoverTrack:
    """Since when an operator or the policy has been commanding."""

    def __init__(self) -> None:
        self._stamps: list[int] = []
        self._active: list[bool] = []

    def add(self, stamp_ns: int, active: bool) -> None:
        """Take a change, which holds from its stamp on."""
        index = bisect.bisect_right(self._stamps, stamp_ns)
        self._stamps.insert(index, stamp_ns)
        self._active.insert(index, active)
        del self._stamps[:-_KEPT_COMMANDS], self._active[:-_KEPT_COMMANDS]

    def at(self, time_ns: int) -> bool:
        """Whether the operator commanded at `time_ns`."""
        index = bisect.bisect_right(self._stamps, time_ns)
        return index > 0 and self._active[index - 1]

    def clear(self) -> None:
        """Forget the past but not who commands."""
        self._stamps, self._active = ([0], self._active[-1:]) if self._active else ([], [])


class DemonstrationRows:
    """Rows of the episode being recorded.

    Args:
        task: streams and action.
        hold_ns: see `CommandTrack`.
        takeovers: an operator may take over from a policy: rows have `takeover`, 1 where one had.

    Attributes:
        buffer: takes the samples.
        commands: takes what is commanded on the action's topic: command names but those of `grippers`.
        grippers: takes the commands of each gripper that has a topic of its own.
        operator: takes what the operator commands who takes over from a policy.
        takeovers: who commands; None where nobody takes over.
        n_rows: rows given since `begin`.
    """

    def __init__(self, task: TaskSpec, hold_ns: int, *, takeovers: bool = False) -> None:
        self._task, action = task, task.action
        self.buffer = ObservationBuffer(task, history_s=_HISTORY_S)
        own_topic = [gripper.name for gripper in action.grippers if gripper.topic is not None]
        self._names = [name for name in action.command_names if name not in own_topic]
        self.commands = CommandTrack(self._names, hold_ns)
        self.operator = CommandTrack(self._names, hold_ns)
        self.grippers = {name: CommandTrack([name], _FOR_EVER_NS) for name in own_topic}
        self.takeovers = TakeoverTrack() if takeovers else None
        # Of relative actions training makes what counts from the observation.
        self._space = ActionSpace.absolute(task)
        self._as_sent = [gripper.name for gripper in action.grippers if _sent_as_said(gripper)]
        self.begin()

    @property
    def command_names(self) -> list[str]:
        """What is commanded on the action's own topic."""
        return list(self._names)

    def forget_commands(self) -> None:
        """Forget what was commanded: the clock was set back."""
        for track in (self.commands, self.operator, *self.grippers.values()):
            track.clear()
        if self.takeovers is not None:
            self.takeovers.clear()

    def uncommanded(self) -> list[str]:
        """Topics on which nothing has been commanded."""
        silent = [] if not (self.commands.is_empty and self.operator.is_empty) else [self._task.action.topic]
        topics = {gripper.name: str(gripper.topic) for gripper in self._task.action.grippers}
        return silent + [topics[name] for name, track in self.grippers.items() if track.is_empty]

    def begin(self) -> None:
        """Start an episode; its first row is the first grid time at which the operator commands."""
        self.n_rows = 0
        self.first_ns: int | None = None
        self._stopped_ns: int | None = None

    def row(self, time_ns: int) -> dict[str, Any] | None:
        """Row of the next grid time, or None while the operator does not command.

        Returns:
            Every stream of the task, `action` (dim,) as a policy would say it, absolute, and `timestamp` in seconds
            since the first row; with takeovers also `takeover`.

        Raises:
            ObservationProblem: if a stream is missing or too old at `time_ns`, or frozen.
            CommandGapError: if the operator commands again after a pause.
        """
        taken_over = self.takeovers is not None and self.takeovers.at(time_ns)
        # After a takeover what the operator commanded last is in force until the policy commands again.
        operator = taken_over or self.operator.began_ns(time_ns) > self.commands.began_ns(time_ns)
        action = self._action(time_ns, self.operator if operator else self.commands)
        if action is None:
            if self.first_ns is not None and self._stopped_ns is None:
                self._stopped_ns = time_ns
            return None
        if self._stopped_ns is not None:
            pause_s = (time_ns - self._stopped_ns) / 1e9
            raise CommandGapError(f"nothing was commanded on {self._task.action.topic} for {pause_s:.2f} s")
        self.buffer.check_changing()
        row: dict[str, Any] = {key: self.buffer.sample(key, time_ns) for key in self._task.observations}
        if self.first_ns is None:
            self.first_ns = time_ns
        self.n_rows += 1
        if self.takeovers is not None:
            row["takeover"] = np.uint8(taken_over)
        return {**row, "action": action, "timestamp": (time_ns - self.first_ns) / 1e9}

    def _action(self, time_ns: int, commands: CommandTrack) -> NDArray[np.float64] | None:
        """The action (dim,) in force, None where anything of it is not commanded."""
        main = commands.at(time_ns)
        parts = {name: track.at(time_ns) for name, track in self.grippers.items()}
        if main is None or any(part is None for part in parts.values()):
            return None
        values = dict(zip(self._names, main.tolist(), strict=True))
        values |= {name: float(part[0]) for name, part in parts.items() if part is not None}
        names = self._task.action.names
        said = self._space.to_policy(np.array([[values[name] for name in self._task.action.command_names]]))[
            0
        ]
        for name in self._as_sent:
            said[names.index(name)] = values[name]
        return said


def _sent_as_said(gripper: GripperSpec) -> bool:
    """Whether a gripper is commanded in the units in which the policy says it."""
    opens_below, closes_above = gripper.thresholds
    sign = gripper.closing_sign
    return sign * gripper.open < opens_below and sign * gripper.closed > closes_above
