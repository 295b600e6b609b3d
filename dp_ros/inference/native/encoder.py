"""ResNet-18 in compiled code: its convolutions as `conv2d.cpp` reads them, and what is made of the last maps.

Made for one picture or two at a time, as a robot sees them: of a picture of 84 x 84 the last stages have 6 x 6 and
3 x 3 pixels, where a general library multiplies with zeros for a good part. Easy to get wrong: the arithmetic is that
of `policies/vision.py` written a second time; tests hold them against each other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_ros.errors import UserError
from dp_ros.inference.encoder import PictureEncoders
from dp_ros.inference.manifest import Manifest
from dp_ros.inference.native.library import BLOCK, Floats, Parameters, in_blocks, library
from dp_ros.inference.ranges import scale_and_offset
from dp_ros.policies.specs import VisionSpec, middle
from dp_ros.task import ObservationSpec, TaskSpec

_STAGES = 4


class Convolution2d(ctypes.Structure):
    """`DpConvolution2d` of `conv2d.cpp`, which says what the fields are."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in ("input", "output", "added", "weights", "bias", "gamma", "beta")
        ),
        *((name, ctypes.c_int32) for name in ("cin", "cout", "kernel", "stride")),
        *((name, ctypes.c_int32) for name in ("in_height", "in_width", "in_pitch", "height", "width")),
        *((name, ctypes.c_int32) for name in ("runs", "relu", "pool", "joins")),
    ]


@dataclass(frozen=True)
class Maps:
    """Maps in a picture's memory: place of the first pixel, rows, columns, channels, floats from row to row."""

    at: int
    height: int
    width: int
    channels: int
    pitch: int


class ResnetLayout:
    """Convolutions, parameters and memory of a ResNet-18 for pictures of one size.

    Args:
        weights: of a `PictureEncoder`, by the names of its `state_dict()`.
        shape: (height, width, channels) of what it is given.
        folded: whether there are no norms.

    Raises:
        KeyError, ValueError: if these are not the weights of such a network.

    Attributes:
        operations: what is to be done for a picture.
        parameters: of all of them, float32.
        picture_floats: memory that a picture needs.
        output: the last maps; as many channels as whole blocks have.
    """

    def __init__(self, weights: Mapping[str, Floats], shape: Sequence[int], *, folded: bool) -> None:
        self._weights, self._folded = weights, folded
        self.operations: list[Convolution2d] = []
        self._parameters = Parameters()
        self.picture_floats = 0
        height, width, channels = shape
        around = 3  # zeros, as far as the first kernel reaches
        pitch = (width + 2 * around) * channels
        first = around * pitch + around * channels
        x = Maps(self._memory((height + 2 * around) * pitch) + first, height, width, channels, pitch)
        x = self._convolution("body.0", "body.1", x, stride=2, runs=1, relu=1, pool=1)
        for stage in range(_STAGES):
            for name in (f"body.{4 + 2 * stage}", f"body.{5 + 2 * stage}"):
                x = self._block(name, x, 2 if stage and name == f"body.{4 + 2 * stage}" else 1)
        if "maps.weight" in weights:
            x = self._convolution("maps", None, x)
        self.output = x
        self.parameters = self._parameters.joined()

    def _block(self, name: str, x: Maps, stride: int) -> Maps:
        """A `_BasicBlock`."""
        beside = x
        if f"{name}.shortcut.0.weight" in self._weights:
            beside = self._convolution(f"{name}.shortcut.0", f"{name}.shortcut.1", x, stride=stride)
            self.operations[-1].joins = 1
        hidden = self._convolution(f"{name}.body.0", f"{name}.body.1", x, stride=stride, relu=1)
        return self._convolution(f"{name}.body.3", f"{name}.body.4", hidden, relu=1, added=beside.at)

    def _convolution(
        self,
        name: str,
        norm: str | None,
        x: Maps,
        *,
        stride: int = 1,
        relu: int = 0,
        added: int = -1,
        runs: int = 0,
        pool: int = 0,
    ) -> Maps:
        weight = self._weights[f"{name}.weight"]
        cout, cin, kernel, _ = weight.shape
        if cin != x.channels:
            raise ValueError(f"{name}: a convolution from {cin} channels where {x.channels} are")
        height, width = ((n - 1) // stride + 1 for n in (x.height, x.width))
        blocks = in_blocks(weight).reshape(-1, BLOCK, cin, kernel, kernel)
        outputs = len(blocks) * BLOCK
        rows, columns = ((n + 1) // 2 if pool else n for n in (height, width))
        out = Maps(self._memory(rows * columns * outputs), rows, columns, outputs, columns * outputs)
        bias, gamma, beta = f"{name}.bias", f"{norm}.weight", f"{norm}.bias"
        has_norm = norm is not None and not self._folded
        self.operations.append(
            Convolution2d(
                input=x.at,
                output=out.at,
                added=added,
                weights=self._parameters.store(blocks.transpose(0, 3, 4, 2, 1)),
                bias=self._parameters.store(in_blocks(self._weights[bias])) if bias in self._weights else -1,
                gamma=self._parameters.store(self._weights[gamma]) if has_norm else -1,
                beta=self._parameters.store(self._weights[beta]) if has_norm else -1,
                cin=cin,
                cout=outputs,
                kernel=kernel,
                stride=stride,
                in_height=x.height,
                in_width=x.width,
                in_pitch=x.pitch,
                height=height,
                width=width,
                runs=runs,
                relu=relu,
                pool=pool,
            )
        )
        return out

    def _memory(self, floats: int) -> int:
        at = self.picture_floats
        self.picture_floats += floats
        return at


class ResnetEncoder:
    """Pictures of a camera to features.

    Args:
        weights: of the camera's `PictureEncoder`, by the names of its `state_dict()`.
        spec: which encoder; `resnet18`.
        camera: the stream.
        low, high: values of each channel that become -1 and 1.
        threads: CPU threads.
        spin: turns that they wait awake for one another.

    Raises:
        KeyError, ValueError: if these are not the weights of such an encoder.
        UserError: if there is no memory or no thread.
    """

    def __init__(
        self,
        weights: Mapping[str, Floats],
        spec: VisionSpec,
        camera: ObservationSpec,
        low: Sequence[float],
        high: Sequence[float],
        threads: int,
        spin: int,
    ) -> None:
        self._spec, self._library = spec, library()
        whole, size = camera.shape[:2], camera.crop or camera.shape[:2]
        self._from = [middle(n, part, spec.crop_rounds) for n, part in zip(whole, size, strict=True)]
        self._size = size
        layout = ResnetLayout(weights, (*size, camera.shape[2]), folded=spec.norm == "folded")
        self._scale, self._offset = scale_and_offset(low, high)
        if spec.pooling == "keypoints":
            y, x = (
                _spread((np.arange(part) + first + 0.5) * (2.0 / n) - 1.0, found)
                for n, first, part, found in zip(
                    whole, self._from, size, (layout.output.height, layout.output.width), strict=True
                )
            )
            self._places = np.stack([np.tile(x, len(y)), np.repeat(y, len(x))], axis=1).astype(np.float32)
            self._head = weights["head.weight"].T, weights["head.bias"]
            self._hidden = [
                (weights[f"hidden.{i}.weight"].T, weights[f"hidden.{i}.bias"]) for i in (0, 2) if spec.hidden
            ]
        operations = (Convolution2d * len(layout.operations))(*layout.operations)
        self._out = out = layout.output  # and nothing else of it: the library has a copy of the weights
        self._handle = self._library.dp_conv2d_create(
            *(operations, len(operations), layout.parameters.ctypes.data, layout.parameters.size),
            *(layout.picture_floats, out.at, out.height * out.pitch, threads, spin),
        )
        if not self._handle:
            raise UserError(f"no memory or no thread for the encoder ({threads} threads)")

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.dp_conv2d_destroy(self._handle)

    def __call__(self, pictures: NDArray[Any]) -> Floats:
        """Features (n, F) of pictures (n, height, width, channels) uint8."""
        (top, left), (height, width) = self._from, self._size
        seen = np.ascontiguousarray(pictures[:, top : top + height, left : left + width], np.uint8)
        out = self._out
        maps = np.empty((len(seen), out.height * out.width, out.channels), np.float32)
        if self._library.dp_conv2d_run(
            self._handle,
            len(seen),
            *(each.ctypes.data for each in (seen, self._scale, self._offset, maps)),
        ):
            raise MemoryError("no memory for the pictures")
        # One by one: what a picture gives must not depend on how many others there are.
        features = np.stack([self._features(each) for each in maps])
        return np.maximum(features, 0) if self._spec.activation == "relu" else features

    def _features(self, maps: Floats) -> Floats:
        """(F,) of the last maps (pixels, channels)."""
        if self._spec.pooling == "mean":
            return np.asarray(maps.mean(axis=0), np.float32)
        responses = maps[:, : self._spec.keypoints] / np.float32(self._spec.softmax_temperature)
        weights = np.exp(responses - responses.max(axis=0))
        x, y = (self._places.T @ weights) / weights.sum(axis=0)
        points = np.concatenate([x, y])
        found = points @ self._head[0] + self._head[1]
        if self._hidden:
            (w, b), (w2, b2) = self._hidden
            found = found + np.maximum(points @ w + b, 0) @ w2 + b2
        return np.asarray(found, np.float32)


def resnet_of(network: Any) -> VisionSpec | None:
    """The encoder of a manifest's network, if it is one of these."""
    vision: VisionSpec | None = getattr(network, "vision", None)
    return vision if vision is not None and vision.encoder == "resnet18" else None


def resnets_of(
    weights: Mapping[str, Floats], manifest: Manifest, task: TaskSpec, threads: int, spin: int
) -> PictureEncoders | None:
    """Encoders of a model's cameras, by the model's `weights`; None if it has none of these.

    Raises:
        KeyError, ValueError, UserError: as `ResnetEncoder`.
    """
    vision = resnet_of(manifest.network)
    if vision is None:
        return None
    encoders = {}
    for key, camera in task.observations.items():
        if not camera.is_image:
            continue
        prefix = f"vision.encoders.{'shared' if vision.shared else key}."
        own = {name.removeprefix(prefix): each for name, each in weights.items() if name.startswith(prefix)}
        black, white = [0.0] * camera.shape[2], [255.0] * camera.shape[2]
        ranges = manifest.normalization.get(key, {"min": black, "max": white})
        encoders[key] = ResnetEncoder(own, vision, camera, ranges["min"], ranges["max"], threads, spin)
    return PictureEncoders(encoders, task.n_obs_steps)


def _spread(places: NDArray[Any], n: int) -> NDArray[Any]:
    """`n` places, evenly from the first to the last of `places`; the middle for one."""
    share = np.linspace(0.0, 1.0, n) if n > 1 else np.full(1, 0.5)
    return np.asarray(places[0] + (places[-1] - places[0]) * share)
