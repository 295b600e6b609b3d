"""Signals in time: stamped samples at whatever rate they came, and what is made of them before they are compared.

A signal keeps its own stamps; only the faster of two is ever put on a grid, and it is smoothed there with a
symmetric kernel, which moves nothing in time. Easy to get wrong: linear interpolation alone averages the noise
of two samples half way between them and of none at a sample, so that a correlation of raw interpolated signals
peaks at multiples of the period and not where the latency is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dp_ros.errors import UserError

Floats = NDArray[np.float64]
#: Step of the grid that the faster of two signals is put on.
GRID_S = 0.002
#: A silence longer than this, and longer than five periods, splits a signal.
GAP_S = 0.5
#: Smallest standard deviation of the smoothing kernel; half a period if that is more. It passes what an arm does
#: (3 dB at 3.3 Hz) and leaves a correlation without ripples for the parabola at its peak.
SMOOTHING_S = 0.04
#: The same where a speed is wanted: differentiation amplifies noise.
SPEED_SMOOTHING_S = 0.025


class CalibrationError(UserError):
    """A latency that the motion given does not determine; the message says why and which motion would."""


@dataclass(frozen=True)
class Signal:
    """Values with their times.

    Attributes:
        times_s: (n,) strictly increasing, seconds.
        values: (n, dim) finite.
        names: one for each column.
    """

    times_s: Floats
    values: Floats
    names: tuple[str, ...]

    @classmethod
    def of(
        cls, stamps_ns: ArrayLike, values: ArrayLike, names: Sequence[str] = (), *, origin_ns: int = 0
    ) -> Signal:
        """A signal of samples as they came: any order, some twice, some not finite.

        Args:
            stamps_ns: (n,) times.
            values: (n,) or (n, dim).
            names: of the columns; numbered if left out.
            origin_ns: the time that becomes 0 s; one for all signals that are compared.
        """
        stamps = np.asarray(stamps_ns, dtype=np.int64)
        table = np.asarray(values, dtype=np.float64).reshape(len(stamps), -1)
        usable = np.isfinite(table).all(axis=1) & (stamps > 0)
        stamps, first = np.unique(stamps[usable], return_index=True)
        table = table[usable][first]
        columns = tuple(names) or tuple(f"value {i}" for i in range(table.shape[1]))
        if len(columns) != table.shape[1]:
            raise ValueError(f"{len(columns)} names for {table.shape[1]} columns")
        return cls((stamps - origin_ns) / 1e9, table, columns)

    @property
    def period_s(self) -> float:
        """Median time between two samples, seconds; infinite with fewer than two."""
        return float(np.median(np.diff(self.times_s))) if len(self.times_s) > 1 else float("inf")

    @property
    def duration_s(self) -> float:
        """Time from the first sample to the last, seconds."""
        return float(self.times_s[-1] - self.times_s[0]) if len(self.times_s) else 0.0

    def columns(self, indices: Sequence[int]) -> Signal:
        """Some of the columns, in the order given."""
        chosen = list(indices)
        return Signal(self.times_s, self.values[:, chosen], tuple(self.names[i] for i in chosen))

    def shifted(self, by_s: float) -> Signal:
        """The same values at times `by_s` later."""
        return Signal(self.times_s + by_s, self.values, self.names)

    def between(self, start_s: float, end_s: float) -> Signal:
        """The samples from `start_s` to `end_s`, both included."""
        inside = (self.times_s >= start_s) & (self.times_s <= end_s)
        return Signal(self.times_s[inside], self.values[inside], self.names)

    def pieces(self) -> list[Signal]:
        """The signal cut where nothing came for long."""
        gap_s = max(GAP_S, 5 * self.period_s)
        cuts = np.flatnonzero(np.diff(self.times_s) > gap_s) + 1
        bounds = [0, *cuts.tolist(), len(self.times_s)]
        return [
            Signal(self.times_s[a:b], self.values[a:b], self.names)
            for a, b in zip(bounds, bounds[1:], strict=False)
            if b - a > 1
        ]

    def on_grid(self, smoothing_s: float = SMOOTHING_S) -> Signal:
        """Interpolated on a grid of GRID_S and smoothed with a Gaussian of at least half a period.

        Args:
            smoothing_s: least standard deviation of the kernel.
        """
        count = int(self.duration_s / GRID_S) + 1
        times = self.times_s[0] + GRID_S * np.arange(count)
        values = np.stack([np.interp(times, self.times_s, column) for column in self.values.T], axis=1)
        width = max(smoothing_s, 0.5 * self.period_s) / GRID_S
        return Signal(times, _gaussian(values, width), self.names)

    def velocity(self) -> Signal:
        """Derivative of each column, on a grid of GRID_S."""
        smooth = self.on_grid(SPEED_SMOOTHING_S)
        velocity = np.gradient(smooth.values, GRID_S, axis=0)
        return Signal(smooth.times_s, velocity, tuple(f"d/dt {name}" for name in self.names))

    def speed(self) -> Signal:
        """How fast each column moves, without sign, on a grid of GRID_S."""
        velocity = self.velocity()
        return Signal(velocity.times_s, np.abs(velocity.values), tuple(f"|{n}|" for n in velocity.names))

    def integral(self) -> Signal:
        """Integral over time by the trapezium rule: positions of velocities, up to a constant."""
        steps = np.diff(self.times_s)[:, None] * (self.values[1:] + self.values[:-1]) / 2
        values = np.concatenate([np.zeros((1, steps.shape[1])), np.cumsum(steps, axis=0)])
        return Signal(self.times_s, values, self.names)


def _gaussian(values: Floats, width: float) -> Floats:
    """Columns of (n, dim) smoothed by a Gaussian of `width` samples; the ends are continued by reflection."""
    reach = min(int(np.ceil(4 * width)), len(values) - 1)
    if reach < 1:
        return values
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(values, ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")
    return np.stack([np.convolve(column, kernel, mode="valid") for column in padded.T], axis=1)
