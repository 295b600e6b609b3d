"""One tick of one dimension of a motion that may not exceed its limits, towards a state that may ask for anything.

A dimension is a triple integrator whose place, speed, acceleration and jerk are bounded. Where the state asked for
can be reached within a tick without exceeding them, and leaves room to stop, it is taken as it is. Otherwise the
motion heads for a velocity: the highest one from which, after this tick, the target can still be met without passing
it. Easy to get wrong: a state can be within every limit and yet be lost, because it can no longer stop before the
end; so what must hold is not the limits but that they can be kept from here on (viability).

Velocity changes are time-optimal: jerk, hold, jerk back (Biagiotti and Melchiorri, "Trajectory Planning for Automatic
Machines and Robots", 2008, section 3.4). What can be reached within a tick is Markov's moment problem for a bounded
density (Krein and Nudelman, "The Markov Moment Problem and Extremal Problems", 1977). Plain floats: for the few
dimensions of a robot they are ten times faster than arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
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
        """The first limit that cannot be kept from a state on."""
        p, v, a = state
        edge = SLACK * (self.high - self.low)
        if self._furthest(p, v, a) > self.high + edge or -self._furthest(-p, -v, -a) < self.low - edge:
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
        p, v, a = self.heading(start, target, h)
        over = self._furthest(p, v, a) - self.high
        if over > 0:
            return over
        under = -self._furthest(-p, -v, -a) - self.low
        if under < 0:
            return under
        w, b = v - wanted[1], a - wanted[2]
        acceleration = max(self.acceleration - abs(wanted[2]), 0.2 * self.acceleration)
        return p - wanted[0] + _changed((0.0, w, b), 0.0, acceleration, CATCH_UP * self.jerk, inf)[0]

    def _furthest(self, p: float, v: float, a: float) -> float:
        """The highest position that braking as hard as possible still leads to."""
        radicand = a * a + 2 * self.jerk * v
        if radicand <= 0:
            return p
        turn, most = sqrt(radicand), max(self.acceleration, -a)
        ramp = (a + min(turn, most)) / self.jerk
        if ramp < 0:
            return p
        at = p + ramp * (v + ramp * (0.5 * a - ramp * self.jerk / 6))
        if turn > most:
            speed = v + ramp * (a - 0.5 * ramp * self.jerk)
            at += speed * speed / (2 * most)
        return max(at, p)


def _changed(start: Point, target: float, acceleration: float, jerk: float, time_s: float) -> Point:
    """The state after a time of the fastest change from a state to a velocity at no acceleration.

    With an infinite time: the state at its end. A start beyond `acceleration` goes no further.
    """
    p, w, a = start[0], start[1] - target, start[2]
    side = 1.0 if w + a * abs(a) / (2 * jerk) >= 0 else -1.0
    # Seen from that side the velocity is too high: slow down to a peak deceleration, hold it, and let go of it.
    w, a = side * w, side * a
    most = max(acceleration, -a)
    peak = max(sqrt(max(jerk * w + 0.5 * a * a, 0.0)), -a)
    hold = 0.0
    if peak > most:
        peak, hold = most, (w + a * a / (2 * jerk) - most * most / jerk) / most
    x, left = 0.0, time_s
    for j, span in ((-jerk, (a + peak) / jerk), (0.0, hold), (jerk, peak / jerk)):
        t = min(span, left)
        x += t * (w + t * (0.5 * a + t * j / 6))
        w += t * (a + 0.5 * t * j)
        a += t * j
        left -= t
        if left <= 0:
            return p + side * x + target * time_s, target + side * w, side * a
    return p + side * x + (target * time_s if target else 0.0), target, 0.0


def _first_moments(m0: float, m1: float, slack: float) -> bool:
    """Whether a density between 0 and 1 on [0, 1] can have this mass and first moment."""
    half = 0.5 * m0 * m0
    return -slack <= m0 <= 1 + slack and half - slack <= m1 <= m0 - half + slack


def _least_second(m0: float, m1: float) -> float:
    """Least second moment of such a density: that of one interval with this mass and mean."""
    mass = max(m0, 1e-12)
    return m1 * m1 / mass + mass**3 / 12
