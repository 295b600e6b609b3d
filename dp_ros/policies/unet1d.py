"""Conditional 1-D U-Net: predicts the noise in a sequence of actions from its level and the observation.

The network of Diffusion Policy (Chi et al., 2023, arXiv 2303.04137): convolutions over time, each block
modulated by a scale and a shift that a linear layer derives from the condition (FiLM, Perez et al., 2018,
arXiv 1709.07871). The condition is `mish([noise level, observation])` for every block, so one linear layer
serves them all, and it splits exactly into a part for the level and a part for the observation: a sampler
computes the first once per schedule and the second once per call. The two other ways to tell the network what was
observed, local conditioning and inpainting, pass the observation on unchanged in its part. Easy to get wrong: the
horizon is halved at every level but the last, so it must be divisible by 2 ** (levels - 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dp_ros.errors import UserError
from dp_ros.policies import time_major
from dp_ros.policies.specs import Conditioning


class ConditionalUnet1d(nn.Module):
    """Predicts noise (or clean actions) of shape (B, T, A) from noisy actions of the same shape.

    Args:
        action_dim: A, values of one action.
        observation_dim: O, values of the flattened observation, n_obs_steps frames of D values.
        widths: channels of each level, from the full horizon to the coarsest.
        step_dim: width of the embedding of the noise level.
        kernel_size: of the convolutions over time, odd.
        groups: of the group norms; divides every width.
        mask_channel: take a further channel that says which of the actions are clean ones, given as they are.
        conditioning: how it is told what was observed. With `inpainting` it denoises A + D values a step.
        n_obs_steps: frames of an observation; `global` does not ask for it.

    Attributes:
        fast_training: compute as `time_major` does where that is quicker, which is when training on a CPU.

    Raises:
        UserError: if the widths, kernel or groups do not fit together.
    """

    fast_training: bool = True

    def __init__(
        self,
        action_dim: int,
        observation_dim: int,
        *,
        widths: Sequence[int] = (32, 64, 128),
        step_dim: int = 128,
        kernel_size: int = 5,
        groups: int = 8,
        mask_channel: bool = False,
        conditioning: Conditioning = "global",
        n_obs_steps: int = 1,
    ) -> None:
        super().__init__()
        _check(widths, step_dim, kernel_size, groups)
        self.step_dim = step_dim
        self.mask_channel = mask_channel
        self.conditioning, self.n_obs_steps = conditioning, n_obs_steps
        frame_dim = observation_dim // n_obs_steps
        if conditioning == "inpainting":
            action_dim += frame_dim
        self.levels = len(widths)
        self.step_embedding = nn.Sequential(
            SinusoidalEmbedding(step_dim),
            nn.Linear(step_dim, 4 * step_dim),
            nn.Mish(),
            nn.Linear(4 * step_dim, step_dim),
        )

        def block(channels_in: int, channels_out: int) -> FilmResidualBlock:
            return FilmResidualBlock(channels_in, channels_out, kernel_size, groups)

        # What was observed, beside the actions of the same steps: added at full resolution on the way down and up.
        self.local = nn.ModuleList()
        if conditioning == "local":
            self.local.extend(block(frame_dim, widths[0]) for _ in range(2))
        # Down: two blocks a level, then half the time resolution.
        self.down = nn.ModuleList()
        before = [action_dim + mask_channel, *widths[:-1]]
        for level, (c_in, c_out) in enumerate(zip(before, widths, strict=True)):
            last = level == self.levels - 1
            halve = nn.Identity() if last else nn.Conv1d(c_out, c_out, 3, stride=2, padding=1)
            self.down.append(_Level(block(c_in, c_out), block(c_out, c_out), halve))
        # Middle, at the coarsest resolution.
        self.middle = nn.ModuleList([block(widths[-1], widths[-1]) for _ in range(2)])
        # Up: what came down at this level is put beside it, then twice the time resolution.
        self.up = nn.ModuleList()
        for c_out, c_in in zip(reversed(widths[:-1]), reversed(widths[1:]), strict=True):
            double = nn.ConvTranspose1d(c_out, c_out, 4, stride=2, padding=1)
            self.up.append(_Level(block(2 * c_in, c_out), block(c_out, c_out), double))
        self.head = nn.Sequential(
            ConvNormMish(widths[0], widths[0], kernel_size, groups), nn.Conv1d(widths[0], action_dim, 1)
        )
        # FiLM of every block in one product; `film_sizes` says which columns are whose.
        self.film_sizes = [2 * b.channels_out for b in self._blocks()]
        modulating = observation_dim if conditioning == "global" else 0
        self.film = nn.Linear(step_dim + modulating, sum(self.film_sizes))
        self._passed_on = observation_dim - modulating

    def forward(
        self, actions: Tensor, step: Tensor, observation: Tensor, known: Tensor | None = None
    ) -> Tensor:
        """Predict from noisy `actions` (B, T, A), noise level `step` (B,) int64 and `observation` (B, O).

        `known` (B, T), for a network with a mask channel, is 1 where an action is given clean and 0 elsewhere;
        None stands for all 0. What is predicted where it is 1 means nothing.
        """
        if self.conditioning != "global":
            both = self.condition_of_step(step) + self.condition_of_observation(observation)
            return self.denoise(actions, both, known)
        condition = torch.cat([self.step_embedding(step), observation], dim=-1)  # (B, step_dim + O)
        return self.denoise(actions, self.film(F.mish(condition)), known)

    def condition_of_step(self, step: Tensor) -> Tensor:
        """Part of the condition that the noise level (K,) decides; (K, F), bias included."""
        film = F.linear(
            F.mish(self.step_embedding(step)), self.film.weight[:, : self.step_dim], self.film.bias
        )
        return F.pad(film, (0, self._passed_on)) if self._passed_on else film

    def condition_of_observation(self, observation: Tensor) -> Tensor:
        """Part of the condition that the observation (B, O) decides; (B, F)."""
        if self._passed_on:
            return F.pad(observation, (sum(self.film_sizes), 0))
        return F.linear(F.mish(observation), self.film.weight[:, self.step_dim :])

    def denoise(self, actions: Tensor, film: Tensor, known: Tensor | None = None) -> Tensor:
        """Run the U-Net on `actions` (B, T, A) with the sum of both parts of the condition (B, F); see `forward`.

        With `inpainting`, `actions` are (B, T, A + D): what stands in the place of observed frames is not looked at.
        """
        if self._is_trained_here(actions):
            return time_major.denoise(self, actions, film, known)
        frames = None  # (B, n_obs_steps, D)
        if self._passed_on:
            film, frames = film[:, : -self._passed_on], film[:, -self._passed_on :]
            frames = frames.unflatten(1, (self.n_obs_steps, -1))
        films = iter(film.unsqueeze(-1).split(self.film_sizes, dim=1))  # each (B, 2 C, 1)
        if frames is not None and self.conditioning == "inpainting":
            frame_dim = frames.shape[2]
            observed = torch.cat([actions[:, : self.n_obs_steps, :-frame_dim], frames], dim=2)
            actions = torch.cat([observed, actions[:, self.n_obs_steps :]], dim=1)
        x = actions.transpose(1, 2)  # (B, A, T)
        beside = []
        if frames is not None and self.conditioning == "local":
            filled = F.pad(frames.transpose(1, 2), (0, x.shape[2] - self.n_obs_steps))  # (B, D, T)
            beside = [block(filled, next(films)) for block in self.local]
        if self.mask_channel:
            mask = torch.zeros_like(x[:, :1]) if known is None else known.to(x.dtype).unsqueeze(1)
            x = torch.cat([x, mask], dim=1)  # (B, A + 1, T)
        skips: list[Tensor] = []
        for level in cast(Iterable[_Level], self.down):
            x = level.first(x, next(films))
            if beside and not skips:
                x = x + beside[0]
            x = level.second(x, next(films))  # (B, C_level, T / 2**level)
            skips.append(x)
            x = level.resample(x)
        for middle in self.middle:
            x = middle(x, next(films))
        for level in cast(Iterable[_Level], self.up):
            x = level.first(torch.cat([x, skips.pop()], dim=1), next(films))
            x = level.resample(level.second(x, next(films)))
        if beside:
            x = x + beside[1]
        return self.head(x).transpose(1, 2)  # (B, T, A)

    def _is_trained_here(self, actions: Tensor) -> bool:
        """Whether gradients of float32 or float64 are wanted, on a CPU."""
        return (
            self.fast_training
            and self.conditioning == "global"
            and self.training
            and torch.is_grad_enabled()
            and actions.device.type == "cpu"
            and actions.dtype in (torch.float32, torch.float64)
            and not torch.is_autocast_enabled("cpu")
        )

    def _blocks(self) -> list[FilmResidualBlock]:
        """All modulated blocks in the order in which `denoise` runs them."""
        pairs = [[level.first, level.second] for level in cast(Iterable[_Level], (*self.down, *self.up))]
        middle = cast(list[FilmResidualBlock], list(self.middle))
        order = [*pairs[: self.levels], middle, *pairs[self.levels :]]
        return [
            *cast(Iterable[FilmResidualBlock], self.local),
            *(block for blocks in order for block in blocks),
        ]


class FilmResidualBlock(nn.Module):
    """Two convolutions with the modulation between them, and a short cut around them."""

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        self.channels_out = channels_out
        self.first = ConvNormMish(channels_in, channels_out, kernel_size, groups)
        self.second = ConvNormMish(channels_out, channels_out, kernel_size, groups)
        self.shortcut = (
            nn.Conv1d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()
        )

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        """Map (B, channels_in, T) to (B, channels_out, T); `film` (B, 2 channels_out, 1): scale, shift."""
        scale, shift = film.chunk(2, dim=1)
        return self.second(torch.addcmul(shift, scale, self.first(x))) + self.shortcut(x)


class ConvNormMish(nn.Sequential):
    """Convolution over time, group norm (never batch norm, which an averaged copy would upset), mish."""

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int, groups: int) -> None:
        super().__init__(
            nn.Conv1d(channels_in, channels_out, kernel_size, padding=kernel_size // 2),
            nn.GroupNorm(groups, channels_out),
            nn.Mish(),
        )


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of geometrically spaced frequencies (Vaswani et al., 2017, arXiv 1706.03762)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        half = dim // 2
        frequencies = torch.exp(torch.arange(half) * -(math.log(10000.0) / (half - 1)))
        self.register_buffer("frequencies", frequencies, persistent=False)

    frequencies: Tensor

    def forward(self, step: Tensor) -> Tensor:
        """Embed (B,) as (B, dim)."""
        angles = step.unsqueeze(-1) * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class _Level(nn.Module):
    """What one resolution holds: two blocks and the change of resolution after them."""

    def __init__(self, first: FilmResidualBlock, second: FilmResidualBlock, resample: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.resample = resample


def _check(widths: Sequence[int], step_dim: int, kernel_size: int, groups: int) -> None:
    if not widths or any(width < 1 or width % groups for width in widths):
        raise UserError(f"widths: got {list(widths)}, expected at least one multiple of groups = {groups}")
    if kernel_size % 2 == 0 or kernel_size < 1:
        raise UserError(f"kernel_size: got {kernel_size}, expected an odd number, such as 5")
    if step_dim % 2 or step_dim < 4:
        raise UserError(f"step_dim: got {step_dim}, expected an even number of at least 4, such as 128")
