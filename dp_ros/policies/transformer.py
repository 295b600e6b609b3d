"""Transformer that predicts the noise in a sequence of actions from its level and the observation.

The time-series transformer of Diffusion Policy (Chi et al., 2023, arXiv 2303.04137): one token for each action, which
sees itself and earlier ones, and reads a memory of one token for the noise level and one for each observed step. Every
memory token goes through the same small network on its own, so a sampler computes the observation's once per call and
the level's once per schedule. Easy to get wrong: an action sees the noise level and the observations up to its own
step, never later ones. Unlike in the original there is no dropout, whose random numbers a resumed run would not repeat.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dp_ros.policies.unet1d import SinusoidalEmbedding


class ActionTransformer(nn.Module):
    """Predicts noise (or clean actions) of shape (B, T, A) from noisy actions of the same shape.

    As in `ConditionalUnet1d` the conditions of observation and noise level are added up. Here their sum is the
    memory, flattened, and each of the two is zero where the other one's tokens are.

    Args:
        action_dim: A, values of one action.
        frame_dim: values of one observed step.
        horizon: T.
        n_obs_steps: observed steps.
        width: of a token. layers, heads: of the decoder.
        mask_channel: take a further channel that says which of the actions are clean ones, given as they are.
    """

    def __init__(
        self,
        action_dim: int,
        frame_dim: int,
        horizon: int,
        n_obs_steps: int,
        *,
        width: int,
        layers: int,
        heads: int,
        mask_channel: bool = False,
    ) -> None:
        super().__init__()
        self.n_obs_steps, self.width, self.mask_channel = n_obs_steps, width, mask_channel
        self.action_in = nn.Linear(action_dim + mask_channel, width)
        self.frame_in = nn.Linear(frame_dim, width)
        self.step_embedding = SinusoidalEmbedding(width)
        self.action_position = nn.Parameter(torch.zeros(horizon, width))
        self.memory_position = nn.Parameter(torch.zeros(1 + n_obs_steps, width))
        self.memory_net = nn.Sequential(nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width))
        self.layers = nn.ModuleList(_DecoderLayer(width, heads) for _ in range(layers))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, action_dim))
        time, token = torch.arange(horizon).unsqueeze(1), torch.arange(horizon)
        self.register_buffer("sees_action", token <= time, persistent=False)
        self.register_buffer("sees_memory", torch.arange(1 + n_obs_steps) - 1 <= time, persistent=False)
        self.apply(_initialize)
        nn.init.normal_(self.action_position, std=0.02)
        nn.init.normal_(self.memory_position, std=0.02)

    sees_action: Tensor  # (T, T)
    sees_memory: Tensor  # (T, 1 + n_obs_steps)

    def forward(
        self, actions: Tensor, step: Tensor, observation: Tensor, known: Tensor | None = None
    ) -> Tensor:
        """Predict from noisy `actions` (B, T, A), noise level `step` (B,) and `observation` (B, O)."""
        return self.denoise(
            actions, self.condition_of_step(step) + self.condition_of_observation(observation), known
        )

    def condition_of_step(self, step: Tensor) -> Tensor:
        """Memory (K, M) with the token of noise levels (K,) alone."""
        token = self.memory_net(self.step_embedding(step) + self.memory_position[0])
        return F.pad(token, (0, self.n_obs_steps * self.width))

    def condition_of_observation(self, observation: Tensor) -> Tensor:
        """Memory (B, M) with the tokens of the observation (B, O) alone."""
        frames = observation.unflatten(1, (self.n_obs_steps, -1))
        tokens = self.memory_net(self.frame_in(frames) + self.memory_position[1:])
        return F.pad(tokens.flatten(1), (self.width, 0))

    def denoise(self, actions: Tensor, condition: Tensor, known: Tensor | None = None) -> Tensor:
        """Run the decoder on `actions` (B, T, A) with the sum of both memories, `condition` (B, M)."""
        memory = condition.unflatten(1, (1 + self.n_obs_steps, self.width))
        if self.mask_channel:
            mask = (
                torch.zeros_like(actions[..., :1]) if known is None else known.to(actions.dtype).unsqueeze(-1)
            )
            actions = torch.cat([actions, mask], dim=-1)
        x = self.action_in(actions) + self.action_position
        for layer in cast(Iterable[_DecoderLayer], self.layers):
            x = layer(x, memory, self.sees_action, self.sees_memory)
        predicted: Tensor = self.head(x)
        return predicted

    def decayed(self) -> list[Tensor]:
        """Parameters that weight decay is for: of linear layers, not of norms, biases and positions."""
        return [module.weight for module in self.modules() if isinstance(module, nn.Linear)]


class _DecoderLayer(nn.Module):
    """Self-attention, attention to the memory and a feed-forward network, each after a norm and added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own, self.cross = _Attention(width, heads), _Attention(width, heads)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, memory: Tensor, sees_action: Tensor, sees_memory: Tensor) -> Tensor:
        own = self.norms[0](x)
        x = x + self.own(own, own, sees_action)
        x = x + self.cross(self.norms[1](x), memory, sees_memory)
        return x + cast(Tensor, self.feed(self.norms[2](x)))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor, sees: Tensor) -> Tensor:
        """Tokens (B, T, D) look at `source` (B, S, D) where `sees` (T, S)."""
        query = self._by_head(self.query(x))
        key, value = (self._by_head(part) for part in self.key_value(source).chunk(2, dim=-1))
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
        weights = scores.masked_fill(~sees, float("-inf")).softmax(-1)
        found: Tensor = self.out((weights @ value).transpose(1, 2).flatten(2))
        return found

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, D / heads)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
