"""Which training samples make up the batch of a step, and how they are cut into parts.

A step's batch is cut into `accumulate` parts for each process; each part goes through the network on its own and
their gradients are averaged. Easy to get wrong: which samples a step sees is a function of the seed and the step
alone, so that it does not matter in how many parts it is cut, nor where a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dp_ros.data.layout import ACTION
from dp_ros.data.prefetch import Prefetch
from dp_ros.data.windows import Windows
from dp_ros.errors import UserError
from dp_ros.policies.normalizer import min_max
from dp_ros.policies.policy import Batch
from dp_ros.task import TaskSpec
from dp_ros.training.config import OptimizationSpec

_ORDER = 1  # what a random number is for; the policy's purposes are others
#: Size of a batch from which a thread fetches it while the one before is computed, and how many it is ahead.
_WORTH_A_THREAD_BYTES, _AHEAD = 2**20, 2


class Samples:
    """Windows as tensors, made when they are asked for."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def actions(self) -> Tensor:
        """Actions of all samples, (N, horizon, action_dim)."""
        return torch.from_numpy(self.windows.actions)

    def at(self, chosen: Tensor, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
        """Observations {stream: (B, n_obs_steps, *shape)} and actions (B, horizon, action_dim) on a device."""
        observations, actions = self.windows.at(chosen.numpy())
        tensors = {key: torch.from_numpy(value).to(device) for key, value in observations.items()}
        return tensors, torch.from_numpy(actions).to(device)

    def spread(self, most: int) -> Tensor:
        """Indices of at most so many samples, evenly from the first to the last."""
        return torch.linspace(0, len(self) - 1, min(len(self), most)).long()


@dataclass(frozen=True)
class Part:
    """A part of a step's batch.

    Attributes:
        chosen: (B,) indices of its samples.
        first: place of its first sample in the whole batch.
        total: samples of the whole batch.
    """

    chosen: Tensor
    first: int
    total: int

    @property
    def share(self) -> float:
        """Of the whole batch."""
        return len(self.chosen) / self.total


class Batches:
    """The batch of every step; each epoch has its own order and drops what is left over.

    Args:
        n_windows: samples there are.
        spec: batch size, parts and seed.
        processes: which train together.

    Raises:
        UserError: if there are fewer samples than parts.
    """

    def __init__(self, n_windows: int, spec: OptimizationSpec, processes: int = 1) -> None:
        self._n, self._seed, self._processes = n_windows, spec.seed, processes
        self._parts = spec.accumulate * processes
        if n_windows < self._parts:
            raise UserError(
                f"{n_windows} windows cannot be cut into {self._parts} parts (training.accumulate {spec.accumulate}, "
                f"{processes} processes); record more, or lower training.accumulate"
            )
        self.size = min(spec.batch_size * self._parts, n_windows)
        self._epoch = -1
        self._order = torch.empty(0)

    def epochs(self, step: int) -> float:
        """How often every sample was seen after so many steps."""
        return step / (self._n // self.size)

    def at(self, step: int) -> Tensor:
        """Indices of the batch of `step`, counted from 0."""
        epoch, place = divmod(step, self._n // self.size)
        if epoch != self._epoch:
            rng = np.random.default_rng(np.random.SeedSequence([self._seed, _ORDER, epoch]))
            self._order, self._epoch = torch.from_numpy(rng.permutation(self._n)), epoch
        return self._order[place * self.size : (place + 1) * self.size]

    def parts(self, step: int, rank: int = 0) -> list[Part]:
        """Parts of the batch of `step` that process `rank` computes."""
        parts, first = [], 0
        for chosen in self.at(step).tensor_split(self._parts):
            parts.append(Part(chosen, first, self.size))
            first += len(chosen)
        return parts[rank :: self._processes]


#: A part of a batch with its observations and actions.
Fetched = tuple[Part, dict[str, Tensor], Tensor]


def fetch_ahead(
    samples: Samples, batches: Batches, steps: int, device: torch.device, rank: int = 0
) -> Prefetch[list[Fetched]]:
    """The parts of each step that process `rank` computes, on a device; large ones are fetched ahead of time."""

    def fetch(step: int) -> list[Fetched]:
        return [(part, *samples.at(part.chosen, device)) for part in batches.parts(step, rank)]

    batch_bytes = samples.windows.sample_bytes * batches.size
    return Prefetch(fetch, _AHEAD if batch_bytes >= _WORTH_A_THREAD_BYTES else 0, steps)


def ranges_of(windows: Windows, task: TaskSpec) -> dict[str, dict[str, list[float]]]:
    """Range of every vector, label and of the action over the episodes; pictures have theirs by type."""
    vectors = [key for key, spec in task.observations.items() if not spec.is_image]
    return {key: min_max(windows.values(key)) for key in (*vectors, *windows.labels, ACTION)}


def weighted_batch(
    spec: OptimizationSpec, observation: Mapping[str, Tensor], actions: Tensor, known: Tensor | None = None
) -> Batch:
    """A batch with the weights of the recipe; arguments as in `Batch`."""
    return Batch(observation, actions, known, spec.prefix_noise, spec.action_weight, spec.auxiliary_weight)
