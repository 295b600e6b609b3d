"""Noise on what the simulated robot executes, as if its drive were imprecise.

Demonstrations made under it show how to come back from where one did not mean to go: the robot executes the
disturbed target, the recording holds the one that was commanded. Easy to get wrong: the draws must come one
for each control step from a stream of the episode's own, or the same seed gives another episode.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dp_ros.sim.pusht import WORLD_SIZE_PX

_STREAM = 0xAC7  # keeps these draws apart from others that start from the same episode seed


class ActuationNoise:
    """Normal noise of `std_px` on each coordinate of a target, one draw per call of `apply`.

    Args:
        std_px: standard deviation, px; 0 leaves targets as they are.
        seed: of the episode, not negative.
    """

    def __init__(self, std_px: float, seed: int) -> None:
        self.std_px = std_px
        self._draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([_STREAM, seed])))

    def apply(self, target: ArrayLike) -> NDArray[np.float64]:
        """The target (2,) that is executed in place of `target`, px, inside the world."""
        clean = np.asarray(target, dtype=np.float64)
        if self.std_px == 0.0:
            return clean
        return np.clip(clean + self._draw.normal(0.0, self.std_px, 2), 0.0, WORLD_SIZE_PX)
