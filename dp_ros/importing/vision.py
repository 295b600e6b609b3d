"""Picture encoders of LeRobot, robomimic and the Diffusion Policy reference, renamed for `VisionEncoder`.

All three are ResNet-18 with other names. What differs goes into the weights: a batch norm, which learns no more, into
the convolution before it; a temperature of the softmax into the maps. Easy to get wrong: their points are x1 y1 x2 y2
..., -1 to 1 from the first to the last cell of the last maps, ours all x and then all y, in the whole picture; a
linear layer follows both, so it takes up the difference.
Sources: `modeling_diffusion.py` of huggingface/lerobot; `base_nets.py` and `obs_core.py` of ARISE-Initiative/robomimic;
`multi_image_obs_encoder.py` of real-stanford/diffusion_policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dp_ros.errors import UserError
from dp_ros.importing.weights import WeightReader
from dp_ros.policies.specs import VisionSpec, middle

#: The last maps of a ResNet have a cell for so many pixels, along each side.
_STRIDE = 32
_BATCH_NORM_EPS = 1e-5


@dataclass(frozen=True)
class Picture:
    """What a network is given of a camera.

    Attributes:
        size: height and width, px.
        crop: height and width of the part in the middle that it looks at; None: all of it.
        resized: whether the policy itself scales what the camera gives to `size`.
        encoding: as ROS names it.
    """

    size: tuple[int, int]
    crop: tuple[int, int] | None = None
    resized: bool = False
    encoding: str = "rgb8"

    @property
    def seen(self) -> tuple[int, int]:
        """Height and width of what the network looks at, px."""
        return self.crop or self.size

    def __str__(self) -> str:
        cropped = "" if self.seen == self.size else f" cropped to {self.seen[0]}x{self.seen[1]}"
        return f"{self.encoding} {self.size[0]}x{self.size[1]}{cropped}"


@dataclass(frozen=True)
class EncoderNames:
    """What a project calls the parts of an encoder.

    Attributes:
        stem: first convolution and its norm.
        layers: the four pairs of blocks.
        maps: convolution that makes the maps of the spatial softmax; empty: features are the means of the last maps.
        head: linear layer that makes features of the points.
        temperature: of the softmax; empty: it has none.
        without: beginnings of what is not needed, as it follows from the rest.
    """

    stem: tuple[str, str]
    layers: tuple[str, ...]
    maps: str = ""
    head: str = ""
    temperature: str = ""
    without: tuple[str, ...] = ()


def resnet_names(prefix: str) -> tuple[tuple[str, str], tuple[str, ...]]:
    """Stem and layers of a ResNet of torchvision that was cut into a sequence, which numbers them."""
    return (f"{prefix}.0", f"{prefix}.1"), tuple(f"{prefix}.{k}" for k in (4, 5, 6, 7))


LEROBOT = EncoderNames(*resnet_names("backbone"), maps="pool.nets", head="out", without=("pool.pos_grid",))
ROBOMIMIC = EncoderNames(
    *resnet_names("backbone.nets"),
    maps="pool.nets",
    head="nets.3",
    temperature="pool.temperature",
    without=("pool.pos_", "nets.0.", "nets.1."),
)
TORCHVISION = EncoderNames(("conv1", "bn1"), tuple(f"layer{k}" for k in (1, 2, 3, 4)))


@dataclass(frozen=True)
class ForeignVision:
    """Encoders read from a checkpoint.

    Attributes:
        spec: what they are.
        encoders: {camera, or "shared": weights for `PictureEncoder.load_state_dict`}.
    """

    spec: VisionSpec
    encoders: dict[str, dict[str, Tensor]]

    def renamed(self, names: Mapping[str, str]) -> ForeignVision:
        """The same for cameras that are called otherwise."""
        if self.spec.shared:
            return self
        return replace(self, encoders={names[camera]: each for camera, each in self.encoders.items()})


def read_vision(
    encoders: Mapping[str, Mapping[str, Tensor]],
    names: EncoderNames,
    pictures: Mapping[str, Picture],
    activation: bool,
    source: str,
) -> ForeignVision:
    """Read encoders from their weights; every one of these must be understood.

    Args:
        encoders: {camera: weights without a prefix}; "shared" alone, if there is one for all cameras.
        names: what the project calls their parts.
        pictures: what each camera gives.
        activation: whether negative features are set to 0.
        source: file, for messages.

    Raises:
        UserError: if a weight is missing, left over, or of a shape that does not fit.
    """
    crops_round = any(
        middle(whole, part, True) != middle(whole, part)
        for picture in pictures.values()
        for whole, part in zip(picture.size, picture.seen, strict=True)
    )
    shared = "shared" in encoders and "shared" not in pictures
    if shared and names.maps and len({(each.size, each.seen) for each in pictures.values()}) > 1:
        raise UserError(f"{source}: one encoder for cameras of different sizes is not supported")
    batch_normed = any(key.endswith("running_mean") for weights in encoders.values() for key in weights)
    first = next(iter(pictures.values()))
    read = {}
    for name, weights in encoders.items():
        reader = _EncoderReader(weights, names, batch_normed, f"{source}, encoder {name}")
        picture = first if shared else pictures[name]
        read[name] = reader.read(picture, crops_round)
    out = next(iter(read.values()))
    n_points = len(out["maps.bias"]) if names.maps else VisionSpec.model_fields["keypoints"].default
    spec = VisionSpec(
        encoder="resnet18",
        keypoints=n_points,
        features=len(out["head.bias"]) if names.maps else 512,
        shared=shared,
        activation="relu" if activation else "none",
        norm="folded" if batch_normed else "group",
        pooling="keypoints" if names.maps else "mean",
        crop_rounds=crops_round,
    )
    return ForeignVision(spec, read)


class _EncoderReader(WeightReader):
    """Takes the weights of one encoder out of a checkpoint."""

    def __init__(
        self, weights: Mapping[str, Tensor], names: EncoderNames, batch_normed: bool, source: str
    ) -> None:
        kept = {key: value for key, value in weights.items() if not key.startswith(names.without or ("\0",))}
        super().__init__(kept, source)
        self.names, self.batch_normed = names, batch_normed
        self.out: dict[str, Tensor] = {}

    def read(self, picture: Picture, crops_round: bool) -> dict[str, Tensor]:
        layers = self.names.layers
        if f"{layers[0]}.2.conv1.weight" in self.weights or f"{layers[0]}.0.conv3.weight" in self.weights:
            raise UserError(f"{self.source}: is deeper than ResNet-18, which alone is supported")
        self.normed(*self.names.stem, "body", 0)
        for k, layer in enumerate(layers):
            for b in range(2):
                self.block(f"{layer}.{b}", f"body.{4 + 2 * k + b}")
        if self.names.maps:
            self.keypoints(picture, crops_round)
        self.finish()
        return self.out

    def block(self, old: str, new: str) -> None:
        self.normed(f"{old}.conv1", f"{old}.bn1", f"{new}.body", 0)
        self.normed(f"{old}.conv2", f"{old}.bn2", f"{new}.body", 3)
        if f"{old}.downsample.0.weight" in self.weights:
            self.normed(f"{old}.downsample.0", f"{old}.downsample.1", f"{new}.shortcut", 0)

    def normed(self, conv: str, norm: str, new: str, at: int) -> None:
        """A convolution without bias and its norm: layers `at` and `at` + 1 of the sequence `new`, or one of both."""
        weight = self.take(f"{conv}.weight")
        if not self.batch_normed:
            self.out[f"{new}.{at}.weight"] = weight
            self.move(norm, f"{new}.{at + 1}", self.out)
            return
        gain, shift, mean, variance = (
            self.take(f"{norm}.{part}").double() for part in ("weight", "bias", "running_mean", "running_var")
        )
        self.weights.pop(f"{norm}.num_batches_tracked", None)
        gain = gain / (variance + _BATCH_NORM_EPS).sqrt()
        self.out[f"{new}.{at}.weight"] = (weight.double() * gain.view(-1, 1, 1, 1)).float()
        self.out[f"{new}.{at}.bias"] = (shift - mean * gain).float()

    def keypoints(self, picture: Picture, crops_round: bool) -> None:
        """Maps of the spatial softmax, and the linear layer on its points."""
        temperature = self.take(self.names.temperature) if self.names.temperature else torch.ones(1)
        if temperature.numel() != 1 or not temperature.item() > 0:
            raise UserError(f"{self.source}: {self.names.temperature}: expected one value above 0")
        for part in ("weight", "bias"):
            self.out[f"maps.{part}"] = self.take(f"{self.names.maps}.{part}") / temperature
        weight, bias = (self.take(f"{self.names.head}.{part}").double() for part in ("weight", "bias"))
        n_points = len(self.out["maps.bias"])
        if weight.shape[1] != 2 * n_points:
            raise UserError(
                f"{self.source}: {self.names.head} takes {weight.shape[1]} values, expected {2 * n_points}, 2 of each "
                "point"
            )
        ours = []
        for axis, theirs in ((1, weight[:, 0::2]), (0, weight[:, 1::2])):  # x, then y
            size, seen = picture.size[axis], picture.seen[axis]
            if seen <= _STRIDE:  # one cell, which is at -1 for them
                ours.append(torch.zeros_like(theirs))
                bias = bias - theirs.sum(1)
                continue
            begin = middle(size, seen, crops_round)
            first, last = ((pixel + 0.5) * 2.0 / size - 1.0 for pixel in (begin, begin + seen - 1))
            half, centre = (last - first) / 2, (last + first) / 2
            ours.append(theirs / half)
            bias = bias - theirs.sum(1) * centre / half
        self.out["head.weight"], self.out["head.bias"] = torch.cat(ours, dim=1).float(), bias.float()
