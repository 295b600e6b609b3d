"""Group norm and mish in compiled code, for training on a CPU; see `norm_mish.cpp`."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor


class NormMish:
    """The two passes; tensors are float32, contiguous, (T, B, C), and on the CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        number, pointer = ctypes.c_int64, ctypes.c_void_p
        self._forward, self._backward = library.dp_norm_mish_forward, library.dp_norm_mish_backward
        self._forward.argtypes = [*[pointer] * 4, ctypes.c_float, *[number] * 4, *[pointer] * 4]
        self._backward.argtypes = [*[pointer] * 6, *[number] * 4, *[pointer] * 4]
        self._forward.restype = self._backward.restype = None

    def forward(
        self, y: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, groups: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """mish(group_norm(y + bias)), its slope, mean and rstd (B, groups, 1). `y` gets the bias."""
        result, slope = torch.empty_like(y), torch.empty_like(y)
        mean, rstd = y.new_empty((y.shape[1], groups, 1)), y.new_empty((y.shape[1], groups, 1))
        given = (tensor.data_ptr() for tensor in (y, bias, gamma, beta))
        made = (tensor.data_ptr() for tensor in (result, slope, mean, rstd))
        self._forward(*given, eps, *y.shape, groups, *made)
        return result, slope, mean, rstd

    def backward(
        self, d_result: Tensor, slope: Tensor, y: Tensor, mean: Tensor, rstd: Tensor, gamma: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of y, bias, gamma and beta."""
        d_y, d_result = torch.empty_like(y), d_result.contiguous()  # held until the call is over
        sums = torch.empty((3, y.shape[2]))
        given = (tensor.data_ptr() for tensor in (d_result, slope, y, mean, rstd, gamma))
        made = (tensor.data_ptr() for tensor in (d_y, *sums.unbind()))
        self._backward(*given, *y.shape, mean.shape[1], *made)
        d_bias, d_gamma, d_beta = sums.unbind()
        return d_y, d_bias, d_gamma, d_beta
