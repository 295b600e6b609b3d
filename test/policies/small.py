"""A small policy for the PushT task, quick to run and to export; its weights are random."""

from __future__ import annotations

from typing import Any

import torch

from dp_ros.inference.manifest import NetworkSpec
from dp_ros.inference.sampler import SamplerSpec
from dp_ros.policies.diffusion import DiffusionPolicy
from dp_ros.task import load_task

STATISTICS = {
    "keypoint": {"min": [20.0] * 18, "max": [490.0] * 18},
    "agent_pos": {"min": [10.0, 30.0], "max": [500.0, 480.0]},
    "action": {"min": [5.0, 25.0], "max": [505.0, 485.0]},
}
NETWORK = NetworkSpec(widths=(8, 16), step_dim=16, groups=4)


def small_policy(seed: int = 0, **sampler: Any) -> DiffusionPolicy:
    """A policy with two levels; `sampler` goes to SamplerSpec."""
    torch.manual_seed(seed)
    return DiffusionPolicy(load_task("pusht_state"), STATISTICS, NETWORK, SamplerSpec(**sampler)).eval()


def prefix_policy(seed: int = 0, prefix_steps: int = 7, **sampler: Any) -> DiffusionPolicy:
    """The same with a network that takes a prefix."""
    torch.manual_seed(seed)
    network = NETWORK.model_copy(update={"prefix_steps": prefix_steps})
    return DiffusionPolicy(load_task("pusht_state"), STATISTICS, network, SamplerSpec(**sampler)).eval()


def observation_batch(n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Observations (n, 2, ...) in px."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "keypoint": torch.rand((n, 2, 18), generator=generator) * 512,
        "agent_pos": torch.rand((n, 2, 2), generator=generator) * 512,
    }
