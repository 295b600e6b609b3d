"""The schedulers of diffusers that train and run a diffusion policy, as a `SamplerSpec` asks for them.

Easy to get wrong: a policy runs DDPM as diffusers' DDIM with eta = 1, which takes any number of steps and its noise
from outside; and diffusers' DPM-Solver++ does not clip, so the one here is a subclass that does.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor

from dp_ros.inference.sampler import SamplerSpec, lowest_log_ratio


def scheduler_of(sampler: SamplerSpec) -> Any:
    """Scheduler of diffusers that runs a policy trained with `sampler`."""
    if sampler.method == "dpmsolver++":
        return _dpm_solver(sampler)
    from diffusers import DDIMScheduler

    return DDIMScheduler(**_scheduler_arguments(sampler), set_alpha_to_one=True, steps_offset=0)


def next_trajectory(
    scheduler: Any, prediction: Tensor, step: Tensor, noisy: Tensor, fresh: Tensor | None, k: int
) -> Tensor:
    """What is denoised after step number `k`. DDPM is DDIM with eta = 1 (arXiv 2010.02502, section 4.1)."""
    if fresh is None:
        return scheduler.step(prediction, step, noisy).prev_sample  # type: ignore[no-any-return]
    return scheduler.step(  # type: ignore[no-any-return]
        prediction, step, noisy, eta=1.0, use_clipped_model_output=True, variance_noise=fresh[k]
    ).prev_sample


def _dpm_solver(sampler: SamplerSpec) -> Any:
    from diffusers import DPMSolverMultistepScheduler

    class Clipping(DPMSolverMultistepScheduler):  # type: ignore[misc]
        """That of diffusers, which does not clip, though estimates of the clean actions at high noise are wild."""

        def convert_model_output(self, *args: Any, **kwargs: Any) -> Tensor:
            clean: Tensor = super().convert_model_output(*args, **kwargs)
            return clean.clamp(-1.0, 1.0) if sampler.clip_sample else clean

    arguments = {key: value for key, value in _scheduler_arguments(sampler).items() if key != "clip_sample"}
    arguments |= {"solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint"}
    return Clipping(**arguments, lambda_min_clipped=lowest_log_ratio(sampler))


@functools.cache
def noising_scheduler(sampler: SamplerSpec) -> Any:
    """Scheduler of diffusers that adds noise in training."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(**_scheduler_arguments(sampler))


def _scheduler_arguments(sampler: SamplerSpec) -> dict[str, Any]:
    return {
        "num_train_timesteps": sampler.train_steps,
        "beta_schedule": sampler.beta_schedule,
        "prediction_type": sampler.prediction,
        "clip_sample": sampler.clip_sample,
    }
