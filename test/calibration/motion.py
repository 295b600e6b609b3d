"""Simulated motions and streams with a known latency: what a robot's commands, joints and cameras look like."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dp_ros.calibration.signals import Signal

Floats = NDArray[np.float64]
KINDS = ("free", "moves", "chirp")


class Motion:
    """A smooth motion of `dim` values with a range of about 1, defined at every time.

    Args:
        kind: free (sum of slow sinusoids), moves (from point to point with pauses, minimum jerk), chirp.
        speed: 1 moves as a person teleoperates, about half a hertz.
    """

    def __init__(self, kind: str, dim: int = 2, speed: float = 1.0, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.kind, self.dim, self.speed = kind, dim, speed
        self.frequency = rng.uniform(0.1, 1.2, (8, dim))
        self.phase = rng.uniform(0, 2 * np.pi, (8, dim))
        self.weight = rng.uniform(0.1, 0.3, (8, dim)) / self.frequency**0.5
        self.goals = rng.uniform(-1, 1, (400, dim))
        self.starts = np.cumsum(rng.uniform(0.6, 2.5, 400)) - 5.0
        self.lasts = rng.uniform(0.4, 1.0, 400)

    def at(self, times_s: Floats) -> Floats:
        t = np.asarray(times_s, dtype=np.float64) * self.speed
        if self.kind == "free":
            angle = 2 * np.pi * t[:, None, None] * self.frequency + self.phase
            return (self.weight * np.sin(angle)).sum(1)
        if self.kind == "chirp":
            angle = 2 * np.pi * (0.1 * t + 0.025 * t**2)
            return np.sin(angle[:, None] + self.phase[0])
        leg = np.clip(np.searchsorted(self.starts, t) - 1, 0, len(self.goals) - 2)
        u = np.clip((t - self.starts[leg]) / self.lasts[leg], 0, 1)[:, None]
        step = 10 * u**3 - 15 * u**4 + 6 * u**5
        return self.goals[leg] + step * (self.goals[leg + 1] - self.goals[leg])


def stamps(rate_hz: float, duration_s: float, rng: np.random.Generator, jitter: float = 0.2) -> Floats:
    """Irregular stamps: jitter in periods, and one sample in fifty lost."""
    period_s = 1 / rate_hz
    times = np.arange(0, duration_s, period_s) + rng.uniform(0, 1) * period_s
    times += jitter * period_s * rng.uniform(-0.5, 0.5, len(times))
    return times[rng.random(len(times)) > 0.02]


def sampled(
    motion: Motion,
    rate_hz: float,
    *,
    latency_s: float = 0.0,
    duration_s: float = 20.0,
    noise: float = 0.0,
    gain: float = 1.0,
    drift: float = 0.0,
    seed: int = 0,
) -> Signal:
    """A stream that shows the motion `latency_s` late; noise and drift (over the whole) in units of its spread."""
    rng = np.random.default_rng(seed)
    times = stamps(rate_hz, duration_s, rng)
    values = motion.at(times - latency_s)
    spread = values.std()
    values = values + noise * spread * rng.standard_normal(values.shape)
    values = gain * values + gain * drift * spread * (times / duration_s)[:, None] + 3.0
    return Signal(times, values, tuple(f"joint_{i}" for i in range(motion.dim)))
