"""What the policies that diffusion is compared with share: vectors in, a chunk out, no prefix.

A subclass says what its loss is on normalised values and how it draws a normalised chunk. Easy to get wrong: a draw
is decided by the noise alone, so a component, a bin or a candidate is made from the noise and never from torch's
random numbers; that is also what lets an ONNX graph hold it.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dp_ros.errors import UserError
from dp_ros.inference.sampler import SamplerSpec
from dp_ros.policies.baselines.specs import BaselineSpec
from dp_ros.policies.normalizer import MinMaxNormalizer, Statistics
from dp_ros.policies.policy import Batch, Draw, Policy
from dp_ros.task import TaskSpec


class StatePolicy(Policy):
    """Policy for tasks whose observations are vectors.

    Args:
        task: what is observed and commanded.
        statistics: `{stream or "action": {"min": [...], "max": [...]}}` of the training data.
        network: shape of the network.
        sampler: kept for the manifest; nothing here denoises.

    Raises:
        UserError: if the task observes images or statistics are missing.
    """

    #: Whether observation and noise to actions is one ONNX graph; otherwise torch runs the model.
    has_graph = True

    def __init__(
        self, task: TaskSpec, statistics: Statistics, network: BaselineSpec, sampler: SamplerSpec
    ) -> None:
        super().__init__()
        check_supported(task, network)
        keys = (*task.observations, "action")
        missing = [key for key in keys if key not in statistics]
        if missing:
            raise UserError(f"normalisation: nothing for {', '.join(missing)}; train on data that has it")
        self.task, self.sampler = task, sampler
        self.statistics = {key: dict(value) for key, value in statistics.items()}
        self.normalizers = nn.ModuleDict(
            {key: MinMaxNormalizer(statistics[key]["min"], statistics[key]["max"]) for key in keys}
        )
        self.frame_dim = sum(spec.dim for spec in task.observations.values())

    def frames(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Observations {stream: (B, n_obs_steps, *shape)} in robot units to normalised ones (B, n_obs_steps, O)."""
        parts = [
            self.normalizers[key].normalize(observation[key].flatten(2))  # type: ignore[operator]
            for key in self.task.observations
        ]
        return torch.cat(parts, dim=-1)

    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """See `Policy.loss`. Actions that a batch gives as known mean nothing here."""
        actions = self.normalizers["action"].normalize(batch.actions)  # type: ignore[operator]
        return self.loss_of(self.frames(batch.observation), actions, draw)

    @torch.inference_mode()
    def sample(
        self,
        observation: Mapping[str, Tensor],
        noise: Tensor,
        num_inference_steps: int | None = None,
        prefix: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """See `Policy.sample`. Raises UserError for denoising steps or a prefix, which mean nothing here."""
        for name, value in (("num_inference_steps", num_inference_steps), ("prefix", prefix)):
            if value is not None:
                raise UserError(f"{name}: a {self.network.kind} policy has none; leave it out")
        return self.actions_of(observation, noise)

    def actions_of(self, observation: Mapping[str, Tensor], noise: Tensor) -> Tensor:
        """Actions (B, horizon, action_dim) in robot units for observations in robot units."""
        drawn = self.draw_chunk(self.frames(observation), noise)
        return self.normalizers["action"].unnormalize(drawn.clamp(-1.0, 1.0))  # type: ignore[operator, no-any-return]

    @abc.abstractmethod
    def loss_of(self, frames: Tensor, actions: Tensor, draw: Draw) -> Tensor:
        """Loss of frames (B, n_obs_steps, O) and actions (B, horizon, action_dim), both normalised."""

    @abc.abstractmethod
    def draw_chunk(self, frames: Tensor, noise: Tensor) -> Tensor:
        """Normalised actions (B, horizon, action_dim) for frames (B, n_obs_steps, O) and noise (B, horizon, A)."""


def check_supported(task: TaskSpec, network: BaselineSpec) -> None:
    """Raise UserError for a task that these policies cannot be trained for."""
    images = [key for key, spec in task.observations.items() if spec.is_image]
    if images:
        raise UserError(
            f"task {task.name}: observation {', '.join(images)} is an image, and a {network.kind} policy takes "  # type: ignore[attr-defined]
            "vectors only; use a task without images, such as pusht_state, or another recipe"
        )


def uniform_from(noise: Tensor) -> Tensor:
    """Numbers from 0 to 1, evenly distributed, from standard normal ones: their normal distribution function."""
    return 0.5 * (1.0 + torch.erf(noise / math.sqrt(2.0)))


def choice_from(logits: Tensor, uniform: Tensor) -> Tensor:
    """One-hot choices (..., K) with the probabilities that `logits` (..., K) give, decided by `uniform` (...).

    The first k whose cumulative probability exceeds the number; the last where rounding leaves none.
    """
    reached = logits.softmax(-1).cumsum(-1)[..., :-1] <= uniform.unsqueeze(-1)
    chosen = reached.sum(-1)
    return (torch.arange(logits.shape[-1], device=logits.device) == chosen.unsqueeze(-1)).to(logits.dtype)
