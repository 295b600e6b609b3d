"""The limits of a task's motion as arrays, with something sensible where a task states none.

A robot that has a position range also has a speed it cannot exceed, so nothing here is infinite: what the
task leaves out is derived, generously, from what it states. Easy to get wrong: a path must be planned a little
inside these limits, because what checks it on the way out uses the limits themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dp_ros.runtime.motion.spline import Bounds, QuinticPath
from dp_ros.task import ActionSpec

Floats = npt.NDArray[np.float64]

#: Where a task states no velocity limit: the whole position range in this time.
CROSS_RANGE_S = 0.5
#: Where it states no acceleration limit: full speed after this time.
REACH_VELOCITY_S = 0.1
#: Where it states no jerk limit: full acceleration after this time.
REACH_ACCELERATION_S = 0.05

#: Largest jerk of the quintic between two states of a motion whose own jerk is at most 1. That quintic's jerk is
#: the least-squares quadratic fit of the motion's jerk (their first three moments agree); 2.07 is the largest
#: value of a quadratic Legendre projection of a function within [-1, 1].
QUINTIC_JERK = 2.1


@dataclass(frozen=True)
class MotionLimits:
    """Limits of each dimension, (dim,) each; all finite.

    Attributes:
        low: lowest position.
        high: highest position.
        velocity: largest speed, units/s.
        acceleration: largest, units/s^2.
        jerk: largest, units/s^3.
    """

    low: Floats
    high: Floats
    velocity: Floats
    acceleration: Floats
    jerk: Floats

    @classmethod
    def of(cls, action: ActionSpec) -> MotionLimits:
        """Limits that a task states, and derived ones in place of those that it does not state."""
        low = np.array(action.limits.position.min, dtype=np.float64)
        high = np.array(action.limits.position.max, dtype=np.float64)
        velocity = _given(action.limits, "velocity", (high - low) / CROSS_RANGE_S)
        acceleration = _given(action.limits, "acceleration", velocity / REACH_VELOCITY_S)
        jerk = _given(action.limits, "jerk", acceleration / REACH_ACCELERATION_S)
        return cls(low, high, velocity, acceleration, jerk)

    def planning(self, tick_s: float) -> MotionLimits:
        """Limits to plan with, so that a path sampled every `tick_s` and joined by quintics keeps these."""
        acceleration = 0.95 * self.acceleration
        jerk = np.minimum(self.jerk / QUINTIC_JERK, acceleration / (4 * tick_s))
        inset = np.minimum(0.01 * jerk * tick_s**3, 1e-3 * (self.high - self.low))
        return replace(
            self,
            low=self.low + inset,
            high=self.high - inset,
            velocity=0.98 * self.velocity,
            acceleration=acceleration,
            jerk=jerk,
        )

    def hold(self, bounds: Bounds, dims: npt.NDArray[np.intp], slack: float = 1e-9) -> bool:
        """Whether a motion with these bounds keeps the limits, looking at some dimensions only."""
        return bool(self.hold_each(bounds, dims, slack).all())

    def hold_each(
        self, bounds: Bounds, dims: npt.NDArray[np.intp], slack: float = 1e-9
    ) -> npt.NDArray[np.bool_]:
        """The same for bounds of several motions, (..., dim): (...,)."""
        one = 1.0 + slack
        edge = slack * (self.high - self.low)
        ok = (
            (bounds.low >= self.low - edge)
            & (bounds.high <= self.high + edge)
            & (bounds.velocity <= self.velocity * one)
            & (bounds.acceleration <= self.acceleration * one)
            & (bounds.jerk <= self.jerk * one)
        )
        return np.asarray(ok[..., dims].all(axis=-1))

    def hold_at_knots(self, path: QuinticPath, dims: npt.NDArray[np.intp], slack: float = 1e-9) -> bool:
        """Whether a path keeps them at its knots: where it does not, its bounds need not be found."""
        one = 1.0 + slack
        edge = slack * (self.high - self.low)
        p, v, a = path.positions, np.abs(path.velocities), np.abs(path.accelerations)
        ok = (p >= self.low - edge) & (p <= self.high + edge)
        ok &= (v <= self.velocity * one) & (a <= self.acceleration * one)
        return bool(ok[:, dims].all())


def _given(limits: object, name: str, otherwise: Floats) -> Floats:
    values: Sequence[float | None] | None = getattr(limits, name, None)
    if values is None:
        return otherwise
    return np.array([d if v is None else v for v, d in zip(values, otherwise, strict=True)], dtype=np.float64)
