"""Implicit policy: the action is one of low energy, given the observation (IBC).

Implicit behavioral cloning is that of Florence et al. (2021, arXiv 2109.00137). The energy is taught with InfoNCE
against uniform counter-examples and lowered without derivatives: score candidates, resample the good ones, spread them
a little, less each time. A chunk has too many dimensions for uniform candidates (32 for PushT), so its actions are
found one after the other, the energy seeing the last one, as in the paper's autoregressive variant. Easy to get wrong:
every candidate is a function of the noise that the draw was given, whose hash is the key of a counter-based generator,
so that the same noise finds the same actions.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dp_ros.inference.sampler import SamplerSpec, step_noise
from dp_ros.policies.baselines.specs import IbcSpec
from dp_ros.policies.baselines.state_policy import StatePolicy, uniform_from
from dp_ros.policies.normalizer import Statistics
from dp_ros.policies.policy import Draw
from dp_ros.task import TaskSpec

#: Bounds of candidates and counter-examples: the range of the training actions, a little wider, as in the paper.
_BOUND = 1.05


class IbcPolicy(StatePolicy):
    """See the module."""

    has_graph = False

    def __init__(
        self, task: TaskSpec, statistics: Statistics, network: IbcSpec, sampler: SamplerSpec
    ) -> None:
        super().__init__(task, statistics, network, sampler)
        self.network = network
        dim, width, wide = task.action.dim, network.width, network.observation_width
        self.observation = nn.Sequential(
            nn.Linear(task.n_obs_steps * self.frame_dim, wide), nn.Mish(), nn.Linear(wide, wide), nn.Mish()
        )
        self.place = nn.Parameter(0.02 * torch.randn(task.horizon, wide))
        self.previous = nn.Linear(dim, wide)
        self.context = nn.Sequential(nn.Mish(), nn.Linear(wide, width))
        self.candidate = nn.Linear(dim, width, bias=False)
        layers: list[nn.Module] = [nn.ReLU()]
        for _ in range(network.layers):
            layers += [nn.Linear(width, width), nn.ReLU()]
        self.energy = nn.Sequential(*layers, nn.Linear(width, 1))

    def energies(self, seen: Tensor, place: Tensor, previous: Tensor, candidates: Tensor) -> Tensor:
        """Energies (..., N) of candidates (..., N, A).

        Args:
            seen: (..., observation_width), what `observation` made of the frames.
            place: (..., observation_width), which step of the horizon.
            previous: (..., A), the action before; 0 before the first.
            candidates: (..., N, A), normalised.
        """
        context = self.context(seen + place + self.previous(previous))
        return self.energy(context.unsqueeze(-2) + self.candidate(candidates)).squeeze(-1)  # type: ignore[no-any-return]

    def loss_of(self, frames: Tensor, actions: Tensor, draw: Draw) -> Tensor:
        """InfoNCE at some steps of the horizon: cross-entropy of the demonstrated action among counter-examples."""
        n, (horizon, dim), network = len(actions), self.noise_shape, self.network
        taught = network.taught_steps
        steps = draw.integers(horizon, n, taught).to(actions.device)
        others = draw.uniform(n, taught, network.counter_examples, dim).to(actions.device)
        noise = draw.normal(n, taught, dim).to(actions.device)
        rows = torch.arange(n, device=actions.device).unsqueeze(1)
        before = actions[rows, (steps - 1).clamp(min=0)] + network.action_noise * noise
        previous = torch.where(steps.unsqueeze(-1) > 0, before, torch.zeros_like(before))
        candidates = torch.cat([actions[rows, steps].unsqueeze(-2), (2.0 * others - 1.0) * _BOUND], dim=-2)
        seen = self.observation(frames.flatten(1)).unsqueeze(1)
        energies = self.energies(seen, self.place[steps], previous, candidates).flatten(0, 1)
        return F.cross_entropy(-energies, torch.zeros(len(energies), dtype=torch.long, device=actions.device))

    def draw_chunk(self, frames: Tensor, noise: Tensor) -> Tensor:
        """Step by step: find an action of low energy among candidates, the last one seen."""
        rounds, n = self.network.iterations, self.network.candidates
        drawn = np.stack([step_noise(each, rounds * (n + 1)) for each in noise.cpu().numpy()])
        fresh = torch.from_numpy(drawn).to(noise.device)  # (B, rounds (n + 1), horizon, A)
        seen = self.observation(frames.flatten(1))
        action = torch.zeros_like(noise[:, 0])
        actions = []
        for t in range(self.task.horizon):
            action = self._least_energy(seen, self.place[t], action, fresh[:, :, t])
            actions.append(action)
        return torch.stack(actions, dim=1)

    def _least_energy(self, seen: Tensor, place: Tensor, previous: Tensor, fresh: Tensor) -> Tensor:
        """One action (B, A) by derivative-free optimisation (algorithm 1 of the paper), with `fresh` as its chance.

        As in the reference of Chi et al. the action is drawn by its energy from the last candidates rather than the
        very best of them, so that of two equally good ways both are taken.
        """
        network = self.network
        first, *later = fresh.unflatten(1, (network.iterations, network.candidates + 1)).unbind(1)
        candidates = (2.0 * uniform_from(first[:, 1:]) - 1.0) * _BOUND
        start, spread = uniform_from(first[:, 0, 0]), network.spread
        for following in later:
            energies = self.energies(seen, place, previous, candidates)
            kept = resample(candidates, -energies, start, network.candidates)
            candidates = (kept + spread * following[:, 1:]).clamp(-_BOUND, _BOUND)
            start, spread = uniform_from(following[:, 0, 0]), spread * network.shrink
        energies = self.energies(seen, place, previous, candidates)
        return resample(candidates, -energies, start, 1).squeeze(1)


def resample(candidates: Tensor, logits: Tensor, start: Tensor, n: int) -> Tensor:
    """Draw n of the candidates (B, N, A) with replacement, each as often as `logits` (B, N) say: (B, n, A).

    Systematic resampling: n marks at equal distances on the cumulative distribution, the first at `start` (B,) of
    that distance, so that no candidate is drawn more than once too often or too seldom.
    """
    reached = logits.softmax(-1).cumsum(-1)
    marks = (torch.arange(n, device=logits.device) + start.unsqueeze(-1)) / n
    chosen = torch.searchsorted(reached, marks, right=True).clamp(max=logits.shape[-1] - 1)
    return candidates.gather(1, chosen.unsqueeze(-1).expand(-1, -1, candidates.shape[-1]))
