"""A small policy for PushT with pictures, quick to run and to export; its weights are random."""

from __future__ import annotations

from typing import Any

import torch

from dp_ros.inference.sampler import SamplerSpec
from dp_ros.policies.diffusion import DiffusionPolicy
from dp_ros.policies.specs import UnetSpec, VisionSpec
from dp_ros.task import load_task
from test.policies.small import STATISTICS

RANGES = {key: STATISTICS[key] for key in ("agent_pos", "action")}
NETWORK = UnetSpec(
    widths=(8, 16), step_dim=16, groups=4, vision=VisionSpec(channels=(8, 8), keypoints=4, features=6)
)
#: The same with an encoder that tells where the T is.
PREDICTING = NETWORK.model_copy(
    update={"vision": VisionSpec(channels=(8, 8), keypoints=4, features=18, predicts="keypoint")}
)


def small_image_policy(seed: int = 0, network: UnetSpec = NETWORK, **sampler: Any) -> DiffusionPolicy:
    """A policy with two levels and a small encoder; `sampler` goes to SamplerSpec."""
    torch.manual_seed(seed)
    ranges = STATISTICS if network.vision is not None and network.vision.predicts else RANGES
    return DiffusionPolicy(load_task("pusht_image"), ranges, network, SamplerSpec(**sampler)).eval()


def picture_batch(n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Observations (n, 2, ...): pictures of noise, positions in px."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randint(256, (n, 2, 96, 96, 3), dtype=torch.uint8, generator=generator),
        "agent_pos": torch.rand((n, 2, 2), generator=generator) * 512,
    }
