"""A picture encoder's convolutions as it is trained on a CPU: the same function, faster.

Channels lie last in memory, as the pictures come and as the CPU's convolution kernels like them, above all backwards
and for a first layer of few channels; group norm and ReLU are one compiled pass where that is built (`norm_relu`).
Easy to get wrong: parameters are those of `PictureEncoder`, which remains the definition; inference and export use it
as it is.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dp_ros.policies.norm_relu import NormRelu
from dp_ros.policies.training_library import compiled


def run(layers: nn.Sequential, x: Tensor) -> Tensor:
    """What `layers` make of `x` (N, C, h, w): convolutions, group norms, ReLUs and other modules in any order."""
    x = x.contiguous(memory_format=torch.channels_last)
    left = list(layers)
    while left:
        layer = left.pop(0)
        if isinstance(layer, nn.GroupNorm) and left and isinstance(left[0], nn.ReLU):
            x = norm_relu(layer, x)
            left.pop(0)
        else:
            x = layer(x)
    return x


def norm_relu(norm: nn.GroupNorm, y: Tensor) -> Tensor:
    """relu(norm(y)) of `y` (N, C, h, w)."""
    # One thread makes the compiled pass; torch shares its own passes out.
    own = compiled(NormRelu) if y.dtype == torch.float32 and torch.get_num_threads() == 1 else None
    if own is None:
        return F.relu(norm(y))
    y = y.contiguous(memory_format=torch.channels_last)
    return cast(Tensor, _NormRelu.apply(y, norm.weight, norm.bias, norm.num_groups, norm.eps, own))


class _NormRelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor, gamma: Tensor, beta: Tensor, groups: int, eps: float, own: NormRelu
    ) -> Tensor:
        result, mean, rstd = own.forward(y, gamma, beta, groups, eps)
        ctx.save_for_backward(result, y, mean, rstd, gamma)
        ctx.own = own
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (*ctx.own.backward(gradients[0], *ctx.saved_tensors), None, None, None)
