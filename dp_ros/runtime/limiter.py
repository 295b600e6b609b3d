"""All dimensions of a motion kept within their limits and out of the keep-out boxes, tick by tick.

A box is avoided as the ends of a joint are: no tick may lead to a state from which the fastest stop would enter it.
Easy to get wrong: that stop is judged by the range of each dimension on its own, so a motion that would pass a
corner of a box closely, and fast, is slowed down there.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from dp_ros.runtime.axis_limiter import SLACK, AxisLimiter, Excess, Point
from dp_ros.runtime.limits import MotionLimits
from dp_ros.runtime.spline import MotionState, QuinticPath
from dp_ros.task import ActionSpec

Floats = npt.NDArray[np.float64]

#: Ticks after the end of a path within which a motion that follows it gets to its place; then it stops.
LAST_TICKS = 1000


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
        points, reasons = _points(wanted), set[Reason]()
        begin = _points(start)
        for i in self.moving:
            axis, point = self._axes[i], points[i]
            if excess := axis.exceeded(begin[i], point, time_s):
                reasons.add(_REASONS[excess])
                allowed = _within(axis, point)
                met = allowed != point and not axis.exceeded(begin[i], allowed, time_s)
                points[i] = allowed if met else axis.towards(begin[i], allowed, time_s)
        for i in self._grippers:
            at = min(max(points[i][0], self._axes[i].low), self._axes[i].high)
            if at != points[i][0]:
                reasons.add(Reason.POSITION_LIMIT)
            points[i] = at, 0.0, 0.0
        if self._boxes and self._entered(begin, points):
            reasons.add(Reason.KEEP_OUT)
            points = self._round_boxes(begin, points, time_s)
        return _state(points), reasons

    def stop(self, start: MotionState, time_s: float) -> MotionState:
        """The state after a time of the fastest stop."""
        return _state(
            [
                self._axes[i].heading(point, 0.0, time_s) if i in self.moving else point
                for i, point in enumerate(_points(start))
            ]
        )

    def stopped(self, start: MotionState, time_ns: int, tick_ns: int) -> QuinticPath:
        """The whole of the fastest stop, a knot every tick; grippers stay where they are."""
        still = [start.velocity.copy(), start.acceleration.copy()]
        for part in still:
            part[self._grippers] = 0.0
        states, times = [MotionState(start.position, *still)], [time_ns]
        while states[-1].velocity.any() or states[-1].acceleration.any():
            states.append(self.stop(states[-1], tick_ns / 1e9))
            times.append(times[-1] + tick_ns)
        return QuinticPath(
            times,
            np.array([s.position for s in states]),
            np.array([s.velocity for s in states]),
            np.array([s.acceleration for s in states]),
        )

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
        that tick, these keep the task's.
        """
        states, times, reasons = [start], [path.start_ns], set[Reason]()
        state, time_ns = start, path.start_ns
        last_ns = path.end_ns + LAST_TICKS * tick_ns
        at_rest = MotionState.at_rest(rest)
        while True:
            time_ns += tick_ns
            if time_ns < last_ns:
                wanted = path.state_at(time_ns) if time_ns <= path.end_ns else at_rest
                state, why = self.step(state, wanted, tick_ns / 1e9)
                reasons |= why
            else:
                state = self.stop(state, tick_ns / 1e9)
            states.append(state)
            times.append(time_ns)
            if time_ns > path.end_ns and not (state.velocity.any() or state.acceleration.any()):
                break
        return QuinticPath(
            times,
            np.array([s.position for s in states]),
            np.array([s.velocity for s in states]),
            np.array([s.acceleration for s in states]),
        ), reasons

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
