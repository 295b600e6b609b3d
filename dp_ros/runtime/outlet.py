"""The last step before a robot: what is commanded, as setpoints or as a trajectory, each through its gate.

Open from a run's first chunk until the motion has come to rest, closed while nothing may be commanded. Setpoints are
sent by another process: it has an outlet of its own, which takes over what this one hands over at each change. There
setpoints are asked for from the thread that sends them, everything else from another; what they share is replaced in
one assignment. Easy to get wrong: after a jump of the clock the schedule is still in the old time, in which it must
be braked.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dp_ros.runtime.motion.chunk import ActionChunk, ChunkSchedule
from dp_ros.runtime.motion.commanded import Commanded
from dp_ros.runtime.motion.spline import MotionState, TrajectoryPoints
from dp_ros.runtime.safety import SetpointGate, gate_points
from dp_ros.task import ActionSpec

Floats = npt.NDArray[np.float64]
#: How long setpoints go on after the motion has come to rest.
AFTER_REST_NS = 200_000_000


@dataclass(frozen=True)
class Handover:
    """What another outlet needs to give out the same setpoints.

    Attributes:
        opening: number of the opening; 0 while nothing may be commanded.
        begin_ns: nothing is commanded before.
        shift_ns: by which the clock has jumped since.
        end_ns: nothing is commanded after; None: no end.
        start: (command_dim,) where the robot stood at the opening; None if that was not known.
        commanded: the motion.
    """

    opening: int
    begin_ns: int = 0
    shift_ns: int = 0
    end_ns: int | None = None
    start: Floats | None = None
    commanded: Commanded | None = None


@dataclass(frozen=True)
class _Port:
    """What the setpoint thread goes by; never changed, only replaced."""

    opening: int
    begin_ns: int
    gate: SetpointGate
    start: Floats | None
    shift_ns: int = 0
    end_ns: int | None = None


class Outlet:
    """What leaves for the robot.

    Args:
        action: what is commanded.
        schedule: where it is commanded.

    Attributes:
        on_change: called after each change of what is let out, by the thread that made it.
    """

    def __init__(self, action: ActionSpec, schedule: ChunkSchedule) -> None:
        self._action, self._schedule = action, schedule
        self._port: _Port | None = None
        self._counts: Counter[str] = Counter()
        self._reasons: frozenset[str] = frozenset()
        self._openings = 0
        self._elsewhere: tuple[Counter[str], frozenset[str]] = (Counter(), frozenset())
        self.on_change: Callable[[], None] = lambda: None

    @property
    def is_open(self) -> bool:
        """Whether anything has been commanded since the run began or the outlet was closed."""
        return self._port is not None

    def open(self, from_ns: int) -> None:
        """Let out what is scheduled from a time on; where it is open already, it goes on without an end."""
        if self._port is not None:
            self._port = replace(self._port, end_ns=None)
        else:
            self._openings += 1
            self._port = self._opened(self._openings, from_ns, self._schedule.commanded_at(from_ns))
        self.on_change()

    def _opened(self, opening: int, begin_ns: int, start: Floats | None) -> _Port:
        gate = SetpointGate(self._action)
        if start is not None:
            gate.hold(start, begin_ns)
        return _Port(opening, begin_ns, gate, start)

    def close(self) -> None:
        """Let nothing out from now on."""
        self._counts, self._port, self._reasons = self._own_counts(), None, frozenset()
        self._elsewhere = (self._elsewhere[0], frozenset())
        self.on_change()

    def hand_over(self) -> Handover:
        """What is let out, for an outlet elsewhere to `take`."""
        port = self._port
        if port is None:
            return Handover(0)
        commanded = self._schedule.commanded
        return Handover(port.opening, port.begin_ns, port.shift_ns, port.end_ns, port.start, commanded)

    def take(self, handover: Handover) -> None:
        """Let out what another outlet hands over; the gate goes on within an opening."""
        port = self._port
        if not handover.opening:
            self.close()
            return
        if port is None or port.opening != handover.opening:
            self.close()
            port = self._opened(handover.opening, handover.begin_ns, handover.start)
        self._schedule.command(handover.commanded)
        self._port = replace(port, shift_ns=handover.shift_ns, end_ns=handover.end_ns)

    def heard(self, counts: Mapping[str, int], limiting: Collection[str]) -> None:
        """Take down what the gate of an outlet elsewhere did: its `counts` so far, and its `limiting`."""
        self._elsewhere = (Counter(dict(counts)), frozenset(limiting))

    def counts(self) -> Counter[str]:
        """Setpoints and trajectories that a gate had to change, by reason."""
        return self._own_counts() + self._elsewhere[0]

    def _own_counts(self) -> Counter[str]:
        port = self._port
        return self._counts + Counter({str(r): n for r, n in port.gate.counts.items()} if port else {})

    @property
    def limiting(self) -> frozenset[str]:
        """Why the last setpoint or trajectory was changed; empty if it was not."""
        port = self._port
        if port is None:
            return frozenset()
        return self._reasons | self._elsewhere[1] | frozenset(map(str, port.gate.reasons))

    def shift(self, jump_ns: int) -> None:
        """The clock jumped: go on as if it had not, and end as much later or earlier."""
        port = self._port
        if port is not None:
            end_ns = None if port.end_ns is None else port.end_ns + jump_ns
            self._port = replace(port, shift_ns=port.shift_ns + jump_ns, end_ns=end_ns)
            self.on_change()

    def brake(self, from_ns: int, *, end: bool, ready_ns: Callable[[], int] | None = None) -> int:
        """Cut what is commanded short by the shortest stop along it.

        Args:
            from_ns: when it begins; until then what is commanded goes on.
            end: whether setpoints end once it stands still.
            ready_ns: from when on a stop planned by now can be followed, as of `ChunkSchedule.splice`.

        Returns:
            When it stands still.
        """
        port = self._port
        if port is None:
            return from_ns
        begin_ns = max(from_ns - port.shift_ns, port.begin_ns)  # before it nothing is commanded
        ready = None if ready_ns is None else (lambda: ready_ns() - port.shift_ns)
        rest_ns = self._schedule.brake(begin_ns, ready_ns=ready) + port.shift_ns
        if end:
            self._port = replace(port, end_ns=rest_ns + AFTER_REST_NS)
        self.on_change()
        return rest_ns

    def is_moving(self, now_ns: int) -> bool:
        """Whether the motion that is let out has not come to rest."""
        port = self._port
        state = None if port is None else self._schedule.state_at(now_ns - port.shift_ns)
        if state is None:
            return False
        return bool(state.velocity.any() or (self._action.is_velocity and state.position.any()))

    def rest_in_s(self, now_ns: int) -> float:
        """Seconds until setpoints end, 0 if none are let out; infinite while a run goes on."""
        return self._ends_in_s(now_ns, 0)

    def moves_for_s(self, now_ns: int) -> float:
        """Seconds until what is let out stands still, by plan, 0 if it does; infinite while a run goes on."""
        return self._ends_in_s(now_ns, AFTER_REST_NS)

    def _ends_in_s(self, now_ns: int, sooner_ns: int) -> float:
        port = self._port
        if port is None:
            return 0.0
        return math.inf if port.end_ns is None else max(port.end_ns - sooner_ns - now_ns, 0) / 1e9

    def last_position(self, now_ns: int) -> Floats | None:
        """What is commanded, (command_dim,); None if nothing has been let out."""
        port = self._port
        return None if port is None else self._schedule.commanded_at(now_ns - port.shift_ns)

    def setpoint(self, now_ns: int) -> MotionState | None:
        """What to send at a time; None: nothing. For the thread that sends setpoints; raises BadAction."""
        port = self._port
        if (
            port is None
            or now_ns < port.begin_ns + port.shift_ns
            or (port.end_ns is not None and now_ns > port.end_ns)
        ):
            return None
        time_ns = now_ns - port.shift_ns
        desired = self._schedule.state_at(time_ns)
        return None if desired is None else port.gate.step(desired, time_ns)

    def trajectory(self, now_ns: int) -> TrajectoryPoints | None:
        """What is commanded from now on, for a controller that interpolates; None: nothing.

        It begins with what is commanded now, so that it goes on without a jump from the one before it; the first
        one of a run begins with its first action. Raises BadAction.
        """
        port = self._port
        points = None if port is None else self._schedule.points(max(now_ns - port.shift_ns, port.begin_ns))
        if points is None or port is None:
            return None
        points, reasons = gate_points(self._action, points)
        self._reasons = frozenset(map(str, reasons))
        self._counts.update(self._reasons)
        return replace(points, times_ns=points.times_ns + port.shift_ns) if port.shift_ns else points


def outright(chunk: ActionChunk) -> TrajectoryPoints:
    """A chunk as it is: its actions at their times, for lockstep, where nothing is blended."""
    times = chunk.start_ns + chunk.dt_ns * np.arange(len(chunk.values), dtype=np.int64)
    return TrajectoryPoints(times, chunk.values, chunk.velocities(), None)
