"""Categorical actions: a bin for each action and an offset from its centre, as in BET.

Behavior Transformers are those of Shafiullah et al. (2022, arXiv 2206.11251). k-means puts the centres into the
training actions before training starts (`prepare`). A small transformer reads a sequence as long as the chunk, the
observations first and then blanks, and gives each place a distribution over bins and an offset for every bin. Easy to
get wrong: an offset is taught for the right bin only, and the places draw their bins independently of each other, so a
chunk can change its mind from one step to the next: that is BET's, not a bug.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dp_ros.errors import UserError
from dp_ros.inference.sampler import SamplerSpec
from dp_ros.policies.baselines.specs import BetSpec
from dp_ros.policies.baselines.state_policy import StatePolicy, choice_from, uniform_from
from dp_ros.policies.normalizer import Statistics
from dp_ros.policies.policy import Draw
from dp_ros.task import TaskSpec

_MOST_CLUSTERED = 50_000  # actions that k-means looks at
_ROUNDS = 50  # of k-means, at most


class BetPolicy(StatePolicy):
    """See the module."""

    def __init__(
        self, task: TaskSpec, statistics: Statistics, network: BetSpec, sampler: SamplerSpec
    ) -> None:
        super().__init__(task, statistics, network, sampler)
        self.network = network
        dim, width = task.action.dim, network.width
        self.frame = nn.Linear(self.frame_dim, width)
        self.blank = nn.Parameter(0.02 * torch.randn(width))
        self.place = nn.Parameter(0.02 * torch.randn(task.horizon, width))
        self.blocks = nn.ModuleList(CausalBlock(width, network.heads) for _ in range(network.layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, network.bins * (1 + dim))
        self.register_buffer("centres", torch.full((network.bins, dim), torch.nan))

    centres: Tensor

    def prepare(self, actions: Tensor) -> None:
        """Put the centres of the bins into actions (N, horizon, action_dim), robot units, of the training data.

        Raises:
            UserError: if there are fewer different actions than bins.
        """
        normalised = self.normalizers["action"].normalize(actions).flatten(0, 1)  # type: ignore[operator]
        self.centres.copy_(k_means(normalised.unique(dim=0), self.network.bins))

    def outputs(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, horizon, bins) and offsets (B, horizon, bins, A) for frames (B, n_obs_steps, O)."""
        blanks = self.blank.expand(len(frames), self.task.horizon - self.task.n_obs_steps, -1)
        x = torch.cat([self.frame(frames), blanks], dim=1) + self.place
        for block in self.blocks:
            x = block(x)
        parts = self.head(self.norm(x)).unflatten(-1, (self.network.bins, -1))
        return parts[..., 0], parts[..., 1:]

    def loss_of(self, frames: Tensor, actions: Tensor, draw: Draw) -> Tensor:
        """Focal loss of the bins (Lin et al., 2017, arXiv 1708.02002) and squared error of the right bins' offsets."""
        if self.centres.isnan().any():
            raise RuntimeError("the bins have no centres yet: prepare() puts them into the training actions")
        logits, offsets = self.outputs(frames)
        bins = torch.cdist(actions, self.centres.expand(len(actions), -1, -1)).argmin(-1)
        log_right = logits.log_softmax(-1).gather(-1, bins.unsqueeze(-1))
        focal = -((1.0 - log_right.exp()) ** self.network.focal_gamma * log_right).mean()
        index = bins[..., None, None].expand(-1, -1, 1, actions.shape[-1])
        offset = offsets.gather(-2, index).squeeze(-2)
        return focal + self.network.offset_scale * F.mse_loss(offset, actions - self.centres[bins])

    def draw_chunk(self, frames: Tensor, noise: Tensor) -> Tensor:
        """Each step's first number chooses its bin."""
        logits, offsets = self.outputs(frames)
        chosen = choice_from(logits, uniform_from(noise[..., 0])).unsqueeze(-1)
        return (chosen * (self.centres + offsets)).sum(-2)


class CausalBlock(nn.Module):
    """Attention to what is earlier in the sequence, then two layers at each place; layer norm before both (GPT-2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_layers = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, width) to (B, T, width)."""
        split = self.query_key_value(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (B, heads, T, width / heads)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.projection(attended.transpose(1, 2).flatten(2))
        return x + self.layers(self.norm_layers(x))  # type: ignore[no-any-return]


def k_means(points: Tensor, n_centres: int) -> Tensor:
    """Centres (n_centres, A) among different points (N, A); always the same for the same points.

    Lloyd's algorithm from the start of k-means++ (Arthur and Vassilvitskii, 2007).

    Raises:
        UserError: if there are fewer points than centres.
    """
    if len(points) < n_centres:
        raise UserError(
            f"network.bins {n_centres}: the training data has {len(points)} different actions, so some bins would "
            "stay empty; lower network.bins or record more"
        )
    rng = np.random.default_rng(0)
    if len(points) > _MOST_CLUSTERED:
        points = points[torch.from_numpy(np.sort(rng.choice(len(points), _MOST_CLUSTERED, replace=False)))]
    points = points.double()
    centres = points[rng.integers(len(points), size=1)]
    for _ in range(1, n_centres):
        distance = torch.cdist(points, centres).amin(1).square()
        reached = (distance.cumsum(0) / distance.sum()).numpy()
        drawn = min(int(np.searchsorted(reached, rng.random(), side="right")), len(points) - 1)
        centres = torch.cat([centres, points[drawn : drawn + 1]])
    for _ in range(_ROUNDS):
        nearest = torch.cdist(points, centres).argmin(1)
        count = torch.bincount(nearest, minlength=n_centres).unsqueeze(1)
        mean = torch.zeros_like(centres).index_add_(0, nearest, points) / count.clamp(min=1)
        moved = torch.where(count > 0, mean, centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres.float()
