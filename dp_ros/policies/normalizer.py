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

from dp_ros.inference.ranges import scale_and_offset

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
        scale, offset = scale_and_offset(low, high)
        self.register_buffer("scale", torch.from_numpy(scale), persistent=False)
        self.register_buffer("offset", torch.from_numpy(offset), persistent=False)

    scale: Tensor
    offset: Tensor

    def normalize(self, values: Tensor) -> Tensor:
        """From robot units to [-1, 1]; values beyond the training data go beyond it."""
        return values * self.scale + self.offset

    def unnormalize(self, values: Tensor) -> Tensor:
        """From [-1, 1] to robot units."""
        return (values - self.offset) / self.scale
