"""LSTM with a mixture of Gaussians for each action, as BC-RNN of robomimic (Mandlekar et al., 2021, arXiv 2108.03298).

robomimic draws one action at a time and looks at the world before the next; here a chunk is drawn at once, as from
every policy, so the action drawn last stands in for what would be seen. Easy to get wrong: in training the last action
is the demonstrated one, and while running the policy's own, so some noise is put on it in training; and the action
that is drawn is the mean of a component, as with robomimic's `low_noise_eval`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dp_ros.inference.sampler import SamplerSpec
from dp_ros.policies.baselines.specs import LstmGmmSpec
from dp_ros.policies.baselines.state_policy import StatePolicy, choice_from, uniform_from
from dp_ros.policies.normalizer import Statistics
from dp_ros.policies.policy import Draw
from dp_ros.task import TaskSpec

#: Hidden state and cell state of each layer.
State = list[tuple[Tensor, Tensor]]
#: What softplus makes a first standard deviation of 0.2 of.
_FIRST_STD = -1.5


class LstmGmmPolicy(StatePolicy):
    """See the module."""

    def __init__(
        self, task: TaskSpec, statistics: Statistics, network: LstmGmmSpec, sampler: SamplerSpec
    ) -> None:
        super().__init__(task, statistics, network, sampler)
        self.network = network
        dim = task.action.dim
        inputs = task.n_obs_steps * self.frame_dim + dim + 1
        self.lstm = nn.LSTM(inputs, network.width, network.layers, batch_first=True)
        self.head = nn.Linear(network.width, network.components * (1 + 2 * dim))
        self._set_components_apart()

    @torch.no_grad()
    def _set_components_apart(self) -> None:
        """Begin with narrow Gaussians all over the range: broad ones in one place end as one over all the ways."""
        dim = self.task.action.dim
        _, means, stds = self.head.bias.view(self.network.components, -1).split([1, dim, dim], dim=-1)
        means.copy_(torch.rand(means.shape) * 2.0 - 1.0)
        stds.fill_(_FIRST_STD)

    def loss_of(self, frames: Tensor, actions: Tensor, draw: Draw) -> Tensor:
        """Negative log-likelihood of the actions, mean over the steps of the horizon."""
        noise = draw.normal(len(actions), *self.noise_shape).to(actions.device)
        before = actions + self.network.action_noise * noise
        previous = F.pad(before[:, :-1], (0, 0, 1, 0))
        is_first = (torch.arange(self.task.horizon, device=actions.device) == 0).to(actions.dtype)
        inputs = torch.cat(
            [
                frames.flatten(1).unsqueeze(1).expand(-1, self.task.horizon, -1),
                previous,
                is_first[:, None].expand(len(actions), -1, 1),
            ],
            dim=-1,
        )
        logits, means, stds = self.mixtures(self.lstm(inputs)[0])
        each = torch.distributions.Normal(means, stds).log_prob(actions.unsqueeze(-2)).sum(-1)
        return -torch.logsumexp(logits.log_softmax(-1) + each, dim=-1).mean()

    def draw_chunk(self, frames: Tensor, noise: Tensor) -> Tensor:
        """Step by step: the step's first number chooses a component, whose mean is the action."""
        uniform = uniform_from(noise[..., 0])
        observation = frames.flatten(1)
        start = observation.new_zeros(len(observation), self.network.width)
        state: State = [(start, start)] * self.network.layers
        action = noise[:, 0] * 0.0
        actions = []
        for t in range(self.task.horizon):
            is_first = torch.full_like(observation[:, :1], float(t == 0))
            output, state = self._cell(torch.cat([observation, action, is_first], dim=-1), state)
            logits, means, _ = self.mixtures(output)
            action = (choice_from(logits, uniform[:, t]).unsqueeze(-1) * means).sum(-2).clamp(-1.0, 1.0)
            actions.append(action)
        return torch.stack(actions, dim=1)

    def mixtures(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (..., K), means and standard deviations (..., K, A) for outputs (..., width) of the LSTM."""
        parts = self.head(output).unflatten(-1, (self.network.components, -1))
        means, stds = parts[..., 1:].chunk(2, dim=-1)
        return parts[..., 0], means, F.softplus(stds) + self.network.min_std

    def _cell(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One step of `lstm` in plain arithmetic, which can be exported: output (B, width) and the next state."""
        following: State = []
        for k, (hidden, cell) in enumerate(state):
            gates = F.linear(x, getattr(self.lstm, f"weight_ih_l{k}"), getattr(self.lstm, f"bias_ih_l{k}"))
            gates = gates + F.linear(
                hidden, getattr(self.lstm, f"weight_hh_l{k}"), getattr(self.lstm, f"bias_hh_l{k}")
            )
            let_in, forget, new, let_out = gates.chunk(4, dim=-1)
            cell = forget.sigmoid() * cell + let_in.sigmoid() * new.tanh()
            x = let_out.sigmoid() * cell.tanh()
            following.append((x, cell))
        return x, following
