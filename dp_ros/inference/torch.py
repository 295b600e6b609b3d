"""Engine on torch: the network from `weights.safetensors`, the loop of diffusers around it.

Slower than ONNX Runtime on a CPU, but takes any number of denoising steps, and is the reference that an export is
held against. Easy to get wrong: torch's thread count is per process, not per model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from dp_ros.inference.engine import CheckedEngine
from dp_ros.inference.manifest import WEIGHTS_FILE, Manifest, ManifestError, verify_file
from dp_ros.inference.sampler import SamplerSpec
from dp_ros.policies.build import build_policy
from dp_ros.policies.policy import Policy
from dp_ros.runtime.prefix import Prefix


class TorchEngine(CheckedEngine):
    """Runs a policy in torch on the CPU.

    Args:
        policy: the policy; it is put into evaluation mode.
        manifest: its manifest.
        num_inference_steps: denoising steps; None for what the manifest says.
    """

    name = "torch"
    batches = True

    def __init__(self, policy: Policy, manifest: Manifest, num_inference_steps: int | None = None) -> None:
        super().__init__(manifest, policy.task)
        self._policy = policy.eval()
        self._steps = num_inference_steps

    @classmethod
    def load(
        cls, folder: Path, manifest: Manifest, threads: int = 1, num_inference_steps: int | None = None
    ) -> TorchEngine:
        """Load the weights of a model folder.

        Raises:
            ManifestError: if the file is not the exported one, or does not fit the network of the manifest.
        """
        policy = load_policy(folder, manifest)
        torch.set_num_threads(threads)
        return cls(policy, manifest, num_inference_steps)

    def _compute(
        self, observation: dict[str, NDArray[Any]], noise: NDArray[np.float32], prefix: Prefix | None
    ) -> NDArray[np.float32]:
        one = {key: value[None] for key, value in observation.items()}
        given = None if prefix is None else Prefix(prefix.actions[None], prefix.weights[None])
        return sample_batch(self._policy, one, noise[None], given, num_inference_steps=self._steps)[0]

    def sample_batch(
        self,
        observation: Mapping[str, NDArray[Any]],
        noise: NDArray[np.float32],
        prefix: Prefix | None = None,
    ) -> NDArray[np.float32]:
        """See `Engine.sample_batch`."""
        return self._finite(
            sample_batch(self._policy, observation, noise, prefix, num_inference_steps=self._steps)
        )


def sample_batch(
    policy: Policy,
    observation: Mapping[str, NDArray[Any]],
    noise: NDArray[np.float32],
    prefix: Prefix | None = None,
    *,
    num_inference_steps: int | None = None,
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """Draw actions (B, horizon, action_dim) for arrays: observation {stream: (B, n_obs_steps, *shape)}, robot units.

    Arguments:
        policy: on `device`.
        observation, noise, prefix: of B draws, see `Engine.sample_batch`.
        num_inference_steps: denoising steps; None: as the policy's sampler says.
        device: where it computes.
    """

    def tensor(values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values)).to(device)

    given = None if prefix is None else (tensor(prefix.actions), tensor(prefix.weights))
    seen = {key: tensor(value) for key, value in observation.items()}
    return np.asarray(policy.sample(seen, tensor(noise), num_inference_steps, given).cpu().numpy())


def load_policy(folder: Path, manifest: Manifest, sampler: SamplerSpec | None = None) -> Policy:
    """The policy of a model folder, with the manifest's sampler or another one.

    Raises:
        ManifestError: if the file is not the exported one, or does not fit the network of the manifest.
    """
    path = verify_file(folder, manifest, WEIGHTS_FILE)
    task = manifest.task_spec(str(folder))
    policy = build_policy(task, manifest.normalization, manifest.network, sampler or manifest.sampler)
    try:
        policy.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError) as error:
        raise ManifestError(f"{path}: does not fit the network of the manifest: {error}") from error
    return policy
