"""Diffusion policy: actions are drawn by removing noise from them step by step, given the observation.

    time, in steps of the task       t-1   t   t+1  ...  t+7  ...  t+14
    observed (n_obs_steps = 2)        o    o
    predicted (horizon = 16)          a    a    a   ...   a   ...   a
    executed (n_action_steps = 8)          a    a   ...   a

Training is DDPM (Ho et al., 2020, arXiv 2006.11239), running is DDIM (Song et al., 2020, arXiv 2010.02502),
both with the schedulers of diffusers; policy and recipe are those of Diffusion Policy (Chi et al., 2023,
arXiv 2303.04137). Easy to get wrong: the first predicted action belongs to the *oldest* observation, not to
now.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dp_ros.errors import UserError
from dp_ros.inference.manifest import NetworkSpec
from dp_ros.inference.sampler import SamplerSpec
from dp_ros.policies.normalizer import MinMaxNormalizer, Statistics
from dp_ros.policies.unet1d import ConditionalUnet1d
from dp_ros.task import TaskSpec


class DiffusionPolicy(nn.Module):
    """Policy for tasks whose observations are vectors.

    Args:
        task: what is observed and commanded.
        statistics: `{stream or "action": {"min": [...], "max": [...]}}` of the training data.
        network: shape of the network.
        sampler: noise schedule and what the network predicts.

    Raises:
        UserError: if the task observes images, the horizon does not suit the network or statistics are
        missing.
    """

    def __init__(
        self, task: TaskSpec, statistics: Statistics, network: NetworkSpec, sampler: SamplerSpec
    ) -> None:
        super().__init__()
        check_supported(task)
        factor = 2 ** (len(network.widths) - 1)
        if task.horizon % factor:
            raise UserError(
                f"task {task.name}: horizon {task.horizon} is not divisible by {factor}, which a U-Net of "
                f"{len(network.widths)} widths needs; change horizon or the number of widths"
            )
        self.task, self.network, self.sampler = task, network, sampler
        self.statistics = {key: dict(value) for key, value in statistics.items()}
        longest = task.horizon - (task.n_obs_steps - 1) - 1
        if network.prefix_steps > longest:
            raise UserError(
                f"task {task.name}: prefix_steps {network.prefix_steps} leaves nothing to predict of horizon "
                f"{task.horizon} with n_obs_steps {task.n_obs_steps}; expected at most {longest}"
            )
        missing = [key for key in (*task.observations, "action") if key not in statistics]
        if missing:
            raise UserError(f"normalisation: nothing for {', '.join(missing)}; train on data that has it")
        self.normalizers = nn.ModuleDict(
            {
                key: MinMaxNormalizer(statistics[key]["min"], statistics[key]["max"])
                for key in (*task.observations, "action")
            }
        )
        observation_dim = task.n_obs_steps * sum(spec.dim for spec in task.observations.values())
        self.unet = ConditionalUnet1d(
            task.action.dim,
            observation_dim,
            widths=network.widths,
            step_dim=network.step_dim,
            kernel_size=network.kernel_size,
            groups=network.groups,
            mask_channel=network.prefix_steps > 0,
        )

    def encode(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Flatten observations {stream: (B, n_obs_steps, *shape)} in robot units to one normalised (B, O)."""
        parts = [
            self.normalizers[key].normalize(observation[key].flatten(2))  # type: ignore[operator]
            for key in self.task.observations
        ]
        return torch.cat(parts, dim=-1).flatten(1)

    def loss(
        self,
        observation: Mapping[str, Tensor],
        actions: Tensor,
        noise: Tensor,
        step: Tensor,
        known: Tensor | None = None,
        known_noise: float = 0.0,
    ) -> Tensor:
        """Mean squared error of the prediction.

        With `known`, the network sees these actions clean, is told so, and is judged on the others alone
        ("training-time action conditioning", Black et al., 2025, arXiv 2512.05964; there the noise level is
        given for each action, here by a mask channel, because FiLM knows one level a sample).

        Args:
            observation: {stream: (B, n_obs_steps, *shape)}, robot units.
            actions: (B, horizon, action_dim), robot units.
            noise: standard normal, shaped as `actions`.
            step: (B,) int64, noise levels from 0 to train_steps - 1.
            known: (B, horizon) bool, which actions are given; needs a network with `prefix_steps`.
            known_noise: standard deviation of the noise that the given actions have all the same, in the
                normalised range of 2.
        """
        clean = self.normalizers["action"].normalize(actions)  # type: ignore[operator]
        noisy = _ddpm(self.sampler).add_noise(clean, noise, step)
        target = noise if self.sampler.prediction == "epsilon" else clean
        condition = self.encode(observation)
        if known is None:
            return F.mse_loss(self.unet(noisy, step, condition), target)
        noisy = torch.where(known.unsqueeze(-1), clean + known_noise * noise, noisy)
        free = ~known.unsqueeze(-1).expand_as(target)
        return F.mse_loss(self.unet(noisy, step, condition, known)[free], target[free])

    @torch.inference_mode()
    def sample(
        self, observation: Mapping[str, Tensor], noise: Tensor, num_inference_steps: int | None = None
    ) -> Tensor:
        """Draw actions (B, horizon, action_dim) in robot units by DDIM.

        Args:
            observation: {stream: (B, n_obs_steps, *shape)}, robot units.
            noise: standard normal (B, horizon, action_dim); it alone decides which actions are drawn.
            num_inference_steps: number of denoising steps; default as the sampler says.
        """
        ddim = ddim_scheduler(self.sampler)
        ddim.set_timesteps(num_inference_steps or self.sampler.num_inference_steps)
        condition = self.encode(observation)
        actions = noise
        for step in ddim.timesteps:
            prediction = self.unet(actions, step.expand(len(actions)), condition)
            actions = ddim.step(prediction, step, actions).prev_sample
        return self.normalizers["action"].unnormalize(actions)  # type: ignore[operator]


def check_supported(task: TaskSpec) -> None:
    """Raise UserError for a task that this policy cannot be trained for."""
    images = [key for key, spec in task.observations.items() if spec.is_image]
    if images:
        raise UserError(
            f"task {task.name}: observation {', '.join(images)} is an image; this version trains policies "
            "on vectors only. Use a task without images, such as pusht_state"
        )


def ddim_scheduler(sampler: SamplerSpec) -> Any:
    """Scheduler of diffusers that runs a policy trained with `sampler`."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(**_scheduler_arguments(sampler), set_alpha_to_one=True, steps_offset=0)


@functools.cache
def _ddpm(sampler: SamplerSpec) -> Any:
    from diffusers import DDPMScheduler

    return DDPMScheduler(**_scheduler_arguments(sampler))


def _scheduler_arguments(sampler: SamplerSpec) -> dict[str, Any]:
    return {
        "num_train_timesteps": sampler.train_steps,
        "beta_schedule": sampler.beta_schedule,
        "prediction_type": sampler.prediction,
        "clip_sample": sampler.clip_sample,
    }
