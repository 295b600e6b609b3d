"""The last gate before a robot: what leaves here is finite and within the task's limits.

`LimitGate` clamps what a policy wants, before it is scheduled; `SetpointGate` and `gate_points` bound what is sent,
whatever was asked for and whenever. Easy to get wrong: the speed of the first action, or setpoint, counts from what
is commanded now, so a gate must be told it, or the first step is unlimited.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from dp_ros.runtime.motion.limiter import MotionLimiter, Reason, limiter_for
from dp_ros.runtime.motion.limits import MotionLimits
from dp_ros.runtime.motion.spline import MotionState, QuinticPath, TrajectoryPoints
from dp_ros.task import ActionSpec

Floats = npt.NDArray[np.float64]

#: Ticks closer than this to the one before repeat it: differences over so short a time are rounding.
SHORTEST_TICK_NS = 100_000
#: After a tick as late as this the motion brakes; a robot that got nothing for so long stands still.
LONGEST_TICK_NS = 250_000_000
#: Periods of the setpoint rate that a tick may last without that.
PERIODS = 4
#: Times between the points of a trajectory that had to be changed: the first with which it can still be stopped.
POINT_TICKS_S = (0.02, 0.01, 0.005)


class BadAction(RuntimeError):
    """A policy produced something that must not reach a robot."""


class LimitGate:
    """Clamps action sequences to the limits of a task.

    Args:
        action: names the dimensions and their limits.
        dt_s: time between two actions, seconds.
    """

    def __init__(self, action: ActionSpec, dt_s: float) -> None:
        self._action = action
        self._low = np.array(action.limits.position.min, dtype=np.float64)
        self._high = np.array(action.limits.position.max, dtype=np.float64)
        velocity = action.limits.velocity
        self._step = None if velocity is None else np.array(velocity, dtype=np.float64) * dt_s

        if self._step is not None:
            self._step[list(action.gripper_indices)] = np.inf  # a gripper opens or closes at once
        #: Values changed, by reason.
        self.counts: Counter[Reason] = Counter()

    def clamp(self, values: npt.NDArray[np.floating], commanded: Floats | None) -> tuple[Floats, int]:
        """Clamp a sequence of actions.

        Args:
            values: (n, dim), units of the task.
            commanded: (dim,) what is commanded one step before the first action, None if nothing is.

        Returns:
            The clamped values (n, dim) as float64, and how many values were changed.

        Raises:
            BadAction: if a value is not finite.
        """
        dim, names = self._action.command_dim, self._action.command_names
        if values.ndim != 2 or values.shape[1] != dim:
            raise BadAction(f"actions have shape {list(values.shape)}, expected [n, {dim}]")
        given = values.astype(np.float64)
        if not np.isfinite(given).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(given))[0])
            self.counts[Reason.NOT_FINITE] += 1
            raise BadAction(f"action {row} of {names[column]} is {given[row, column]}; nothing was sent")
        safe = np.clip(given, self._low, self._high)
        outside = int((safe != given).sum())
        self.counts[Reason.POSITION_LIMIT] += outside
        if self._step is not None:
            previous = commanded
            for row in safe:
                if previous is not None:
                    np.clip(row, previous - self._step, previous + self._step, out=row)
                previous = row
            np.clip(safe, self._low, self._high, out=safe)
        changed = int((safe != given).sum())
        self.counts[Reason.VELOCITY_LIMIT] += max(changed - outside, 0)
        return safe, changed


class SetpointGate:
    """Bounds setpoints from tick to tick, whatever is asked for and whenever.

    What leaves has a motion through it with |velocity|, |acceleration| and |jerk| within `MotionLimits.of` the
    action, that can stop before the ends of its range and the keep-out boxes. So divided differences of the
    positions of order one to three, of the velocities of order one and two and of the accelerations keep the limits,
    to the rounding of the numbers, and positions their range to 1e-9 of it. A request that keeps the limits too,
    with room to stop, leaves as it came; after one that does not, the gate catches up as fast as limits allow and
    without passing it. Grippers only have a range.

    For each reason that a setpoint had to be changed for there is one count a tick. Reactions: NOT_FINITE brakes
    (velocity commands: goes to zero), KEEP_OUT stops the dimensions that lead into the box, the others follow as
    closely as they may.

    Args:
        action: names, limits, setpoint rate.
    """

    def __init__(self, action: ActionSpec) -> None:
        self._limiter = MotionLimiter(action, MotionLimits.of(action))
        self._rests_at_zero = action.is_velocity
        self._dim = action.command_dim
        period_ns = 0 if action.rate_hz is None else round(1e9 / action.rate_hz)
        self._longest_ns = max(LONGEST_TICK_NS, PERIODS * period_ns)
        self._state: MotionState | None = None
        self._time_ns = 0
        #: Ticks at which a setpoint was changed, by reason.
        self.counts: Counter[Reason] = Counter()
        #: Why the last setpoint was changed; empty if it was not.
        self.reasons: frozenset[Reason] = frozenset()

    @property
    def state(self) -> MotionState | None:
        """What left last, None if nothing did."""
        return self._state

    def clear(self) -> None:
        """Forget what left: the next setpoint is where the robot is."""
        self._state = None
        self.reasons = frozenset()

    def hold(self, position: npt.ArrayLike, now_ns: int) -> None:
        """Say where the robot stands, (dim,), before the first setpoint.

        From a position beyond its range the motion goes back into it; from one in a keep-out box it does not move.
        """
        self._state, self._time_ns = MotionState.at_rest(position), now_ns

    def step(self, desired: MotionState, now_ns: int) -> MotionState:
        """The setpoint for now.

        Args:
            desired: what is wanted now; anything.
            now_ns: time of the tick. One before or within 0.1 ms of the last tick gives the last setpoint again;
                after a pause of 0.25 s (or four periods) the motion brakes first.

        Raises:
            BadAction: if nothing finite was ever asked for, or the number of values is wrong.
        """
        if desired.position.shape != (self._dim,):
            raise BadAction(f"a setpoint has shape {list(desired.position.shape)}, expected [{self._dim}]")
        finite = bool(
            np.isfinite(desired.position).all()
            and np.isfinite(desired.velocity).all()
            and np.isfinite(desired.acceleration).all()
        )
        if self._state is None:
            if not finite:
                self._count({Reason.NOT_FINITE})
                raise BadAction("the first setpoint is not finite, and there is none before it to keep")
            self.hold(self._limiter.inside(desired.position), now_ns)
            assert self._state is not None
            self._count(
                {Reason.POSITION_LIMIT} if (self._state.position != desired.position).any() else set()
            )
            return self._state
        passed_ns = now_ns - self._time_ns
        if passed_ns < SHORTEST_TICK_NS:
            return self._state
        reasons = set() if finite else {Reason.NOT_FINITE}
        time_s = passed_ns / 1e9
        if finite and passed_ns <= self._longest_ns:
            self._state, reasons = self._limiter.step(self._state, desired, time_s)
        elif self._rests_at_zero:
            zero = MotionState.at_rest(np.zeros(self._dim))
            self._state, _ = self._limiter.step(self._state, zero, time_s)
        else:
            self._state = self._limiter.stop(self._state, time_s)
        self._time_ns = now_ns
        self._count(reasons)
        return self._state

    def _count(self, reasons: set[Reason]) -> None:
        self.counts.update(reasons)
        self.reasons = frozenset(reasons)


def gate_points(action: ActionSpec, points: TrajectoryPoints) -> tuple[TrajectoryPoints, frozenset[Reason]]:
    """A trajectory that keeps the limits when a controller interpolates it with quintics.

    One that keeps them already leaves as it came. Otherwise it is followed as closely as the limits allow, from the
    state of its first point, with a point every 20 ms or less, and ends at rest, after 1000 points of all dimensions
    together at the latest. From a first point that cannot be stopped before the end of its range with the acceleration
    limit, it brakes harder: the end of the range wins.

    Args:
        action: names and limits.
        points: times, positions, velocities; without accelerations they count as zero at each point.

    Returns:
        The points to send, and why they were changed; no reason if they were not.

    Raises:
        BadAction: if a value is not finite.
    """
    accelerations = np.zeros_like(points.velocities) if points.accelerations is None else points.accelerations
    for values in (points.positions, points.velocities, accelerations):
        if not np.isfinite(values).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise BadAction(
                f"point {row} of {action.command_names[column]} has {values[row, column]}; nothing was sent"
            )
    limits = MotionLimits.of(action)
    path = QuinticPath(points.times_ns, points.positions, points.velocities, accelerations)
    limiter = MotionLimiter(action, limits)
    moving = np.array(limiter.moving, dtype=np.intp)
    at_rest = not (points.velocities[-1].any() or accelerations[-1].any())
    if at_rest and limits.hold(path.bounds(), moving) and limiter.clear(path):
        return points, frozenset()
    limiter, tick_s = limiter_for(action, limits, path.knot(0), POINT_TICKS_S)
    path, reasons = limiter.follow(path, path.knot(0), round(tick_s * 1e9), path.positions[-1])
    changed = TrajectoryPoints(path.times_ns, path.positions, path.velocities, path.accelerations)
    return changed, frozenset(reasons)
