"""Chunks on their way from noise to actions, one denoising step at a time.

Easy to get wrong: what is shown are the noisy actions themselves in robot units, not the estimates of the clean
ones, which look like actions from the first step on.
"""

from __future__ import annotations

import numpy as np
import torch

from dp_ros.explain.models import Explained
from dp_ros.explain.symmetric_start import Floats, symmetric_start
from dp_ros.inference.sampler import sampling_noise
from dp_ros.sim.pusht import PushT
from dp_ros.sim.pusht_rollout import noise_seed, observe


def denoising_of(model: Explained, n: int) -> Floats | None:
    """Noisy actions (steps + 1, n, horizon, 2) in px on the way to the first chunks of `n` futures.

    None for a policy that does not draw by denoising.
    """
    denoise = getattr(model.policy, "denoise", None)
    if denoise is None:
        return None
    task, world = model.policy.task, PushT()
    world.reset(state=symmetric_start(), legacy=False)
    observation = {
        key: torch.from_numpy(np.tile(value, (n, task.n_obs_steps, *[1] * value.ndim)))
        for key, value in observe(task, world).items()
    }
    noise = np.stack([sampling_noise(noise_seed(0, k), 0, model.policy.noise_shape) for k in range(n)])
    steps = denoise(observation, torch.from_numpy(noise))
    return np.stack([actions.numpy() for actions in steps]).astype(np.float64)
