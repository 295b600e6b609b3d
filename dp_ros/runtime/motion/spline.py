"""Motion through waypoints as quintic pieces: position, velocity and acceleration at any time.

A path is a list of knots, each with position, velocity and acceleration; between two knots lies the one
polynomial of degree five that has those values at both ends, which is also what a joint_trajectory_controller
interpolates when a trajectory carries accelerations. So a path published as its knots is executed as it was
planned. Easy to get wrong: pieces count time from their own start, or powers of large times lose all digits.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import comb
from typing import Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]

#: Equal parts of a piece for which bounds are found: the more, the closer they are.
PARTS = 8


@dataclass(frozen=True)
class MotionState:
    """Position, velocity and acceleration of every dimension, (dim,) each; units of the task and seconds."""

    position: Floats
    velocity: Floats
    acceleration: Floats

    @classmethod
    def at_rest(cls, position: npt.ArrayLike) -> Self:
        """Standing still at a position, (dim,)."""
        place = np.array(position, dtype=np.float64)
        return cls(place, np.zeros_like(place), np.zeros_like(place))


@dataclass(frozen=True)
class TrajectoryPoints:
    """What a trajectory message holds, times absolute.

    Attributes:
        times_ns: (n,) int64, increasing.
        positions: (n, dim).
        velocities: (n, dim), zero at the last point.
        accelerations: (n, dim); None where the motion is not defined to that order.
    """

    times_ns: Times
    positions: Floats
    velocities: Floats
    accelerations: Floats | None


@dataclass(frozen=True)
class Bounds:
    """What a motion stays within, (..., dim) each: never less than the true extremes, and close to them."""

    low: Floats
    high: Floats
    velocity: Floats
    acceleration: Floats
    jerk: Floats


class QuinticPath:
    """A motion through knots, twice continuously differentiable; it stands still after its last knot.

    Args:
        times_ns: (n,) increasing, n at least 1.
        positions: (n, dim).
        velocities: (n, dim).
        accelerations: (n, dim).
    """

    def __init__(
        self, times_ns: npt.ArrayLike, positions: Floats, velocities: Floats, accelerations: Floats
    ) -> None:
        self.times_ns: Times = np.asarray(times_ns, dtype=np.int64)
        self.positions, self.velocities, self.accelerations = positions, velocities, accelerations
        self._times: list[int] = self.times_ns.tolist()
        self._spans_s = np.diff(self.times_ns) / 1e9

    @cached_property
    def _coefficients(self) -> Floats:
        p, v, a = self.positions, self.velocities, self.accelerations
        return quintic(self._spans_s[:, None], (p[:-1], v[:-1], a[:-1]), (p[1:], v[1:], a[1:]))

    @classmethod
    def at_rest(cls, position: npt.ArrayLike, time_ns: int) -> Self:
        """Standing still at a position, (dim,), from a time on."""
        place = np.array(position, dtype=np.float64)[None]
        return cls([time_ns], place, np.zeros_like(place), np.zeros_like(place))

    @classmethod
    def from_points(cls, points: TrajectoryPoints) -> Self:
        """The motion that a controller makes of trajectory points with accelerations.

        Raises:
            ValueError: if the points have no accelerations.
        """
        if points.accelerations is None:
            raise ValueError("trajectory points without accelerations do not define a quintic path")
        return cls(points.times_ns, points.positions, points.velocities, points.accelerations)

    @property
    def start_ns(self) -> int:
        """Time of the first knot."""
        return self._times[0]

    @property
    def end_ns(self) -> int:
        """Time of the last knot."""
        return self._times[-1]

    def knot(self, index: int) -> MotionState:
        """State at a knot."""
        return MotionState(self.positions[index], self.velocities[index], self.accelerations[index])

    def state_at(self, time_ns: int) -> MotionState:
        """State at a time: that of the first knot before it, at rest after the last one."""
        index = bisect_right(self._times, time_ns) - 1
        if index < 0:
            return self.knot(0)
        if index == len(self._times) - 1:
            return self.knot(-1) if time_ns == self._times[-1] else MotionState.at_rest(self.positions[-1])
        t = (time_ns - self._times[index]) * 1e-9
        t2 = t * t
        t3 = t2 * t
        t4 = t3 * t
        powers = np.array(
            (
                (1.0, t, t2, t3, t4, t4 * t),
                (0.0, 1.0, 2.0 * t, 3.0 * t2, 4.0 * t3, 5.0 * t4),
                (0.0, 0.0, 2.0, 6.0 * t, 12.0 * t2, 20.0 * t3),
            )
        )
        state = powers @ self._coefficients[index]
        return MotionState(state[0], state[1], state[2])

    def positions_at(self, times_ns: npt.ArrayLike) -> Floats:
        """Positions at many times, (n, dim)."""
        return self.states_at(times_ns)[0]

    def states_at(self, times_ns: npt.ArrayLike) -> tuple[Floats, Floats, Floats]:
        """Positions, velocities and accelerations at many times, (n, dim) each."""
        times = np.asarray(times_ns, dtype=np.int64)
        clipped = np.clip(times, self._times[0], self._times[-1])
        if len(self._times) == 1:
            shape = (len(times), self.positions.shape[1])
            return np.broadcast_to(self.positions[0], shape).copy(), np.zeros(shape), np.zeros(shape)
        index = np.clip(np.searchsorted(self.times_ns, clipped, side="right") - 1, 0, len(self._times) - 2)
        t = ((clipped - self.times_ns[index]) / 1e9)[:, None]
        c = np.moveaxis(self._coefficients[index], 1, 0)
        position = c[0] + t * (c[1] + t * (c[2] + t * (c[3] + t * (c[4] + t * c[5]))))
        velocity = c[1] + t * (2 * c[2] + t * (3 * c[3] + t * (4 * c[4] + t * 5 * c[5])))
        acceleration = 2 * c[2] + t * (6 * c[3] + t * (12 * c[4] + t * 20 * c[5]))
        moving = (times <= self._times[-1])[:, None]
        return position, np.where(moving, velocity, 0.0), np.where(moving, acceleration, 0.0)

    def cut(self, from_ns: int, to_ns: int | None) -> QuinticPath:
        """The same motion from a time on, and up to another one (None: to its end); both become knots."""
        last_ns = max(self._times[-1], from_ns) if to_ns is None else to_ns
        first, last = bisect_right(self._times, from_ns), bisect_left(self._times, last_ns)
        times = [from_ns, last_ns] if last_ns > from_ns else [from_ns]
        ends = [self.state_at(time_ns) for time_ns in times]
        return QuinticPath(
            [from_ns, *self._times[first:last], *times[1:]],
            np.array([ends[0].position, *self.positions[first:last], *(end.position for end in ends[1:])]),
            np.array([ends[0].velocity, *self.velocities[first:last], *(end.velocity for end in ends[1:])]),
            np.array(
                [
                    ends[0].acceleration,
                    *self.accelerations[first:last],
                    *(end.acceleration for end in ends[1:]),
                ]
            ),
        )

    def then(self, other: QuinticPath) -> QuinticPath:
        """This path followed by one that starts with the last knot of this one."""
        return QuinticPath(
            np.concatenate([self.times_ns, other.times_ns[1:]]),
            np.concatenate([self.positions, other.positions[1:]]),
            np.concatenate([self.velocities, other.velocities[1:]]),
            np.concatenate([self.accelerations, other.accelerations[1:]]),
        )

    def bounds(self) -> Bounds:
        """What the motion stays within, from the Bernstein coefficients of the parts of each piece.

        A polynomial lies in the hull of its Bernstein coefficients (Farouki, "The Bernstein polynomial basis:
        a centennial retrospective", 2012), so these bounds are never too small.
        """
        if not len(self._spans_s):
            zero = np.zeros(self.positions.shape[1])
            return Bounds(self.positions[0], self.positions[0], zero, zero, zero)
        of = self.pieces()
        return Bounds(
            of.low.min(axis=0),
            of.high.max(axis=0),
            of.velocity.max(axis=0),
            of.acceleration.max(axis=0),
            of.jerk.max(axis=0),
        )

    def pieces(self) -> Bounds:
        """What each piece stays within, (n - 1, dim) each; see `bounds`."""
        position, velocity, acceleration, jerk = (self._hull(order) for order in range(4))
        return Bounds(
            position.min(axis=1),
            position.max(axis=1),
            np.abs(velocity).max(axis=1),
            np.abs(acceleration).max(axis=1),
            np.abs(jerk).max(axis=1),
        )

    def ranges(self) -> tuple[Floats, Floats]:
        """Lowest and highest positions of each piece, (n, dim) each: never less than the true ones."""
        if not len(self._spans_s):
            return self.positions, self.positions
        hull = self._hull(0)
        return hull.min(axis=1), hull.max(axis=1)

    def _hull(self, order: int) -> Floats:
        """Bernstein coefficients of a derivative on the parts of each piece, (n, PARTS * (6 - order), dim)."""
        powers = np.arange(6)
        factors = np.prod([powers - k for k in range(order)], axis=0) if order else np.ones(6)
        spans = self._spans_s[:, None] ** (powers - order)[None, :]
        scaled = (self._coefficients * (spans * factors)[:, :, None])[:, order:]
        pieces, _, dim = scaled.shape
        # One product for all pieces: many small ones would take ten times as long.
        flat = _bernstein_parts(6 - order) @ scaled.transpose(1, 0, 2).reshape(6 - order, pieces * dim)
        hull: Floats = flat.reshape(-1, pieces, dim).transpose(1, 0, 2)
        return hull


def quintic(
    span_s: Floats | float, start: tuple[Floats, Floats, Floats], end: tuple[Floats, Floats, Floats]
) -> Floats:
    """Coefficients of the quintics between states, lowest power first.

    Biagiotti and Melchiorri, "Trajectory Planning for Automatic Machines and Robots" (2008), section 2.1.5.

    Args:
        span_s: durations, broadcast against (..., dim).
        start: position, velocity, acceleration, (..., dim) each.
        end: the same at the end.

    Returns:
        (..., 6, dim), in powers of the seconds since the start.
    """
    p0, v0, a0 = start
    p1, v1, a1 = end
    span = np.asarray(span_s, dtype=np.float64)
    # What is left to do at the end after coasting at the first acceleration.
    dp = p1 - p0 - span * (v0 + 0.5 * span * a0)
    dv = (v1 - v0 - span * a0) * span
    da = (a1 - a0) * span**2
    cubic = (10 * dp - 4 * dv + 0.5 * da) / span**3
    quartic = (-15 * dp + 7 * dv - da) / span**4
    fifth = (6 * dp - 3 * dv + 0.5 * da) / span**5
    return np.stack(np.broadcast_arrays(p0, v0, 0.5 * a0, cubic, quartic, fifth), axis=-2)


def through_waypoints(times_ns: Times, waypoints: Floats) -> QuinticPath:
    """The smoothest motion through waypoints at equal times: it minimises the integral of squared acceleration.

    The natural cubic spline (Biagiotti and Melchiorri 2008, section 4.4): a quintic spline, which minimises jerk
    (Flash and Hogan 1985), rings further from a single bad waypoint and needs more acceleration.

    Args:
        times_ns: (n,) equally spaced.
        waypoints: (n, dim).
    """
    if len(waypoints) == 1:
        return QuinticPath(times_ns, waypoints, np.zeros_like(waypoints), np.zeros_like(waypoints))
    step_s = (times_ns[1] - times_ns[0]) / 1e9
    to_velocity, to_acceleration = _spline_operators(len(waypoints))
    return QuinticPath(
        times_ns, waypoints, to_velocity @ waypoints / step_s, to_acceleration @ waypoints / step_s**2
    )


@lru_cache(maxsize=64)
def _spline_operators(n: int) -> tuple[Floats, Floats]:
    """Matrices from n waypoints one second apart to the natural spline's velocities and accelerations there."""
    system = 4 * np.eye(n) + np.eye(n, k=1) + np.eye(n, k=-1)
    second_difference = 6 * (np.eye(n, k=1) - 2 * np.eye(n) + np.eye(n, k=-1))
    for end in (0, -1):
        system[end] = 0.0
        system[end, end] = 1.0
        second_difference[end] = 0.0
    acceleration: Floats = np.asarray(np.linalg.solve(system, second_difference), dtype=np.float64)
    velocity = np.zeros((n, n))
    step = np.diff(np.eye(n), axis=0)
    velocity[:-1] = step - (2 * acceleration[:-1] + acceleration[1:]) / 6
    velocity[-1] = step[-1] + (acceleration[-2] + 2 * acceleration[-1]) / 6
    return velocity, acceleration


@lru_cache(maxsize=8)
def _bernstein_parts(n: int) -> Floats:
    """(PARTS * n, n): from n power coefficients on [0, 1] to Bernstein coefficients on each of its equal parts."""
    to_bernstein = np.array(
        [[comb(i, j) / comb(n - 1, j) if j <= i else 0.0 for j in range(n)] for i in range(n)]
    )
    rows = []
    for part in range(PARTS):  # u = (part + w) / PARTS
        shift = [
            [comb(k, j) * part ** (k - j) / PARTS**k if j <= k else 0.0 for k in range(n)] for j in range(n)
        ]
        rows.append(to_bernstein @ np.array(shift))
    return np.concatenate(rows)
