"""The reference networks in small, written from their documented structure, with their parameter names."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn

from dp_ros.inference.sampler import step_noise


class Conv(nn.Module):
    def __init__(self, a: int, b: int, kernel: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv1d(a, b, kernel, padding=kernel // 2), nn.GroupNorm(8, b), nn.Mish()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class Inner(nn.Module):
    """A resampling convolution one level deeper, as the reference of the paper has it."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Block(nn.Module):
    def __init__(self, a: int, b: int, condition: int, kernel: int, scaled: bool, lerobot: bool) -> None:
        super().__init__()
        self.scaled, self.lerobot = scaled, lerobot
        pair = [Conv(a, b, kernel), Conv(b, b, kernel)]
        if lerobot:
            self.conv1, self.conv2 = pair
        else:
            self.blocks = nn.ModuleList(pair)
        self.cond_encoder = nn.Sequential(nn.Mish(), nn.Linear(condition, b * (1 + scaled)))
        self.residual_conv = nn.Identity() if a == b else nn.Conv1d(a, b, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        first, second = (self.conv1, self.conv2) if self.lerobot else self.blocks
        film = self.cond_encoder(condition)[..., None]
        y = first(x)
        if self.scaled:
            n = y.shape[1]
            y = y * film[:, :n] + film[:, n:]
        else:
            y = y + film
        return second(y) + self.residual_conv(x)


class Embedding(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, t: Tensor) -> Tensor:
        half = self.dim // 2
        angles = t[:, None] * torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
        return torch.cat([angles.sin(), angles.cos()], -1)


class ReferenceUnet(nn.Module):
    def __init__(self, actions: int, observed: int, *, scaled: bool, lerobot: bool) -> None:
        super().__init__()
        widths, kernel, step = [16, 24], 3, 8
        condition = step + observed

        def block(a: int, b: int) -> Block:
            return Block(a, b, condition, kernel, scaled, lerobot)

        def inner(conv: nn.Module) -> nn.Module:
            return conv if lerobot else Inner(conv)

        self.diffusion_step_encoder = nn.Sequential(
            Embedding(step), nn.Linear(step, 4 * step), nn.Mish(), nn.Linear(4 * step, step)
        )
        a, b = widths
        self.down_modules = nn.ModuleList(
            [
                nn.ModuleList([block(actions, a), block(a, a), inner(nn.Conv1d(a, a, 3, 2, 1))]),
                nn.ModuleList([block(a, b), block(b, b), nn.Identity()]),
            ]
        )
        self.mid_modules = nn.ModuleList([block(b, b), block(b, b)])
        self.up_modules = nn.ModuleList(
            [nn.ModuleList([block(2 * b, a), block(a, a), inner(nn.ConvTranspose1d(a, a, 4, 2, 1))])]
        )
        self.final_conv = nn.Sequential(Conv(a, a, kernel), nn.Conv1d(a, actions, 1))

    def forward(self, x: Tensor, t: Tensor, observed: Tensor) -> Tensor:
        condition = torch.cat([self.diffusion_step_encoder(t), observed], -1)
        x, skips = x.transpose(1, 2), []
        for first, second, resample in self.down_modules:
            x = second(first(x, condition), condition)
            skips.append(x)
            x = resample(x)
        for middle in self.mid_modules:
            x = middle(x, condition)
        for first, second, resample in self.up_modules:
            x = torch.cat([x, skips.pop()], 1)
            x = resample(second(first(x, condition), condition))
        return self.final_conv(x).transpose(1, 2)


@torch.no_grad()
def draw(
    unet: ReferenceUnet, observed: Tensor, noise: Tensor, method: str, n_steps: int, **schedule: Any
) -> Tensor:
    """Normalised actions by the loop of diffusers; DDPM's own noise is the one that this project takes for `noise`."""
    scheduler: Any = (DDIMScheduler if method == "ddim" else DDPMScheduler)(
        beta_schedule="squaredcos_cap_v2", **schedule
    )
    scheduler.set_timesteps(n_steps)
    fresh = torch.from_numpy(step_noise(noise[0].numpy(), n_steps))
    x = noise
    for k, t in enumerate(scheduler.timesteps):
        predicted = unet(x, t.expand(len(x)), observed)
        if method == "ddpm":
            mean = scheduler.step(predicted, t, x, generator=torch.Generator().manual_seed(0)).prev_sample
            if t > 0:
                drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
                mean = mean + (fresh[k] - drawn) * scheduler._get_variance(t) ** 0.5
            x = mean
        else:
            x = scheduler.step(predicted, t, x).prev_sample
    return x
