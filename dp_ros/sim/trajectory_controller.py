"""Trajectory execution as a Jazzy joint_trajectory_controller does it, for simulated robots and tests.

Its rules of acceptance, replacement and interpolation, read in ros2_controllers 4.42 (branch jazzy:
`validate_trajectory_msg`, `Trajectory::sample`), for a controller that runs so fast that its period does not
show. Easy to get wrong: a new trajectory is not blended with the old one, which is forgotten; before the first
point the motion runs from the state at the takeover to that point; and a trajectory without points is refused,
so that it stops nothing.

Stricter than the controller in three cases, in which that would take the message and then move wrongly: values
that are not finite, a joint named twice, and accelerations without velocities (it commands zeros).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
#: Largest velocity of a joint at the last point that counts as zero: the machine epsilon of a C float.
END_VELOCITY = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Trajectory:
    """A trajectory as it comes in a message.

    Attributes:
        stamp_ns: header stamp; 0 means that it starts when it is first sampled.
        names: joint names, any order.
        times_ns: time_from_start of each point.
        positions: one sequence of len(names) for each point.
        velocities: the same, or an empty sequence for a point without velocities.
        accelerations: the same, or an empty sequence for a point without accelerations.
    """

    stamp_ns: int
    names: Sequence[str]
    times_ns: Sequence[int]
    positions: Sequence[Sequence[float]]
    velocities: Sequence[Sequence[float]] = field(default_factory=tuple)
    accelerations: Sequence[Sequence[float]] = field(default_factory=tuple)


@dataclass(frozen=True)
class DesiredState:
    """What a controller wants of the joints at one time: (n,) each, in units, units/s and units/s^2."""

    position: Floats
    velocity: Floats
    acceleration: Floats


@dataclass(frozen=True)
class _Point:
    """A point in the controller's joint order; None where the message has no values."""

    time_ns: int
    position: Floats
    velocity: Floats | None
    acceleration: Floats | None


class TrajectoryController:
    """Holds and samples the trajectory in force.

    Args:
        names: joints of the robot, in the order of the sampled positions.
        interpolate_from_desired_state: the controller's parameter of that name. True: a trajectory that begins
            in the future is approached from the state desired at the takeover. False, the default of a stock
            controller: from the measured one, see `measure`.
        allow_partial_joints_goal: the controller's parameter of that name: joints that a trajectory leaves out
            stay where they are commanded.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        interpolate_from_desired_state: bool = True,
        allow_partial_joints_goal: bool = False,
    ) -> None:
        self._names = list(names)
        self._from_desired = interpolate_from_desired_state
        self._allow_partial = allow_partial_joints_goal
        self._measured: DesiredState | None = None
        self.hold(np.zeros(len(self._names)))

    def hold(self, position: npt.ArrayLike) -> None:
        """Drop the trajectory and hold a position, (len(names),), at rest."""
        at = np.array(position, dtype=np.float64)
        self._before, self._before_ns = _at_rest(at), 0
        self._waiting: Trajectory | None = None
        self._points: list[_Point] = []
        self._times: list[int] = []

    def measure(self, position: npt.ArrayLike, velocity: npt.ArrayLike | None = None) -> None:
        """Give the measured state, (len(names),) each, which counts unless interpolating from the desired one."""
        at = _at_rest(np.array(position, dtype=np.float64))
        speed = at.velocity if velocity is None else np.array(velocity, dtype=np.float64)
        self._measured = DesiredState(at.position, speed, at.acceleration)

    def accept(self, trajectory: Trajectory, now_ns: int) -> str | None:
        """Take a trajectory in place of the one in force, from the next sample on.

        Returns:
            None if it was taken, else why it was rejected, for a person.
        """
        problem = self._problem(trajectory, now_ns)
        if problem is None:
            self._waiting = trajectory
        return problem

    def sample(self, now_ns: int) -> Floats:
        """Desired position at `now_ns`, (len(names),); exactly a point's position at that point's time."""
        return self.sample_state(now_ns).position.copy()

    def sample_state(self, now_ns: int) -> DesiredState:
        """Desired position, velocity and acceleration at `now_ns`."""
        if self._waiting is not None:
            self._take_over(self._waiting, now_ns)
            self._waiting = None
        return self._desired(now_ns)

    def _take_over(self, trajectory: Trajectory, now_ns: int) -> None:
        """The first sample of a trajectory: from here on the old one is forgotten."""
        desired = self._desired(now_ns)
        start_ns = trajectory.stamp_ns or now_ns
        self._times = [start_ns + t for t in trajectory.times_ns]
        at_rest = _at_rest(desired.position)
        order = [self._names.index(name) for name in trajectory.names]

        def column(rows: Sequence[Sequence[float]], index: int, absent: Floats) -> Floats | None:
            if not len(rows) or not len(rows[index]):
                return None
            values = absent.copy()
            values[order] = rows[index]
            return values

        self._points = []
        for index, time_ns in enumerate(self._times):
            position = column(trajectory.positions, index, at_rest.position)
            assert position is not None
            velocity = column(trajectory.velocities, index, at_rest.velocity)
            acceleration = column(trajectory.accelerations, index, at_rest.acceleration)
            self._points.append(_Point(time_ns, position, velocity, acceleration))
        measured = None if self._from_desired else self._measured
        self._before, self._before_ns = measured or desired, now_ns

    def _desired(self, now_ns: int) -> DesiredState:
        after = bisect_right(self._times, now_ns)
        if not self._points or (after == 0 and now_ns <= self._before_ns):
            return self._before
        if after == 0:
            before = self._before
            start = _Point(self._before_ns, before.position, before.velocity, before.acceleration)
            return _interpolate(start, self._points[0], now_ns)
        if after < len(self._points):
            return _interpolate(self._points[after - 1], self._points[after], now_ns)
        last, zero = self._points[-1], np.zeros(len(self._names))
        velocity = zero if last.velocity is None else last.velocity
        return DesiredState(last.position, velocity, zero if last.acceleration is None else last.acceleration)

    def _problem(self, trajectory: Trajectory, now_ns: int) -> str | None:
        """The first objection, in the order in which the controller checks."""
        names, times = list(trajectory.names), list(trajectory.times_ns)
        known = f"joint names are {names}, this robot has {self._names}"
        if not names or (len(names) != len(self._names) and not self._allow_partial):
            return known
        if not times:
            return "it has no points"
        if not set(names) <= set(self._names) or len(set(names)) != len(names):
            return known
        if len(trajectory.velocities) and np.abs(trajectory.velocities[-1]).max(initial=0.0) > END_VELOCITY:
            return f"the last point has velocity {list(trajectory.velocities[-1])}; it must be zero"
        if trajectory.stamp_ns and trajectory.stamp_ns + times[-1] < now_ns:
            late_s = (now_ns - trajectory.stamp_ns - times[-1]) / 1e9
            return f"it is stamped and ended {late_s:.3f} s ago"
        if times[0] < 0 or any(b <= a for a, b in zip(times, times[1:], strict=False)):
            return "time_from_start must increase from point to point, from 0 on"
        fields = {key: getattr(trajectory, key) for key in ("positions", "velocities", "accelerations")}
        for key, rows in fields.items():
            if len(rows) != len(times) and (key == "positions" or len(rows)):
                return f"it has {len(times)} times and {len(rows)} {key}"
            for index, row in enumerate(rows):
                if len(row) != len(names) and (key == "positions" or len(row)):
                    return f"point {index} has {len(row)} {key} for {len(names)} joints"
                if not np.isfinite(row).all():
                    return f"point {index} has {key} that are not finite: {list(row)}"
        for index, row in enumerate(trajectory.accelerations):
            if len(row) and not (len(trajectory.velocities) and len(trajectory.velocities[index])):
                return (
                    f"point {index} has accelerations but no velocities; the controller would command zeros"
                )
        return None


def _at_rest(position: Floats) -> DesiredState:
    return DesiredState(position, np.zeros_like(position), np.zeros_like(position))


def _interpolate(a: _Point, b: _Point, now_ns: int) -> DesiredState:
    """Between two points: linear, cubic where both have velocities, quintic where both have accelerations too.

    The polynomials in u, which goes from 0 at a to 1 at b; at u = 0 the position is a's exactly.
    """
    span_s = (b.time_ns - a.time_ns) / 1e9
    u = (now_ns - a.time_ns) / (b.time_ns - a.time_ns)
    way = b.position - a.position
    if a.velocity is None or b.velocity is None:
        return DesiredState(a.position + u * way, way / span_s, np.zeros_like(way))
    v, w = a.velocity * span_s, b.velocity * span_s
    if a.acceleration is None or b.acceleration is None:
        c2, c3 = 3 * way - 2 * v - w, -2 * way + v + w
        return DesiredState(
            a.position + u * v + u**2 * c2 + u**3 * c3,
            (v + 2 * u * c2 + 3 * u**2 * c3) / span_s,
            (2 * c2 + 6 * u * c3) / span_s**2,
        )
    p, q = a.acceleration * span_s**2, b.acceleration * span_s**2
    c3 = 10 * way - 6 * v - 4 * w - 1.5 * p + 0.5 * q
    c4 = -15 * way + 8 * v + 7 * w + 1.5 * p - q
    c5 = 6 * way - 3 * (v + w) - 0.5 * (p - q)
    return DesiredState(
        a.position + u * v + u**2 * p / 2 + u**3 * c3 + u**4 * c4 + u**5 * c5,
        (v + u * p + 3 * u**2 * c3 + 4 * u**3 * c4 + 5 * u**4 * c5) / span_s,
        (p + 6 * u * c3 + 12 * u**2 * c4 + 20 * u**3 * c5) / span_s**2,
    )
