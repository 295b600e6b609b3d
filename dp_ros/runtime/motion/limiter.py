"""All dimensions of a motion kept within their limits and out of the keep-out boxes, tick by tick.

A box is avoided as the ends of a joint are: no tick may lead to a state from which the fastest stop would enter it.
Easy to get wrong: that stop is judged by the range of each dimension on its own, so a motion that would pass a
corner of a box closely, and fast, is slowed down there.

Where a motion begins too fast to stop before its end with the acceleration it may have, the end wins: `limiter_for`
gives a limiter that brakes harder. Nothing that is planned here gets that far, because every state it leads to leaves
room to stop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from dp_ros.runtime.motion.axis_limiter import SLACK, AxisLimiter, Excess, Point
from dp_ros.runtime.motion.limits import MotionLimits
from dp_ros.runtime.motion.spline import MotionState, QuinticPath
from dp_ros.runtime.motion.stopping import stopping_ranges
from dp_ros.task import ActionSpec

Floats = npt.NDArray[np.float64]

#: Ticks of all dimensions together for which a path is followed, 20 to 60 microseconds each; then the motion stops.
MOST_TICKS = 1000
#: How much harder than allowed a motion brakes that could not stop before the end of its range otherwise; the first
#: that is enough, at most the last.
HARDER = (1.02, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
#: Times at which a stop changes its jerk closer than this are one, nanoseconds.
SAME_NS = 20_000


class Reason(StrEnum):
    """Why a command is not what was asked for."""

    NOT_FINITE = "NOT_FINITE"
    KEEP_OUT = "KEEP_OUT"
    POSITION_LIMIT = "POSITION_LIMIT"
    VELOCITY_LIMIT = "VELOCITY_LIMIT"
    ACCELERATION_LIMIT = "ACCELERATION_LIMIT"
    JERK_LIMIT = "JERK_LIMIT"


_REASONS = {
    Excess.POSITION: Reason.POSITION_LIMIT,
    Excess.VELOCITY: Reason.VELOCITY_LIMIT,
    Excess.ACCELERATION: Reason.ACCELERATION_LIMIT,
    Excess.JERK: Reason.JERK_LIMIT,
}


class MotionLimiter:
    """Moves a state tick by tick; it has no memory.

    Args:
        action: names the grippers, which only have a range, and the keep-out boxes.
        limits: of each command value.
    """

    def __init__(self, action: ActionSpec, limits: MotionLimits) -> None:
        self.limits = limits
        columns = (limits.low, limits.high, limits.velocity, limits.acceleration, limits.jerk)
        self._axes = [AxisLimiter(*map(float, values)) for values in zip(*columns, strict=True)]
        grippers = set(action.gripper_indices)
        self.moving = [i for i in range(len(self._axes)) if i not in grippers]
        self._grippers = sorted(grippers)
        index = {name: i for i, name in enumerate(action.command_names)}
        self._boxes = [
            (
                [index[name] for name in box.names],
                # Larger by what adding up the ticks of a stop may round to.
                [low - SLACK * (high - low) for low, high in zip(box.min, box.max, strict=True)],
                [high + SLACK * (high - low) for low, high in zip(box.min, box.max, strict=True)],
            )
            for box in action.limits.keep_out
        ]

    def step(self, start: MotionState, wanted: MotionState, time_s: float) -> tuple[MotionState, set[Reason]]:
        """The state after a tick: the wanted one, if limits allow, else the best on the way to it.

        Args:
            start: the state now.
            wanted: finite.
            time_s: until the next state, above 0.
        """
        points, reasons = self._step(_points(start), _points(wanted), time_s)
        return _state(points), reasons

    def _step(
        self, begin: list[Point], points: list[Point], time_s: float, *, between: bool = False
    ) -> tuple[list[Point], set[Reason]]:
        """`step`; with `between` the quintic up to the next state has to stay within the range as well."""
        reasons = set[Reason]()
        for i in self.moving:
            axis, point = self._axes[i], points[i]
            if excess := axis.exceeded(begin[i], point, time_s):
                reasons.add(_REASONS[excess])
                allowed = _within(axis, point)
                met = allowed != point and not axis.exceeded(begin[i], allowed, time_s)
                points[i] = allowed if met else axis.towards(begin[i], allowed, time_s)
            if between and not axis.holds_between(begin[i], points[i], time_s):
                reasons.add(Reason.POSITION_LIMIT)
                points[i] = axis.heading(begin[i], 0.0, time_s)
        for i in self._grippers:
            at = min(max(points[i][0], self._axes[i].low), self._axes[i].high)
            if at != points[i][0]:
                reasons.add(Reason.POSITION_LIMIT)
            points[i] = at, 0.0, 0.0
        if self._boxes and self._entered(begin, points):
            reasons.add(Reason.KEEP_OUT)
            points = self._round_boxes(begin, points, time_s)
        return points, reasons

    def stop(self, start: MotionState, time_s: float) -> MotionState:
        """The state after a time of the fastest stop."""
        return _state(
            [
                self._axes[i].heading(point, 0.0, time_s) if i in self.moving else point
                for i, point in enumerate(_points(start))
            ]
        )

    def stopped(self, start: MotionState, time_ns: int) -> QuinticPath:
        """The whole of the fastest stop, exactly: a knot wherever its jerk changes; grippers stay where they are."""
        points = [
            point if i in self.moving else (point[0], 0.0, 0.0) for i, point in enumerate(_points(start))
        ]
        changes = {round(1e9 * t) for i in self.moving for t in self._axes[i].stop_times(points[i])}
        times = [0]
        for after_ns in sorted(changes):
            if after_ns - times[-1] >= SAME_NS:
                times.append(after_ns)
            elif len(times) > 1:
                times[-1] = after_ns
        if len(times) == 1 and any(v or a for _, v, a in points):
            times.append(max(changes | {1}))
        states = [points]
        states += [
            [
                self._axes[i].heading(point, 0.0, after_ns / 1e9) if i in self.moving else point
                for i, point in enumerate(points)
            ]
            for after_ns in times[1:]
        ]
        if len(times) > 1:  # rounded to a nanosecond it may be one too early
            states[-1] = [(p, 0.0, 0.0) for p, _, _ in states[-1]]
        return _path([time_ns + after_ns for after_ns in times], states)

    def stoppable(self, path: QuinticPath, every_ns: int) -> bool:
        """Whether the fastest stop keeps the range and the boxes, wherever on a path but its start it begins."""
        times = np.arange(path.start_ns + every_ns, path.end_ns, every_ns, dtype=np.int64)
        p, v, a = path.states_at(times)
        v[:, self._grippers] = a[:, self._grippers] = 0.0
        low, high = stopping_ranges(p, v, a, self.limits)
        edge = SLACK * (self.limits.high - self.limits.low)
        kept = (low >= self.limits.low - edge) & (high <= self.limits.high + edge)
        return bool(kept[:, self.moving].all()) and not any(
            ((high[:, dims] > bottom) & (low[:, dims] < top)).all(axis=1).any()
            for dims, bottom, top in self._boxes
        )

    def lost(self, state: MotionState) -> list[int]:
        """Dimensions that move beyond their range or stand within it, but cannot stop there any more."""
        return [
            i
            for i, point in enumerate(_points(state))
            if i in self.moving
            and self._axes[i].low <= point[0] <= self._axes[i].high
            and self._axes[i].keeps(point) is Excess.POSITION
        ]

    def inside(self, position: Floats) -> Floats:
        """A position within the range of each dimension, (dim,)."""
        clipped: Floats = np.clip(position, self.limits.low, self.limits.high)
        return clipped

    def clear(self, path: QuinticPath) -> bool:
        """Whether a path keeps out of the boxes."""
        if not self._boxes:
            return True
        low, high = path.ranges()
        return not any(
            ((high[:, dims] > bottom) & (low[:, dims] < top)).all(axis=1).any()
            for dims, bottom, top in self._boxes
        )

    def follow(
        self, path: QuinticPath, start: MotionState, tick_ns: int, rest: Floats
    ) -> tuple[QuinticPath, set[Reason]]:
        """The motion from a state that follows a path as closely as the limits allow, and comes to rest at a place.

        It has a knot every tick, and between them quintics: with limits as `MotionLimits.planning` gives them for
        that tick, these keep the task's. After `MOST_TICKS` of all dimensions it stops where it is.
        """
        count = max(MOST_TICKS // max(len(self.moving), 1), 1)
        times = path.start_ns + tick_ns * np.arange(1, count + 1, dtype=np.int64)
        wanted = np.stack(path.states_at(times), axis=-1)
        wanted[times > path.end_ns] = np.stack([rest, np.zeros_like(rest), np.zeros_like(rest)], axis=-1)
        states, reasons = [_points(start)], set[Reason]()
        for time_ns, row in zip(times.tolist(), wanted.tolist(), strict=True):
            points, why = self._step(states[-1], [(p, v, a) for p, v, a in row], tick_ns / 1e9, between=True)
            states.append(points)
            reasons |= why
            if time_ns > path.end_ns and not any(v or a for _, v, a in points):
                break
        followed = _path([path.start_ns + tick_ns * k for k in range(len(states))], states)
        return followed.then(self.stopped(followed.knot(-1), followed.end_ns)), reasons

    def _entered(self, begin: list[Point], points: list[Point]) -> bool:
        """Whether a tick, or the fastest stop after it, enters a box."""
        ranges: dict[int, tuple[float, float]] = {}
        for dims, bottom, top in self._boxes:
            for i, low, high in zip(dims, bottom, top, strict=True):
                if i not in ranges:
                    least, most = (
                        self._axes[i].stopping_range(points[i])
                        if i in self.moving
                        else (points[i][0], points[i][0])
                    )
                    ranges[i] = min(least, begin[i][0]), max(most, begin[i][0])
                if ranges[i][1] <= low or ranges[i][0] >= high:
                    break
            else:
                return True
        return False

    def _round_boxes(self, begin: list[Point], points: list[Point], time_s: float) -> list[Point]:
        """The tick with as few dimensions stopped as keep it out of the boxes."""
        stopped = [
            axis.heading(point, 0.0, time_s) if i in self.moving else point
            for i, (axis, point) in enumerate(zip(self._axes, begin, strict=True))
        ]
        for dims in self._fewer():
            tried = [stopped[i] if i in dims else point for i, point in enumerate(points)]
            if not self._entered(begin, tried):
                return tried
        return stopped

    def _fewer(self) -> Iterator[list[int]]:
        """Sets of dimensions to stop: each one of a box, then all of the boxes."""
        dims = sorted({i for box in self._boxes for i in box[0]})
        yield from ([i] for i in dims)
        yield dims


def limiter_for(
    action: ActionSpec, limits: MotionLimits, start: MotionState, ticks_s: Iterable[float]
) -> tuple[MotionLimiter, float]:
    """What keeps a motion from a state on within limits, and its tick: the first of these that leaves room to stop.

    Where none does, the end of the range wins over the acceleration: with the last tick, and as much more
    acceleration as the stop takes (`HARDER`).

    Args:
        action: names the grippers and the keep-out boxes.
        limits: of the task.
        start: where the motion begins.
        ticks_s: lengths of a tick, the longest first; the shorter it is, the more jerk may be planned with.
    """
    for tick_s in ticks_s:
        limiter = MotionLimiter(action, limits.planning(tick_s))
        lost = limiter.lost(start)
        if not lost:
            return limiter, tick_s
    planned = limiter.limits
    for factor in HARDER:
        acceleration, jerk = planned.acceleration.copy(), planned.jerk.copy()
        acceleration[lost] *= factor
        jerk[lost] *= factor**2  # so that all of the stop gets shorter by as much
        limiter = MotionLimiter(action, replace(planned, acceleration=acceleration, jerk=jerk))
        if not limiter.lost(start):
            break
    return limiter, tick_s


def _path(times_ns: list[int], states: list[list[Point]]) -> QuinticPath:
    values = np.array(states)
    return QuinticPath(times_ns, *(np.ascontiguousarray(values[:, :, k]) for k in range(3)))


def _points(state: MotionState) -> list[Point]:
    return list(
        zip(state.position.tolist(), state.velocity.tolist(), state.acceleration.tolist(), strict=True)
    )


def _state(points: list[Point]) -> MotionState:
    values = np.array(points)
    return MotionState(values[:, 0].copy(), values[:, 1].copy(), values[:, 2].copy())


def _within(axis: AxisLimiter, point: Point) -> Point:
    """The nearest target that limits allow to be at; one beyond the range is at its end and stands still."""
    p, v, a = point
    if not axis.low <= p <= axis.high:
        return min(max(p, axis.low), axis.high), 0.0, 0.0
    return p, min(max(v, -axis.velocity), axis.velocity), min(max(a, -axis.acceleration), axis.acceleration)
