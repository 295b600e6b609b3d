"""Min-max normalisation: every dimension of the training data is mapped to [-1, 1].

Statistics are taken from the training episodes once and travel with the policy. Easy to get wrong: a
dimension that never changes has no range to divide by; it is only shifted, so that it becomes 0 and any later
deviation stays small.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

#: A dimension whose values differ by less than this share of their size counts as constant.
RELATIVE_RANGE = 1e-4

Statistics = Mapping[str, Mapping[str, list[float]]]


def min_max(values: NDArray[np.float32]) -> dict[str, list[float]]:
    """Lowest and highest value of each dimension of `values` (N, *shape), flattened."""
    flat = values.reshape(len(values), -1)
    return {"min": flat.min(axis=0).tolist(), "max": flat.max(axis=0).tolist()}


class MinMaxNormalizer(nn.Module):
    """Maps arrays (..., n) between the units of the robot and [-1, 1].

    Args:
        low: lowest value of each of the n dimensions.
        high: highest value.
    """

    def __init__(self, low: list[float], high: list[float]) -> None:
        super().__init__()
        # In float64, because scale and offset are rounded once and then used both ways.
        lo, hi = np.asarray(low, np.float64), np.asarray(high, np.float64)
        size = np.maximum(np.maximum(np.abs(lo), np.abs(hi)), RELATIVE_RANGE)
        constant = hi - lo < RELATIVE_RANGE * size
        scale = np.where(constant, 1.0, 2.0 / np.where(constant, 1.0, hi - lo))
        offset = -(lo + hi) / 2 * scale
        self.register_buffer("scale", torch.from_numpy(scale.astype(np.float32)), persistent=False)
        self.register_buffer("offset", torch.from_numpy(offset.astype(np.float32)), persistent=False)

    scale: Tensor
    offset: Tensor

    def normalize(self, values: Tensor) -> Tensor:
        """From robot units to [-1, 1]; values beyond the training data go beyond it."""
        return values * self.scale + self.offset

    def unnormalize(self, values: Tensor) -> Tensor:
        """From [-1, 1] to robot units."""
        return (values - self.offset) / self.scale
