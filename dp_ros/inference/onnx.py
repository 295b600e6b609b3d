"""Engine on ONNX Runtime: the whole denoising loop, with normalisation, is one graph and one call.

Pictures have a graph a camera, so that each is encoded once (`encoder`); in models of schema 2 they are in the one
graph, and are encoded at every call.

The call releases the GIL. Easy to get wrong: the loop is unrolled, so the number of steps is part of the
graph and cannot be changed here; and ONNX Runtime's threads spin after a call, too, unless told not to, which costs
a robot a core.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dp_ros.errors import UserError
from dp_ros.inference.engine import CheckedEngine
from dp_ros.inference.gpu import PROVIDERS, providers
from dp_ros.inference.manifest import (
    ONNX_FILE,
    PREFIX_INPUT,
    PREFIX_WEIGHTS_INPUT,
    STEP_NOISE_INPUT,
    WARM_START_INPUT,
    Manifest,
    ManifestError,
    verify_file,
)
from dp_ros.inference.onnx_encoder import encoders_of, session_options
from dp_ros.inference.sampler import inpainting_noise, step_noise
from dp_ros.runtime.prefix import Prefix


class OnnxEngine(CheckedEngine):
    """Runs `policy.onnx` of a model folder on the CPU.

    Args:
        folder: the model folder.
        manifest: its manifest.
        threads: CPU threads of one inference.
        num_inference_steps: None or what the graph has.
        spin: whether threads wait awake for one another.

    Raises:
        UserError: if the file is not the exported one, or graph and manifest or number of steps differ.
    """

    name = "onnx"

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        threads: int = 1,
        num_inference_steps: int | None = None,
        *,
        spin: bool = False,
    ) -> None:
        super().__init__(manifest, manifest.task_spec(str(folder)))
        steps = manifest.sampler.num_inference_steps
        if num_inference_steps not in (None, steps):
            raise UserError(
                f"num_inference_steps: got {num_inference_steps}, but the graph of {manifest.model_id} has "
                f"{steps} steps built in; leave it out, use engine torch, or export with another number"
            )
        path = verify_file(folder, manifest, ONNX_FILE)
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), session_options(threads, spin), providers=self._providers()
            )
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            raise ManifestError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        found = {value.name: tuple(value.shape) for value in self._session.get_inputs()}
        optional = self._session.get_overridable_initializers()
        found |= {value.name: tuple(value.shape) for value in optional}
        wanted = {name: spec.shape for name, spec in manifest.inputs.items()}
        if found != wanted:
            raise ManifestError(f"{path}: the graph takes {found}, the manifest says {wanted}; export again")
        if not any(spec.dtype == "uint8" for spec in manifest.inputs.values()):  # or the graph encodes itself
            self._encoders = encoders_of(folder, manifest, self.task, threads, self._providers(encoder=True))

    def _providers(self, encoder: bool = False) -> list[Any]:
        """Execution providers of the graph, or of those that encode pictures."""
        return ["CPUExecutionProvider"]

    def _compute(
        self, observation: dict[str, NDArray[Any]], noise: NDArray[np.float32], prefix: Prefix | None
    ) -> NDArray[np.float32]:
        feed = {key: value[None] for key, value in observation.items()}
        drawn = self.manifest.inputs["noise"].shape[-1]
        if drawn > noise.shape[-1]:
            noise = inpainting_noise(noise, drawn - noise.shape[-1])
        feed["noise"] = noise[None]
        if STEP_NOISE_INPUT in self.manifest.inputs:
            feed[STEP_NOISE_INPUT] = step_noise(noise, self.manifest.sampler.num_inference_steps)
        if prefix is not None:
            feed[PREFIX_INPUT], feed[PREFIX_WEIGHTS_INPUT] = prefix.actions[None], prefix.weights[None]
            if WARM_START_INPUT in self.manifest.inputs:
                feed[WARM_START_INPUT] = np.full(1, prefix.warm, np.float32)
        return self._run(feed)[0]

    def _run(self, feed: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """`action` (1, horizon, action_dim) for inputs of the graph; optional ones may be left out."""
        (actions,) = self._session.run(["action"], feed)
        return np.asarray(actions)


class OnnxGpuEngine(OnnxEngine):
    """Runs `policy.onnx` of a model folder on a GPU; never run on one (see `gpu`).

    Inputs and output stay at the same places on the GPU (IO binding), so that a call is one replay of a CUDA graph.
    ONNX Runtime falls back to the processor without a word where a provider that it lists does not load.

    Args:
        folder: the model folder.
        manifest: its manifest.
        name: `onnx_cuda` or `onnx_tensorrt`.
        num_inference_steps: None or what the graph has.
        device: where inputs and outputs are kept; another one is for tests.

    Raises:
        UserError: as `OnnxEngine`, and if the provider does not load.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        name: str,
        num_inference_steps: int | None = None,
        device: str = "cuda",
    ) -> None:
        self.name, self._device = name, device
        super().__init__(folder, manifest, 1, num_inference_steps)
        used = self._session.get_providers()
        if PROVIDERS[name] not in used:
            raise UserError(
                f"engine {name}: ONNX Runtime could not load {PROVIDERS[name]} and fell back to {', '.join(used)}; "
                "its CUDA, cuDNN or TensorRT libraries are missing or of another version"
            )
        self._bind()

    def _providers(self, encoder: bool = False) -> list[Any]:
        return providers(self.name, graph=not encoder and WARM_START_INPUT not in self.manifest.inputs)

    def _bind(self) -> None:
        """Give every input and the output a place of its own on the device, for good."""

        def place(shape: tuple[int, ...], dtype: str) -> Any:
            return onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype), self._device, 0)

        self._binding = self._session.io_binding()
        self._inputs = {key: place(spec.shape, spec.dtype) for key, spec in self.manifest.inputs.items()}
        self._nothing = {
            key: np.zeros(spec.shape, spec.dtype)
            for key, spec in self.manifest.inputs.items()
            if spec.optional
        }
        for key, value in self._inputs.items():
            self._binding.bind_ortvalue_input(key, value)
        self._output = place(self.manifest.outputs["action"].shape, "float32")
        self._binding.bind_ortvalue_output("action", self._output)

    def _run(self, feed: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        for key, value in {**self._nothing, **feed}.items():
            self._inputs[key].update_inplace(np.ascontiguousarray(value))
        self._session.run_with_iobinding(self._binding)
        return np.asarray(self._output.numpy())
