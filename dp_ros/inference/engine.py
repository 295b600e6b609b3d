"""The engine: observations in, action chunks out.

Compiled code, ONNX Runtime and torch all take and give robot units, and check what goes in and what comes out. Easy
to get wrong: `sample` is a pure function of observation, noise and prefix; whoever wants another draw brings other
noise.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dp_ros.errors import UserError
from dp_ros.inference.manifest import Manifest, PrefixKind
from dp_ros.inference.sampler import SamplerSpec, sampling_noise
from dp_ros.runtime.observation import FrameStamp
from dp_ros.runtime.prefix import Prefix
from dp_ros.task import TaskSpec

if TYPE_CHECKING:
    from dp_ros.inference.encoder import PictureEncoders

__all__ = ["CheckedEngine", "Engine", "EngineError", "Prefix"]

#: Some of the draws of a batch.
Rows = slice | NDArray[np.bool_]


class EngineError(UserError):
    """An observation that the model cannot take, or an output that no robot should get."""


class Engine(Protocol):
    """What the runtime, the nodes and the evaluation know of a model."""

    @property
    def name(self) -> str:
        """As `load.ENGINES` names it, such as `native`, `onnx` or `torch`."""

    @property
    def manifest(self) -> Manifest:
        """The model's manifest; `manifest.model_id` names the model."""

    @property
    def task(self) -> TaskSpec:
        """The task that the model was made for."""

    @property
    def cores(self) -> tuple[int, ...]:
        """Processor cores that inferences are to run on; (): any. Whose thread calls `sample` has it keep to them."""

    @property
    def prefix(self) -> PrefixKind:
        """How `sample` takes a prefix: `none` (it must not be given one), `guided` or `trained`."""

    def sample(
        self,
        observation: Mapping[str, NDArray[Any]],
        noise: NDArray[np.float32],
        prefix: Prefix | None = None,
        frames: Mapping[str, Sequence[FrameStamp]] | None = None,
    ) -> NDArray[np.float32]:
        """Draw the actions (horizon, action_dim), robot units, that `noise` of that shape leads to.

        `observation` is {stream: (n_obs_steps, *shape)}, oldest first: float32 for vectors, images as
        encoded. With a `prefix`, rows of weight 1 come out as they are in it, and the others go on from them; one
        whose weights are all 0 changes nothing, unless it is `warm` and the model's sampler has a `warm_start`.
        `frames` says what pictures are known by, so that those which `see` was given are not encoded again; it
        changes no action.

        Raises:
            EngineError: if a stream is missing, has another shape or is not finite, or the output is not; if the
                model takes no prefix, or this one does not fit.
        """

    def see(self, key: str, picture: NDArray[Any], frame: FrameStamp) -> None:
        """Encode a picture (height, width, channels) of a camera that `sample` will be given; costs the same thread."""

    @property
    def batches(self) -> bool:
        """Whether `sample_batch` is faster than as many calls of `sample`."""

    def sample_batch(
        self,
        observation: Mapping[str, NDArray[Any]],
        noise: NDArray[np.float32],
        prefix: Prefix | None = None,
    ) -> NDArray[np.float32]:
        """Draw (B, horizon, action_dim) for B observations, as `sample` would for each; every array has B in front.

        For evaluation, not for robots. Raises EngineError if an action is not finite.
        """


class CheckedEngine(abc.ABC):
    """Checks around an engine: subclasses only compute."""

    name: str
    cores: tuple[int, ...] = ()
    batches = False
    _encoders: PictureEncoders | None = None
    """Of the cameras, where pictures are encoded apart from the rest."""

    def __init__(self, manifest: Manifest, task: TaskSpec) -> None:
        self.manifest = manifest
        self.task = task
        self.prefix: PrefixKind = manifest.prefix
        self._noise_shape = (task.horizon, task.action.dim)
        self._input_shapes = {k: (task.n_obs_steps, *s.shape) for k, s in task.observations.items()}
        self._warm_ups = itertools.count()

    def sample(
        self,
        observation: Mapping[str, NDArray[Any]],
        noise: NDArray[np.float32],
        prefix: Prefix | None = None,
        frames: Mapping[str, Sequence[FrameStamp]] | None = None,
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
        if prefix is not None:
            prefix = self._checked_prefix(prefix)
        inputs = {
            key: np.ascontiguousarray(
                observation[key], dtype=None if self.task.observations[key].is_image else np.float32
            )
            for key in self._input_shapes
        }
        inputs |= self.encode_pictures(inputs, frames)
        return self._finite(self._compute(inputs, np.ascontiguousarray(noise, dtype=np.float32), prefix))

    def sample_batch(
        self,
        observation: Mapping[str, NDArray[Any]],
        noise: NDArray[np.float32],
        prefix: Prefix | None = None,
    ) -> NDArray[np.float32]:
        """See `Engine.sample_batch`."""
        drawn = []
        for i, one in enumerate(noise):
            given = None if prefix is None else prefix[i]
            drawn.append(self.sample({key: value[i] for key, value in observation.items()}, one, given))
        return np.stack(drawn)

    def see(self, key: str, picture: NDArray[Any], frame: FrameStamp) -> None:
        """See `Engine.see`."""
        if self._encoders is not None:
            self._encoders.see(key, picture, frame)

    def encode_pictures(
        self,
        observation: Mapping[str, NDArray[Any]],
        frames: Mapping[str, Sequence[FrameStamp]] | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """Features {camera: (n_obs_steps, F)} of an observation; nothing where pictures are not encoded apart."""
        if self._encoders is None:
            return {}
        cameras = [key for key, spec in self.task.observations.items() if spec.is_image]
        return {key: self._encoders.encode(key, observation[key], (frames or {}).get(key)) for key in cameras}

    @property
    def pictures_encoded(self) -> int:
        """How many there were so far; one that was seen before is not encoded again."""
        return 0 if self._encoders is None else self._encoders.encoded

    def warm_up(self) -> None:
        """Run once on made-up input, so that the first real call is as fast as the others.

        Its pictures are others each time: none is remembered, so that such calls can be timed.
        """
        self.draw_made_up(next(self._warm_ups))

    def draw_made_up(self, turn: int = 0) -> NDArray[np.float32]:
        """Actions for made-up input, the same for every engine of a model; its pictures change with `turn`."""
        made_up = {
            key: np.zeros(shape, np.uint8 if self.task.observations[key].is_image else np.float32)
            for key, shape in self._input_shapes.items()
        }
        for key, values in made_up.items():
            if self.task.observations[key].is_image:
                steps = turn * len(values) + np.arange(len(values))
                values[:] = (steps % 256).astype(np.uint8).reshape(-1, *[1] * (values.ndim - 1))
        return self.sample(made_up, sampling_noise(0, 0, self._noise_shape))

    @abc.abstractmethod
    def _compute(
        self, observation: dict[str, NDArray[Any]], noise: NDArray[np.float32], prefix: Prefix | None
    ) -> NDArray[np.float32]:
        """Actions for checked input; where there are encoders, of cameras it is the features (n_obs_steps, F)."""

    def _finite(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        """`actions`, if a robot may get them; raises EngineError."""
        if not np.isfinite(actions).all():
            raise EngineError(f"{self._label}: the actions are not finite; train or export the model again")
        return actions

    def _checked_prefix(self, prefix: Prefix) -> Prefix:
        """`prefix` as contiguous float32."""
        if self.prefix == "none":
            raise EngineError(
                f"{self._label}: takes no prefix; export it again, or run it in another mode than rtc"
            )
        actions, weights = np.asarray(prefix.actions), np.asarray(prefix.weights)
        shape = self._noise_shape
        if actions.shape != shape or actions.dtype.kind != "f" or not np.isfinite(actions).all():
            raise EngineError(
                f"{self._label}: prefix actions are {actions.dtype} {actions.shape}, expected finite float32 {shape}"
            )
        if (
            weights.shape != shape[:1]
            or not ((weights >= 0) & (weights <= 1)).all()
            or (np.diff(weights) > 0).any()
        ):
            raise EngineError(
                f"{self._label}: prefix weights are {weights.tolist()}, "
                f"expected {shape[0]} numbers from 1 to 0 that never rise"
            )
        return Prefix(
            np.ascontiguousarray(actions, dtype=np.float32),
            np.ascontiguousarray(weights, dtype=np.float32),
            prefix.warm,
        )

    @property
    def _label(self) -> str:
        return f"model {self.manifest.model_id}"


def draw_warm_and_cold(
    sampler: SamplerSpec,
    n: int,
    prefix: Prefix | None,
    draw: Callable[[Rows, bool], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """`n` draws of which some may begin with a running chunk, and so make fewer steps than the others.

    Args:
        sampler: whether such draws are made otherwise at all.
        n: draws.
        prefix: of all of them, stacked.
        draw: makes the draws of these rows, and is told whether they begin so.
    """
    if prefix is None or not sampler.warm_start:
        return draw(slice(None), False)
    warm = np.broadcast_to(prefix.warm, (n,))
    if warm.all() or not warm.any():
        return draw(slice(None), bool(warm.all()))
    cold = draw(~warm, False)
    drawn = np.empty((n, *cold.shape[1:]), cold.dtype)
    drawn[~warm], drawn[warm] = cold, draw(warm, True)
    return drawn


def _first(array: NDArray[Any]) -> str:
    """The first value that is not a finite number, and where it is."""
    if array.dtype.kind not in "fiu":
        return f"type {array.dtype}"
    index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
    return f"{array[index]} at {list(index)}"
