"""The engine: a model folder in, action chunks out.

`load_engine` picks ONNX Runtime or torch; both take and give robot units, check what goes in and what comes
out, and make a warm-up call while loading, because the first call of either is many times slower than the
second. Easy to get wrong: `sample` is a pure function of observation and noise; whoever wants another draw
brings other noise.
"""

from __future__ import annotations

import abc
import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dp_ros.errors import UserError
from dp_ros.inference.manifest import ONNX_FILE, WEIGHTS_FILE, Manifest, ManifestError, load_manifest
from dp_ros.inference.sampler import sampling_noise
from dp_ros.task import TaskSpec

log = logging.getLogger(__name__)

EngineName = Literal["onnx", "torch", "auto"]
ENGINES: tuple[EngineName, ...] = ("auto", "onnx", "torch")


class EngineError(UserError):
    """An observation that the model cannot take, or an output that no robot should get."""


class Engine(Protocol):
    """What the runtime, the nodes and the evaluation know of a model."""

    @property
    def name(self) -> str:
        """`onnx` or `torch`."""

    @property
    def manifest(self) -> Manifest:
        """The model's manifest; `manifest.model_id` names the model."""

    @property
    def task(self) -> TaskSpec:
        """The task that the model was made for."""

    def sample(
        self, observation: Mapping[str, NDArray[Any]], noise: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Draw the actions (horizon, action_dim), robot units, that `noise` of that shape leads to.

        `observation` is {stream: (n_obs_steps, *shape)}, oldest first: float32 for vectors, images as
        encoded.

        Raises:
            EngineError: if a stream is missing, has another shape or is not finite, or the output is not.
        """


class CheckedEngine(abc.ABC):
    """Checks around an engine: subclasses only compute."""

    name: str

    def __init__(self, manifest: Manifest, task: TaskSpec) -> None:
        self.manifest = manifest
        self.task = task
        self._noise_shape = (task.horizon, task.action.dim)
        self._input_shapes = {k: (task.n_obs_steps, *s.shape) for k, s in task.observations.items()}

    def sample(
        self, observation: Mapping[str, NDArray[Any]], noise: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """See `Engine.sample`."""
        for key, shape in self._input_shapes.items():
            if key not in observation:
                got = ", ".join(observation) or "nothing"
                raise EngineError(f"{self._label}: observation {key} is missing (got {got})")
            array = np.asarray(observation[key])
            if array.shape != shape:
                raise EngineError(
                    f"{self._label}: observation {key} has shape {array.shape}, expected {shape}: "
                    f"{self.task.n_obs_steps} steps of {list(shape[1:])}, oldest first"
                )
            if self.task.observations[key].is_image:
                if array.dtype.kind == "f":
                    raise EngineError(f"{self._label}: image {key} is {array.dtype}, expected it as encoded")
            elif array.dtype.kind not in "fiu" or not np.isfinite(array).all():
                raise EngineError(
                    f"{self._label}: observation {key} is not all finite numbers: {_first(array)}"
                )
        unknown = [key for key in observation if key not in self._input_shapes]
        if unknown:
            known = ", ".join(self._input_shapes)
            raise EngineError(f"{self._label}: observation {', '.join(unknown)} is not one of {known}")
        noise = np.asarray(noise)
        if noise.shape != self._noise_shape or noise.dtype.kind != "f" or not np.isfinite(noise).all():
            raise EngineError(
                f"{self._label}: noise is {noise.dtype} {noise.shape}, "
                f"expected finite float32 {self._noise_shape}"
            )
        inputs = {
            key: np.ascontiguousarray(
                observation[key], dtype=None if self.task.observations[key].is_image else np.float32
            )
            for key in self._input_shapes
        }
        actions = self._compute(inputs, np.ascontiguousarray(noise, dtype=np.float32))
        if not np.isfinite(actions).all():
            raise EngineError(f"{self._label}: the actions are not finite; train or export the model again")
        return actions

    def warm_up(self) -> None:
        """Run once on made-up input, so that the first real call is as fast as the others."""
        zeros = {
            key: np.zeros(shape, np.uint8 if self.task.observations[key].is_image else np.float32)
            for key, shape in self._input_shapes.items()
        }
        self.sample(zeros, sampling_noise(0, 0, self._noise_shape))

    @abc.abstractmethod
    def _compute(
        self, observation: dict[str, NDArray[Any]], noise: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Actions for checked input."""

    @property
    def _label(self) -> str:
        return f"model {self.manifest.model_id}"


def load_engine(
    folder: str | Path,
    engine: str = "auto",
    threads: int = 1,
    num_inference_steps: int | None = None,
) -> Engine:
    """Load a model folder, check its files and make it ready.

    Args:
        folder: the model folder.
        engine: `onnx`, `torch`, or `auto`: ONNX Runtime where it is installed and the folder has a graph.
        threads: CPU threads of one inference.
        num_inference_steps: DDIM steps; only the torch engine can take another number than the manifest says.

    Raises:
        UserError: if the folder cannot be used, or the engine cannot do what was asked.
    """
    if threads < 1:
        raise UserError(f"threads: got {threads}, expected at least 1")
    folder = Path(folder)
    manifest = load_manifest(folder, verify=False)
    if num_inference_steps is not None and not 1 <= num_inference_steps <= manifest.sampler.train_steps:
        raise UserError(
            f"num_inference_steps: got {num_inference_steps}, expected 1 to {manifest.sampler.train_steps}"
        )
    chosen = choose_engine(manifest, engine, num_inference_steps)
    loaded: CheckedEngine
    if chosen == "onnx":
        _require(folder, manifest, ONNX_FILE, "onnx")
        from dp_ros.inference.onnx import OnnxEngine

        loaded = OnnxEngine(folder, manifest, threads, num_inference_steps)
    elif chosen == "torch":
        _require(folder, manifest, WEIGHTS_FILE, "torch")
        if importlib.util.find_spec("torch") is None:
            raise UserError(
                "engine torch: torch is not installed; `pip install -e '.[train]'`, or engine onnx"
            )
        from dp_ros.inference.torch import TorchEngine

        loaded = TorchEngine.load(folder, manifest, threads, num_inference_steps)
    else:
        raise UserError(f"engine: got {engine!r}, expected one of {', '.join(ENGINES)}")
    loaded.warm_up()
    return loaded


def choose_engine(manifest: Manifest, engine: str = "auto", num_inference_steps: int | None = None) -> str:
    """The engine that `load_engine` would take: `engine` itself unless it is `auto`. Logs why."""
    if engine != "auto":
        return engine
    if ONNX_FILE not in manifest.files:
        log.info("engine torch: the model has no %s", ONNX_FILE)
        return "torch"
    if importlib.util.find_spec("onnxruntime") is None:
        log.info("engine torch: onnxruntime is not installed")
        return "torch"
    if num_inference_steps not in (None, manifest.sampler.num_inference_steps):
        log.info("engine torch: the graph has another number of DDIM steps than %s", num_inference_steps)
        return "torch"
    log.info("engine onnx: onnxruntime is installed and the model has %s", ONNX_FILE)
    return "onnx"


def _require(folder: Path, manifest: Manifest, file: str, engine: str) -> None:
    if file not in manifest.files:
        raise ManifestError(
            f"model {folder}: engine {engine} needs {file}, the manifest lists {', '.join(manifest.files)}; "
            "choose another engine or export the model again"
        )


def _first(array: NDArray[Any]) -> str:
    """The first value that is not a finite number, and where it is."""
    if array.dtype.kind not in "fiu":
        return f"type {array.dtype}"
    index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
    return f"{array[index]} at {list(index)}"
