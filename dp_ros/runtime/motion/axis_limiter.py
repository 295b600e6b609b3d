"""One tick of one dimension of a motion that may not exceed its limits, towards a state that may ask for anything.

A dimension is a triple integrator whose place, speed, acceleration and jerk are bounded. Where the state asked for
can be reached within a tick without exceeding them, and leaves room to stop, it is taken as it is. Otherwise the
motion heads for a velocity: the highest one from which, after this tick, the target can still be met without passing
it. Easy to get wrong: a state can be within every limit and yet be lost, because it can no longer stop before the
end; so what must hold is not the limits but that the fastest stop keeps them from here on (viability). What is left of
a stop is the fastest one from there, so whoever stops in time stays within the range to the end.

Velocity changes are time-optimal: jerk, hold, jerk back (Biagiotti and Melchiorri, "Trajectory Planning for Automatic
Machines and Robots", 2008, section 3.4). What can be reached within a tick is Markov's moment problem for a bounded
density (Krein and Nudelman, "The Markov Moment Problem and Extremal Problems", 1977). Plain floats: for the few
dimensions of a robot they are ten times faster than arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from math import inf, sqrt

#: Position, velocity, acceleration of one dimension.
Point = tuple[float, float, float]

#: Relative slack of every comparison with a limit.
SLACK = 1e-9
#: Slack of the moments of what is reached within a tick, which are numbers between 0 and 1.
MOMENT_SLACK = 1e-6
#: Relative rounding of a difference of two positions.
ROUNDING = 4e-15
#: Share of the jerk that catching up plans with; the rest follows the target's own jerk.
CATCH_UP = 0.7
#: Evaluations of the search for a velocity.
SEARCH = 24
#: How often the way between two ticks is halved to find out whether it stays within the range.
HALVINGS = 4


class Excess(IntEnum):
    """The lowest derivative of which a request exceeds the limit; NONE where none is."""

    NONE = 0
    POSITION = 1
    VELOCITY = 2
    ACCELERATION = 3
    JERK = 4


@dataclass(frozen=True, slots=True)
class AxisLimiter:
    """Keeps one dimension within its limits, tick by tick; it has no memory.

    Attributes:
        low: lowest position.
        high: highest position.
        velocity: largest speed.
        acceleration: largest acceleration.
        jerk: largest jerk.
    """

    low: float
    high: float
    velocity: float
    acceleration: float
    jerk: float

    def keeps(self, state: Point) -> Excess:
        """The first limit that the fastest stop from a state exceeds."""
        _, v, a = state
        if self._beyond(state, SLACK * (self.high - self.low)):
            return Excess.POSITION
        most = self.velocity * (1 + SLACK)
        if abs(v) > most or abs(v + a * abs(a) / (2 * self.jerk)) > most:
            return Excess.VELOCITY
        return Excess.ACCELERATION if abs(a) > self.acceleration * (1 + SLACK) else Excess.NONE

    def exceeded(self, start: Point, wanted: Point, h: float) -> Excess:
        """The first limit that every motion to the wanted state within `h` seconds would exceed.

        A request from a motion that is within the limits is never refused, whatever it does between two ticks.
        """
        excess = self.keeps(wanted)
        if excess in (Excess.POSITION, Excess.VELOCITY):
            return excess
        (p0, v0, a0), (p1, v1, a1) = start, wanted
        rounding = ROUNDING * (abs(p0) + abs(p1))
        if abs(p1 - p0) > self.velocity * h * (1 + SLACK) + rounding:
            return Excess.VELOCITY
        way = p1 - p0 - v0 * h
        # Moments of the acceleration as a density between 0 and 1 over the time to go.
        scale = self.acceleration * h
        n0, n1 = (v1 - v0) / scale / 2 + 0.5, way / (scale * h) / 2 + 0.25
        if excess or not _first_moments(n0, n1, MOMENT_SLACK + rounding / (scale * h)):
            return Excess.ACCELERATION
        # And of the jerk.
        scale = self.jerk * h
        m0 = (a1 - a0) / scale / 2 + 0.5
        m1 = (v1 - v0 - a0 * h) / (scale * h) / 2 + 0.25
        m2 = (way - 0.5 * a0 * h * h) / (scale * h * h) + 1 / 6
        slack = MOMENT_SLACK + rounding / (scale * h * h)
        if (
            not _first_moments(m0, m1, slack)
            or m2 < _least_second(m0, m1) - slack
            or 1 / 3 - m2 < _least_second(1 - m0, 0.5 - m1) - slack
        ):
            return Excess.JERK
        return Excess.NONE

    def towards(self, start: Point, wanted: Point, h: float) -> Point:
        """The state after `h` seconds on the way to meeting a target that will be in the wanted state then."""
        _, v, a = start
        most = abs(a) + self.jerk * h
        reach = most * h + most * most / (2 * self.jerk)
        low, high = self._clipped(v - reach), self._clipped(v + reach)
        under, over = self._miss(start, wanted, low, h), self._miss(start, wanted, high, h)
        best = low if under >= 0 else high
        if under < 0 < over:
            best = self._search(start, wanted, h, (low, under), (high, over))
        for target in (best, low, 0.0, -self.velocity, self.velocity):
            after = self.heading(start, target, h)
            if not self.keeps(after):
                return after
        return self.heading(start, best, h)  # the start was outside already: back in as fast as limits let it

    def heading(self, start: Point, target: float, h: float) -> Point:
        """The state after `h` seconds of the fastest change to a velocity."""
        return _changed(start, target, self.acceleration, self.jerk, h)

    def stop_times(self, start: Point) -> tuple[float, float, float]:
        """Seconds after which the fastest stop from a state changes its jerk, and the last: after which it stands."""
        _, times = _plan(start[1], start[2], self.acceleration, self.jerk)
        return times

    def stopping_range(self, start: Point) -> tuple[float, float]:
        """Lowest and highest position of the fastest stop from a state, that state's included."""
        p, v, a = start
        end = _changed(start, 0.0, self.acceleration, self.jerk, inf)[0]
        low, high = min(p, end), max(p, end)
        if v * (v + a * abs(a) / (2 * self.jerk)) < 0:  # it turns round first
            side = 1.0 if v > 0 else -1.0
            speed, pull = side * v, -side * a
            time_s = (pull - sqrt(max(pull * pull - 2 * self.jerk * speed, 0.0))) / self.jerk
            turn = p + side * time_s * (speed + time_s * (-0.5 * pull + time_s * self.jerk / 6))
            low, high = min(low, turn), max(high, turn)
        return low, high

    def holds_between(self, start: Point, after: Point, h: float) -> bool:
        """Whether the quintic from one state to another stays within the range."""
        (p0, v0, a0), (p1, v1, a1) = start, after
        step, bend = h / 5, h * h / 20
        # Its Bernstein coefficients, and those of its halves where they are not enough.
        parts = [
            [
                p0,
                p0 + v0 * step,
                p0 + 2 * v0 * step + a0 * bend,
                p1 - 2 * v1 * step + a1 * bend,
                p1 - v1 * step,
                p1,
            ]
        ]
        edge = SLACK * (self.high - self.low)
        for _ in range(HALVINGS):
            parts = [part for part in parts if min(part) < self.low - edge or max(part) > self.high + edge]
            if not parts:
                return True
            parts = [half for part in parts for half in _halves(part)]
        return False

    def _clipped(self, v: float) -> float:
        return min(max(v, -self.velocity), self.velocity)

    def _search(
        self, start: Point, wanted: Point, h: float, below: tuple[float, float], above: tuple[float, float]
    ) -> float:
        """Velocity at which the miss is zero, from below (false position with the Illinois weights)."""
        (low, under), (high, over) = below, above
        goal, side = SLACK * 1e-3 * (self.high - self.low), 0
        weight_low, weight_high = under, over
        for _ in range(SEARCH):
            middle = (low * weight_high - high * weight_low) / (weight_high - weight_low)
            if not low < middle < high:
                middle = 0.5 * (low + high)
                if not low < middle < high:
                    break
            miss = self._miss(start, wanted, middle, h)
            if miss <= 0:
                low, weight_low = middle, miss
                weight_high = weight_high / 2 if side < 0 else weight_high
                side = -1
            else:
                high, weight_high = middle, miss
                weight_low = weight_low / 2 if side > 0 else weight_low
                side = 1
            if abs(miss) < goal:
                break
        return low

    def _miss(self, start: Point, wanted: Point, target: float, h: float) -> float:
        """By how much a tick towards a velocity is too much: it rises with the velocity, and is 0 at the best."""
        after = p, v, a = self.heading(start, target, h)
        if beyond := self._beyond(after, 0.0):
            return beyond
        w, b = v - wanted[1], a - wanted[2]
        acceleration = max(self.acceleration - abs(wanted[2]), 0.2 * self.acceleration)
        return p - wanted[0] + _changed((0.0, w, b), 0.0, acceleration, CATCH_UP * self.jerk, inf)[0]

    def _beyond(self, state: Point, edge: float) -> float:
        """How far beyond the range, by more than an edge, the fastest stop leads: above 0 at its high end."""
        p, v, a = state
        # No stop leads further than this: what the acceleration adds to the speed first, and then the braking.
        speed = abs(v) + a * a / (2 * self.jerk)
        room = speed * ((abs(a) + self.acceleration) / self.jerk + speed / (2 * self.acceleration))
        if self.low <= p - room and p + room <= self.high:
            return 0.0
        low, high = self.stopping_range(state)
        if high > self.high + edge:
            return high - self.high
        return low - self.low if low < self.low - edge else 0.0


def _plan(w: float, a: float, acceleration: float, jerk: float) -> tuple[float, tuple[float, float, float]]:
    """The fastest way to lose a velocity: which side it is on, and when jerk, hold and jerk back end.

    A start beyond `acceleration` goes no further.
    """
    side = 1.0 if w + a * abs(a) / (2 * jerk) >= 0 else -1.0
    # Seen from that side the velocity is too high: slow down to a peak deceleration, hold it, and let go of it.
    w, a = side * w, side * a
    most = max(acceleration, -a)
    peak = max(sqrt(max(jerk * w + 0.5 * a * a, 0.0)), -a)
    hold = 0.0
    if peak > most:
        peak, hold = most, (w + a * a / (2 * jerk) - most * most / jerk) / most
    first = (a + peak) / jerk
    return side, (first, first + hold, first + hold + peak / jerk)


def _changed(start: Point, target: float, acceleration: float, jerk: float, time_s: float) -> Point:
    """The state after a time of the fastest change from a state to a velocity at no acceleration.

    With an infinite time: the state at its end.
    """
    p, w, a = start[0], start[1] - target, start[2]
    side, times = _plan(w, a, acceleration, jerk)
    w, a = side * w, side * a
    x, begin = 0.0, 0.0
    for j, end in zip((-jerk, 0.0, jerk), times, strict=True):
        t = min(end, time_s) - begin
        x += t * (w + t * (0.5 * a + t * j / 6))
        w += t * (a + 0.5 * t * j)
        a += t * j
        if end >= time_s:
            return p + side * x + target * time_s, target + side * w, side * a
        begin = end
    return p + side * x + (target * time_s if target else 0.0), target, 0.0


def _halves(coefficients: list[float]) -> tuple[list[float], list[float]]:
    """Bernstein coefficients of the halves of a polynomial (de Casteljau)."""
    left, right, row = [coefficients[0]], [coefficients[-1]], coefficients
    while len(row) > 1:
        row = [0.5 * (x + y) for x, y in pairwise(row)]
        left.append(row[0])
        right.append(row[-1])
    return left, right[::-1]


def _first_moments(m0: float, m1: float, slack: float) -> bool:
    """Whether a density between 0 and 1 on [0, 1] can have this mass and first moment."""
    half = 0.5 * m0 * m0
    return -slack <= m0 <= 1 + slack and half - slack <= m1 <= m0 - half + slack


def _least_second(m0: float, m1: float) -> float:
    """Least second moment of such a density: that of one interval with this mass and mean."""
    mass = max(m0, 1e-12)
    return m1 * m1 / mass + mass**3 / 12
