"""Explicit regression: one chunk for each observation, by least squares.

Where demonstrations go both ways round an obstacle, the least squares answer is their mean, which goes neither way;
that is what it is here to show (Chi et al., 2023, arXiv 2303.04137, figure 3). Easy to get wrong: it takes noise
as every policy does and ignores it, so all its draws for an observation are equal.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dp_ros.inference.sampler import SamplerSpec
from dp_ros.policies.baselines.specs import RegressionSpec
from dp_ros.policies.baselines.state_policy import StatePolicy
from dp_ros.policies.normalizer import Statistics
from dp_ros.policies.policy import Draw
from dp_ros.task import TaskSpec


class RegressionPolicy(StatePolicy):
    """See the module."""

    def __init__(
        self, task: TaskSpec, statistics: Statistics, network: RegressionSpec, sampler: SamplerSpec
    ) -> None:
        super().__init__(task, statistics, network, sampler)
        self.network = network
        self.mlp = nn.Sequential(
            nn.Linear(task.n_obs_steps * self.frame_dim, network.width),
            *(ResidualBlock(network.width) for _ in range(network.blocks)),
            nn.LayerNorm(network.width),
            nn.Linear(network.width, task.horizon * task.action.dim),
        )

    def chunk(self, frames: Tensor) -> Tensor:
        """Normalised actions (B, horizon, action_dim) for frames (B, n_obs_steps, O)."""
        return self.mlp(frames.flatten(1)).unflatten(1, self.noise_shape)  # type: ignore[no-any-return]

    def loss_of(self, frames: Tensor, actions: Tensor, draw: Draw) -> Tensor:
        """Mean squared error."""
        return F.mse_loss(self.chunk(frames), actions)

    def draw_chunk(self, frames: Tensor, noise: Tensor) -> Tensor:
        """The same chunk whatever the noise."""
        return self.chunk(frames)


class ResidualBlock(nn.Module):
    """Layer norm, two linear layers with mish, and a short cut around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.Mish(), nn.Linear(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width) to (B, width)."""
        return x + self.layers(x)  # type: ignore[no-any-return]
