"""Engine on ONNX Runtime: the whole denoising loop, with normalisation, is one graph and one call.

The call releases the GIL. Easy to get wrong: the loop is unrolled, so the number of steps is part of the
graph and cannot be changed here; and ONNX Runtime's threads spin after a call unless told not to, which costs
a robot a core.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dp_ros.errors import UserError
from dp_ros.inference.encoder import quiet_options
from dp_ros.inference.engine import CheckedEngine
from dp_ros.inference.manifest import (
    ONNX_FILE,
    PREFIX_INPUT,
    PREFIX_WEIGHTS_INPUT,
    STEP_NOISE_INPUT,
    Manifest,
    ManifestError,
    verify_file,
)
from dp_ros.inference.sampler import inpainting_noise, step_noise
from dp_ros.runtime.prefix import Prefix


class OnnxEngine(CheckedEngine):
    """Runs `policy.onnx` of a model folder on the CPU.

    Args:
        folder: the model folder.
        manifest: its manifest.
        threads: CPU threads of one inference.
        num_inference_steps: None or what the graph has.

    Raises:
        UserError: if the file is not the exported one, or graph and manifest or number of steps differ.
    """

    name = "onnx"

    def __init__(
        self, folder: Path, manifest: Manifest, threads: int = 1, num_inference_steps: int | None = None
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
                str(path), quiet_options(threads), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            raise ManifestError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        found = {value.name: tuple(value.shape) for value in self._session.get_inputs()}
        optional = self._session.get_overridable_initializers()
        found |= {value.name: tuple(value.shape) for value in optional}
        wanted = {name: spec.shape for name, spec in manifest.inputs.items()}
        if found != wanted:
            raise ManifestError(f"{path}: the graph takes {found}, the manifest says {wanted}; export again")

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
        (actions,) = self._session.run(["action"], feed)
        return np.asarray(actions[0])
