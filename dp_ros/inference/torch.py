"""Engine on torch: the network from `weights.safetensors`, the loop of diffusers around it.

Slower than ONNX Runtime on a CPU, but takes any number of denoising steps, and is the reference that an export is
held against. Easy to get wrong: torch's thread count is per process, not per model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from dp_ros.errors import UserError
from dp_ros.inference.engine import CheckedEngine, Rows, draw_warm_and_cold
from dp_ros.inference.manifest import WEIGHTS_FILE, Manifest, ManifestError, verify_file
from dp_ros.inference.sampler import (
    SamplerSpec,
    denoising_steps,
    inpainting_noise,
    step_noise,
    steps_left_out,
    warm_noise,
    warm_steps,
)
from dp_ros.inference.step import OneStep
from dp_ros.policies.build import build_policy
from dp_ros.policies.diffusion import DiffusionPolicy
from dp_ros.policies.policy import Policy
from dp_ros.runtime.prefix import Prefix

_CALLS_BEFORE_CAPTURE = 3


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
        given = None if prefix is None else prefix[None]
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


class TorchCudaEngine(TorchEngine):
    """Runs a diffusion policy in torch on a GPU, its whole denoising loop recorded once as a CUDA graph.

    Never run on a GPU (see `gpu`). Products are rounded as on the processor: TF32 is turned off for this process.

    Args:
        policy: a `DiffusionPolicy`.
        manifest: its manifest.
        num_inference_steps: denoising steps; None for what the manifest says.
        device: where it computes; another one is for tests.

    Raises:
        UserError: if the policy does not denoise.
    """

    name = "torch_cuda"
    batches = False

    def __init__(
        self,
        policy: Policy,
        manifest: Manifest,
        num_inference_steps: int | None = None,
        device: str = "cuda",
    ) -> None:
        super().__init__(policy, manifest, num_inference_steps)
        if not isinstance(policy, DiffusionPolicy):
            raise UserError(
                f"engine torch_cuda: a {manifest.network.kind} policy does not denoise; use engine torch"
            )
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self._known_rows = policy.rows_taken_as_known().numpy()
        self._diffusion, self._device = policy.to(device), torch.device(device)
        sampler, self._one_step = policy.sampler, OneStep(policy)
        self._first = steps_left_out(sampler, num_inference_steps)
        self._coefficients = {
            False: self._tensor([step[1:] for step in denoising_steps(sampler, num_inference_steps)]),
            True: self._tensor([step[1:] for step in warm_steps(sampler, num_inference_steps)]),
        }
        steps = denoising_steps(sampler, num_inference_steps)
        self._begin = steps[self._first]
        horizon, trajectory = self.task.horizon, policy.trajectory_shape
        with torch.inference_mode():
            levels = torch.tensor([step.level for step in steps], device=self._device)
            self._step_films = policy.unet.condition_of_step(levels)
            width = self._step_films.shape[1]
            shapes = {
                "x": (1, *trajectory),
                "film": (1, width),
                "planned": (1, horizon, self.task.action.dim),
            }
            shapes |= {"weights": (1, horizon), "known": (1, horizon), "fresh": (len(steps), 1, *trajectory)}
            self._places = {key: torch.zeros(shape, device=self._device) for key, shape in shapes.items()}
            self._drawn = torch.zeros((1, *trajectory), device=self._device)
            self._replay = {
                warm: self._capture(partial(self._loop, warm))
                for warm in (False, True)[: 1 + bool(self._first)]
            }

    def sample_batch(
        self,
        observation: Mapping[str, NDArray[Any]],
        noise: NDArray[np.float32],
        prefix: Prefix | None = None,
    ) -> NDArray[np.float32]:
        """See `Engine.sample_batch`; one after the other, as the graph is recorded."""
        return CheckedEngine.sample_batch(self, observation, noise, prefix)

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values, np.float32), device=self._device)

    def _loop(self, warm: bool) -> None:
        """All denoising steps, from `x` to what is drawn, on the places that are kept."""
        place, sampler = self._places, self._diffusion.sampler
        x, clean = place["x"], torch.zeros_like(place["x"])
        first = self._first if warm else 0
        for k, coefficients in enumerate(self._coefficients[warm], start=first):
            further = [place["known"]] if self._diffusion.unet.mask_channel else []
            further += {"ddpm": [place["fresh"][k]], "dpmsolver++": [clean]}.get(sampler.method, [])
            films = place["film"], self._step_films[k : k + 1]
            made = self._one_step(x, *films, coefficients, place["planned"], place["weights"], *further)
            x, clean = made if isinstance(made, tuple) else (made, clean)
        self._drawn.copy_(x)

    def _capture(self, loop: Callable[[], None]) -> Callable[[], None]:
        """Record `loop` as a CUDA graph, after calls in which libraries choose their kernels; replays it."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_CALLS_BEFORE_CAPTURE):
                loop()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loop()
        replay: Callable[[], None] = graph.replay
        return replay

    @torch.inference_mode()
    def _compute(
        self, observation: dict[str, NDArray[Any]], noise: NDArray[np.float32], prefix: Prefix | None
    ) -> NDArray[np.float32]:
        policy, sampler = self._diffusion, self._diffusion.sampler
        prefix = prefix or Prefix.none(noise.shape)  # type: ignore[arg-type]
        warm = bool(prefix.warm) and self._first > 0
        drawn = inpainting_noise(noise, policy.inpainted_dim) if policy.inpainted_dim else noise
        normalizer = policy.normalizers["action"]
        planned = normalizer.normalize(self._tensor(prefix.actions)[None])  # type: ignore[operator]
        x = self._tensor(drawn)[None] * sampler.temperature
        given = {"x": warm_noise(planned, x, self._begin) if warm else x, "planned": planned}
        given |= {"weights": self._tensor(prefix.weights)[None]}
        given |= {"known": self._tensor((prefix.weights >= 1) & self._known_rows)[None]}
        if sampler.method == "ddpm":
            fresh = step_noise(drawn, len(self._step_films))[:, None]
            given["fresh"] = self._tensor(fresh) * sampler.temperature
        seen = {key: torch.from_numpy(value[None]).to(self._device) for key, value in observation.items()}
        given["film"] = policy.unet.condition_of_observation(policy.encode(seen))
        for key, value in given.items():
            self._places[key].copy_(value)
        self._replay[warm]()
        actions = normalizer.unnormalize(self._drawn[..., : self.task.action.dim])[0].cpu().numpy()  # type: ignore[operator]
        return np.where(prefix.weights[:, None] >= 1, prefix.actions, actions)


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

    def draw(rows: Rows, warm: bool) -> NDArray[np.float32]:
        given = None if prefix is None else (tensor(prefix.actions[rows]), tensor(prefix.weights[rows]))
        seen = {key: tensor(value[rows]) for key, value in observation.items()}
        options = {"warm": True} if warm else {}
        drawn = policy.sample(seen, tensor(noise[rows]), num_inference_steps, given, **options)
        return np.asarray(drawn.cpu().numpy())

    return draw_warm_and_cold(policy.sampler, len(noise), prefix, draw)


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
