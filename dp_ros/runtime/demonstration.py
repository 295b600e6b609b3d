"""Rows of a demonstration: what was observed and what was commanded, on one time grid.

Samples and commands come in as they arrive; `row` gives what belongs to one grid time. A gap ends the
episode, nothing is filled in. Easy to get wrong: the command that belongs to an observation is the one in
force at the same time, which may have been sent earlier and holds only for a while.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_ros.runtime.observation import ObservationBuffer
from dp_ros.task import TaskSpec

_KEPT_COMMANDS = 512
#: Rows may be asked for this much later than windows: while slow streams catch up after a hold-up.
_HISTORY_S = 1.0


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

    def clear(self) -> None:
        """Forget every command."""
        self._commands.clear()


class DemonstrationRows:
    """Rows of the episode being recorded.

    Args:
        task: streams and action.
        hold_ns: see `CommandTrack`.

    Attributes:
        buffer: takes the samples.
        commands: takes the operator's commands.
        n_rows: rows given since `begin`.
    """

    def __init__(self, task: TaskSpec, hold_ns: int) -> None:
        self._task = task
        self.buffer = ObservationBuffer(task, history_s=_HISTORY_S)
        self.commands = CommandTrack(task.action.names, hold_ns)
        self.begin()

    def begin(self) -> None:
        """Start an episode; its first row is the first grid time at which the operator commands."""
        self.n_rows = 0
        self.first_ns: int | None = None
        self._stopped_ns: int | None = None

    def row(self, time_ns: int) -> dict[str, Any] | None:
        """Row of the next grid time, or None while the operator does not command.

        Returns:
            Every stream of the task, `action`, and `timestamp` in seconds since the first row.

        Raises:
            ObservationProblem: if a stream is missing or too old at `time_ns`, or frozen.
            CommandGapError: if the operator commands again after a pause.
        """
        action = self.commands.at(time_ns)
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
        return {**row, "action": action, "timestamp": (time_ns - self.first_ns) / 1e9}
