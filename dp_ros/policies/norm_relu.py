"""Group norm and ReLU in compiled code, for training on a CPU; see `norm_relu.cpp`."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor


class NormRelu:
    """The two passes; tensors are float32 (N, C, h, w), channels last in memory, and on the CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        number, pointer = ctypes.c_int64, ctypes.c_void_p
        self._forward, self._backward = library.dp_norm_relu_forward, library.dp_norm_relu_backward
        self._forward.argtypes = [*[pointer] * 3, ctypes.c_float, *[number] * 4, *[pointer] * 3]
        self._backward.argtypes = [*[pointer] * 6, *[number] * 4, *[pointer] * 3]
        self._forward.restype = self._backward.restype = None

    def forward(
        self, y: Tensor, gamma: Tensor, beta: Tensor, groups: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """relu(group_norm(y)), and mean and rstd (N, groups)."""
        result = torch.empty_like(y)
        mean, rstd = y.new_empty((len(y), groups)), y.new_empty((len(y), groups))
        given = (tensor.data_ptr() for tensor in (y, gamma, beta))
        made = (tensor.data_ptr() for tensor in (result, mean, rstd))
        self._forward(*given, eps, *_shape(y), groups, *made)
        return result, mean, rstd

    def backward(
        self, d_result: Tensor, result: Tensor, y: Tensor, mean: Tensor, rstd: Tensor, gamma: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of y, gamma and beta."""
        d_y, d_result = torch.empty_like(y), d_result.contiguous(memory_format=torch.channels_last)
        d_gamma, d_beta = torch.empty_like(gamma), torch.empty_like(gamma)
        given = (tensor.data_ptr() for tensor in (d_result, result, y, mean, rstd, gamma))
        made = (tensor.data_ptr() for tensor in (d_y, d_gamma, d_beta))
        self._backward(*given, *_shape(y), mean.shape[1], *made)
        return d_y, d_gamma, d_beta


def _shape(y: Tensor) -> tuple[int, int, int]:
    n, channels, height, width = y.shape
    return n, height * width, channels
