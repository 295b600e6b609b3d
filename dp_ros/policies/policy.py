"""What a policy is to training, evaluation and export, whatever network it has.

A policy draws chunks of actions for observations. `loss` is what it is trained by, `sample` how it is asked, and both
are pure functions of their arguments. Easy to get wrong: random numbers come from `Draw` and from the noise that
`sample` is given, never from torch's global state, or a resumed run differs from one that was not interrupted.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dp_ros.inference.sampler import SamplerSpec
from dp_ros.policies.normalizer import Statistics
from dp_ros.task import TaskSpec


@dataclass(frozen=True)
class Batch:
    """Samples to learn from.

    Attributes:
        observation: {stream: (B, n_obs_steps, *shape)}, robot units; the policy's labels too, if it has any.
        actions: (B, horizon, action_dim), robot units.
        known: (B, horizon) bool, which actions are given to the policy as they are; None: none.
        known_noise: standard deviation of the noise that the given actions have all the same, in the normalised
            range of 2.
        action_weight: of the loss of the actions; 0: it is not computed.
        auxiliary_weight: of the loss of the labels, for a policy that has any.
    """

    observation: Mapping[str, Tensor]
    actions: Tensor
    known: Tensor | None = None
    known_noise: float = 0.0
    action_weight: float = 1.0
    auxiliary_weight: float = 1.0

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True)
class Draw:
    """Random numbers of one step: the same whenever they are drawn, on any device, in any number of parts.

    A batch may be a part of the step's whole one, cut off for gradient accumulation or for another process. Numbers
    are drawn for the whole and the part takes its rows, so that a sample gets the same numbers however the batch is
    cut.

    Attributes:
        seed: of the run.
        purpose: what the numbers are for; different purposes have different numbers.
        step: optimiser step.
        first: row of the whole batch that this part begins with.
        total: rows of the whole batch; None: this is the whole.
    """

    seed: int
    purpose: int
    step: int
    first: int = 0
    total: int | None = None

    @functools.cached_property
    def generator(self) -> torch.Generator:
        """Where the numbers come from, in the order of the calls; on the CPU."""
        state = np.random.SeedSequence([self.seed, self.purpose, self.step]).generate_state(1)
        return torch.Generator().manual_seed(int(state[0]))

    def normal(self, n: int, *shape: int) -> Tensor:
        """Standard normal numbers (n, *shape) for the n samples of the part."""
        return self._rows(n, lambda total: torch.randn((total, *shape), generator=self.generator))

    def uniform(self, n: int, *shape: int) -> Tensor:
        """Numbers (n, *shape) from 0 to below 1."""
        return self._rows(n, lambda total: torch.rand((total, *shape), generator=self.generator))

    def integers(self, high: int, n: int, *shape: int) -> Tensor:
        """Whole numbers (n, *shape), int64, from 0 to high - 1."""
        return self._rows(n, lambda total: torch.randint(high, (total, *shape), generator=self.generator))

    def _rows(self, n: int, draw: Callable[[int], Tensor]) -> Tensor:
        total = n if self.total is None else self.total
        if self.first + n > total:
            raise ValueError(f"draw: rows {self.first} to {self.first + n} of a batch of {total}")
        return draw(total)[self.first : self.first + n]


class Policy(nn.Module, abc.ABC):
    """Draws chunks of actions for observations.

    Attributes:
        task: what is observed and commanded.
        network: shape of the network.
        sampler: how actions are drawn.
        statistics: range of every stream and of the action in the training data.
    """

    task: TaskSpec
    network: Any
    sampler: SamplerSpec
    statistics: Statistics

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the standard normal noise of one draw: (horizon, action_dim)."""
        return (self.task.horizon, self.task.action.dim)

    @property
    def labels(self) -> tuple[str, ...]:
        """Recorded streams that it learns to tell and does not observe."""
        return ()

    def label_errors(self, observation: Mapping[str, Tensor]) -> dict[str, float]:
        """Mean absolute error of each label, robot units, of observations {stream: (B, n_obs_steps, *shape)}."""
        return {}

    def prepare(self, actions: Tensor) -> None:
        """Take from the training actions (N, horizon, action_dim) what has to be known before the first step."""

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameters as the optimiser takes them, each group with its weight decay."""
        return [{"params": list(self.parameters()), "weight_decay": weight_decay}]

    @abc.abstractmethod
    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """What training lowers: a scalar."""

    @abc.abstractmethod
    def sample(
        self,
        observation: Mapping[str, Tensor],
        noise: Tensor,
        num_inference_steps: int | None = None,
        prefix: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Draw actions (B, horizon, action_dim) in robot units.

        Args:
            observation: {stream: (B, n_obs_steps, *shape)}, robot units.
            noise: standard normal (B, *noise_shape); it alone decides which actions are drawn.
            num_inference_steps: denoising steps, for policies that have them; None: as the sampler says.
            prefix: actions (B, horizon, action_dim), robot units, that the draw goes on from, and their weights
                (B, horizon) from 1 to 0 that never rise: 1 = fixed, between = pulled towards, 0 = free.
        """

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Load the weights of another policy of this shape. Raises RuntimeError if they are of another network."""
        self.load_state_dict(dict(weights))
