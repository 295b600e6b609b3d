"""The U-Net's forward and backward pass as it is trained on a CPU: the same function, about twice as fast.

A convolution over 4 to 16 steps is too short for the CPU's convolution kernels, above all backwards. Here it is
done by the convolution theorem: a discrete Fourier transform of T + k // 2 points over time (what wraps round falls
outside the T steps that are wanted), one matrix product for each frequency, and the transform back. Each complex
product is three real ones (Gauss), so everything is matrix products on tensors (T, B, C), time first, and 4 steps
with a kernel of 5 cost 8 products instead of 20. Group norm and mish follow in the same autograd function, with
their derivatives written out, in compiled code where that is built (`norm_mish`). Easy to get wrong: parameters are
those of `ConditionalUnet1d`, which remains the definition; inference and export use it as it is, and a change to its
layers must be made here too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dp_ros.policies.norm_mish import NormMish
from dp_ros.policies.training_library import compiled

if TYPE_CHECKING:
    from dp_ros.policies.unet1d import ConditionalUnet1d, ConvNormMish, FilmResidualBlock, _Level

#: Beyond this mish(x) = x in float32 and in float64, and exp(x) squared still is a number in both.
_MISH_IS_LINEAR = 20.0


def denoise(net: ConditionalUnet1d, actions: Tensor, film: Tensor, known: Tensor | None) -> Tensor:
    """`ConditionalUnet1d.denoise`: `actions` (B, T, A), `film` (B, F), `known` (B, T); gives (B, T, A)."""
    films = iter(film.split(net.film_sizes, dim=1))  # each (B, 2 C)
    x = actions.transpose(0, 1)  # (T, B, A)
    if net.mask_channel:
        mask = torch.zeros_like(x[..., :1]) if known is None else known.to(x.dtype).t().unsqueeze(-1)
        x = torch.cat([x, mask], dim=-1)
    skips = []
    for level in cast("Iterable[_Level]", net.down):
        x = _block(level.first, x, next(films))
        x = _block(level.second, x, next(films))  # (T / 2**level, B, C_level)
        skips.append(x)
        x = x if isinstance(level.resample, nn.Identity) else _halve(cast(nn.Conv1d, level.resample), x)
    for middle in cast("Iterable[FilmResidualBlock]", net.middle):
        x = _block(middle, x, next(films))
    for level in cast("Iterable[_Level]", net.up):
        x = _block(level.first, torch.cat([x, skips.pop()], dim=-1), next(films))
        x = _double(cast(nn.ConvTranspose1d, level.resample), _block(level.second, x, next(films)))
    x = conv_norm_mish(cast("ConvNormMish", net.head[0]), x)
    return _pointwise(cast(nn.Conv1d, net.head[1]), x).transpose(0, 1)


def conv_norm_mish(module: ConvNormMish, x: Tensor) -> Tensor:
    """What `module` makes of `x` (T, B, channels_in); (T, B, channels_out)."""
    conv, norm = cast(nn.Conv1d, module[0]), cast(nn.GroupNorm, module[1])
    arguments = (conv.weight, conv.bias, norm.weight, norm.bias, norm.num_groups, norm.eps)
    return cast(Tensor, _ConvNormMish.apply(x, *arguments))


def _block(block: FilmResidualBlock, x: Tensor, film: Tensor) -> Tensor:
    scale, shift = film.chunk(2, dim=1)
    h = torch.addcmul(shift, scale, conv_norm_mish(block.first, x))
    h = conv_norm_mish(block.second, h)
    return h + (_pointwise(block.shortcut, x) if isinstance(block.shortcut, nn.Conv1d) else x)


def _pointwise(conv: nn.Conv1d, x: Tensor) -> Tensor:
    return F.linear(x, conv.weight.squeeze(2), conv.bias)


def _halve(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """Kernel 3, stride 2, padding 1: y_t = w_0 x_(2t-1) + w_1 x_2t + w_2 x_(2t+1)."""
    n_steps, n, channels = x.shape
    even, odd = x.view(n_steps // 2, 2, n, channels).unbind(1)
    before = F.pad(odd[:-1], (0, 0, 0, 0, 1, 0))
    weight = conv.weight.permute(0, 2, 1).flatten(1)
    return F.linear(torch.cat([before, even, odd], dim=-1), weight, conv.bias)


def _double(conv: nn.ConvTranspose1d, x: Tensor) -> Tensor:
    """Kernel 4, stride 2, padding 1: y_2t = x_(t-1) w_3 + x_t w_1, y_(2t+1) = x_t w_2 + x_(t+1) w_0."""
    before = F.pad(x[:-1], (0, 0, 0, 0, 1, 0))
    after = F.pad(x[1:], (0, 0, 0, 0, 0, 1))
    w = conv.weight  # (C_in, C_out, 4)
    even = F.linear(torch.cat([before, x], dim=-1), torch.cat([w[..., 3], w[..., 1]]).t(), conv.bias)
    odd = F.linear(torch.cat([x, after], dim=-1), torch.cat([w[..., 2], w[..., 0]]).t(), conv.bias)
    return torch.stack([even, odd], dim=1).flatten(0, 1)


class _Transform(NamedTuple):
    """y = inverse @ [(kernel @ w) * (signal @ x)] is the convolution; and the transposed ones, for gradients."""

    signal: Tensor  # (M, T)
    kernel: Tensor  # (M, k)
    inverse: Tensor  # (T, M)
    signal_t: Tensor
    kernel_t: Tensor
    inverse_t: Tensor


@functools.cache
def _transform(n_steps: int, kernel_size: int, dtype: torch.dtype) -> _Transform:
    """Real products M that convolve `n_steps` values with an odd kernel and zeros outside.

    With frequency f of n = n_steps + kernel_size // 2 points, Y_f = W_f X_f; f and n - f are conjugate, so
    those up to n / 2 do. (a + ib)(c + id) takes the products a(c + d), c(b - a) and d(a + b).
    """
    half = kernel_size // 2
    n = n_steps + half
    time, tap = np.arange(n_steps), np.arange(kernel_size) - half
    signal, kernel, inverse = [], [], []
    for f in range(n // 2 + 1):
        angle = 2 * np.pi * f / n
        real_x, imag_x = np.cos(angle * time), -np.sin(angle * time)
        real_w, imag_w = np.cos(angle * tap), np.sin(angle * tap)
        real_y, imag_y = np.cos(angle * time) / n, np.sin(angle * time) / n
        if f == 0 or 2 * f == n:
            signal.append(real_x)
            kernel.append(real_w)
            inverse.append(real_y)
        else:
            signal += [real_x + imag_x, real_x, imag_x]
            kernel += [real_w, imag_w - real_w, real_w + imag_w]
            inverse += [2 * (real_y - imag_y), -2 * imag_y, -2 * real_y]
    matrices = [np.array(signal), np.array(kernel), np.array(inverse).T]
    return _Transform(
        *(torch.tensor(np.ascontiguousarray(matrix), dtype=dtype) for matrix in matrices),
        *(torch.tensor(np.ascontiguousarray(matrix.T), dtype=dtype) for matrix in matrices),
    )


class _ConvNormMish(torch.autograd.Function):
    """mish(group_norm(conv1d(x))) of `x` (T, B, C_in)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        gamma: Tensor,
        beta: Tensor,
        groups: int,
        eps: float,
    ) -> Tensor:
        n_steps, n, c_in = x.shape
        c_out, _, kernel_size = weight.shape
        by = _transform(n_steps, kernel_size, x.dtype)

        # Convolution: a product (B, C_in) x (C_in, C_out) for each frequency.
        x_f = (by.signal @ x.reshape(n_steps, n * c_in)).view(-1, n, c_in)
        w_f = (by.kernel @ weight.view(c_out * c_in, kernel_size).t()).view(-1, c_out, c_in)
        y_f = torch.bmm(x_f, w_f.transpose(1, 2))
        y = (by.inverse @ y_f.view(-1, n * c_out)).view(n_steps, n, c_out)
        own = _compiled_for(y)
        result, slope, mean, rstd = (own.forward if own else norm_mish)(y, bias, gamma, beta, groups, eps)
        ctx.save_for_backward(x_f, w_f, y, slope, mean, rstd, gamma)
        ctx.kernel_size = kernel_size
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_f, w_f, y, slope, mean, rstd, gamma = ctx.saved_tensors
        (n_steps, n, c_out), c_in = y.shape, x_f.shape[2]
        by = _transform(n_steps, ctx.kernel_size, y.dtype)
        own = _compiled_for(y)
        d_y, d_bias, d_gamma, d_beta = (own.backward if own else norm_mish_backward)(
            gradients[0], slope, y, mean, rstd, gamma
        )

        # Convolution: the same products, transposed.
        d_y_f = (by.inverse_t @ d_y.view(n_steps, n * c_out)).view(-1, n, c_out)
        d_w_f = torch.bmm(d_y_f.transpose(1, 2), x_f)
        d_weight = (by.kernel_t @ d_w_f.view(-1, c_out * c_in)).t().contiguous()
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x_f = torch.bmm(d_y_f, w_f)
            d_x = (by.signal_t @ d_x_f.view(-1, n * c_in)).view(n_steps, n, c_in)
        return d_x, d_weight.view(c_out, c_in, ctx.kernel_size), d_bias, d_gamma, d_beta, None, None


def norm_mish(
    y: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """mish(group_norm(y + bias)) of `y` (T, B, C), which gets the bias; its slope, mean and rstd (B, groups, 1)."""
    n_steps, n, c_out = y.shape
    y += bias

    # Group norm as one scale and one shift for each sample and channel.
    per_group = (n, groups, c_out // groups)
    sums = torch.stack((y.sum(0), (y * y).sum(0))).view(2, *per_group).sum(3)
    mean, square = sums.mul_(groups / (n_steps * c_out)).unbind(0)
    variance = torch.addcmul(square, mean, mean, value=-1.0).clamp_(min=0.0)
    mean, rstd = mean.unsqueeze(2), variance.add_(eps).rsqrt_().unsqueeze(2)  # (B, groups, 1)
    scale = rstd * gamma.view(per_group[1:])
    shift = torch.addcmul(beta.view(per_group[1:]), mean, scale, value=-1.0).view(n, c_out)
    z = torch.addcmul(shift, y, scale.view(n, c_out))

    # mish(z) = z tanh(log(u)) with u = 1 + exp(z): tanh(log(u)) = 1 - s with s = 2 / (u u + 1), and the
    # derivative is 1 - s + z u s (u s - s).
    u = z.clamp(max=_MISH_IS_LINEAR).exp_().add_(1.0)
    s = (u * u).add_(1.0).reciprocal_().mul_(2.0)
    tanh = 1.0 - s
    result = z * tanh
    u.mul_(s)
    slope = tanh.addcmul_(torch.sub(u, s, out=s).mul_(u), z)
    return result, slope, mean, rstd


def norm_mish_backward(
    d_result: Tensor, slope: Tensor, y: Tensor, mean: Tensor, rstd: Tensor, gamma: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of what `norm_mish` got, y, bias, gamma and beta, from that of its result."""
    (n_steps, n, c_out), groups = y.shape, mean.shape[1]
    per_group = (n, groups, c_out // groups)

    # With h the normalised y and d the gradient of h, that of y is rstd (d - mean(d) - h mean(d h)), means over a
    # group; again one scale and one shift.
    d_z = d_result * slope
    d_beta = d_z.sum(0).view(per_group)
    d_gamma = (d_z * y).sum(0).view(per_group).addcmul_(mean, d_beta, value=-1.0).mul_(rstd)
    both = torch.stack((d_beta, d_gamma))
    shared = (both * gamma.view(per_group[1:])).sum(3, keepdim=True)
    shared = shared.mul_(rstd * (-groups / (n_steps * c_out)))  # (2, B, groups, 1)
    of_y = shared[1] * rstd
    constant = torch.addcmul(shared[0], mean, of_y, value=-1.0)
    of_y, constant = (part.expand(per_group).reshape(n, c_out) for part in (of_y, constant))
    scale = (rstd * gamma.view(per_group[1:])).view(n, c_out)
    d_y = torch.addcmul(constant, y, of_y).addcmul_(d_z, scale)
    d_beta, d_gamma = both.sum(1).view(2, c_out).unbind(0)
    return d_y, d_y.view(n_steps * n, c_out).sum(0), d_gamma, d_beta


def _compiled_for(y: Tensor) -> NormMish | None:
    return compiled(NormMish) if y.dtype == torch.float32 else None
