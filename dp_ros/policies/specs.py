"""Shapes of the diffusion networks that see pictures, or have another form than `unet1d_state`.

pydantic only: a robot reads them from a manifest without torch. Easy to get wrong: `vision` belongs to tasks that
observe pictures and to no others, so that no option is without effect.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from dp_ros.task import TaskSpec
from dp_ros.task.later import WithLaterKeys


class VisionSpec(WithLaterKeys):
    """How pictures become features."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    _later: ClassVar[frozenset[str]] = frozenset({"activation", "norm", "pooling", "crop_rounds"})

    encoder: Literal["small", "resnet18"] = "small"
    """small: two stages that a CPU can train; resnet18: with group norm, as in the paper."""
    channels: tuple[int, int] | None = None
    """Of the two stages of `small`, multiples of 8; None: 16 and 32. `resnet18` has its own."""
    keypoints: int = Field(default=32, ge=1)
    """Points that the spatial softmax finds in a picture."""
    softmax_temperature: float = Field(default=1.0, gt=0)
    """Of the spatial softmax: below 1 a map has to differ less from place to place for its point to move."""
    hidden: int = Field(default=0, ge=0)
    """Width of a hidden layer beside the linear one that makes features of the points; 0: none."""
    features: int = Field(default=64, ge=1)
    """Values that are made of a picture."""
    shared: bool = False
    """One encoder for all cameras, or one for each."""
    predicts: str | None = None
    """Recorded stream that the task does not observe, such as keypoints that only a simulation can tell: the features
    of a picture are an estimate of its values, normalised, and `features` is their number. None: they are whatever
    helps to act."""
    activation: Literal["none", "relu"] = "none"
    """Of the features."""
    norm: Literal["group", "folded"] = "group"
    """Of `resnet18`. folded: none, but convolutions with bias, which a batch norm that learns no more comes down to."""
    pooling: Literal["keypoints", "mean"] = "keypoints"
    """keypoints: the spatial softmax, and features made of its points; mean: the features are the means of the last
    maps of `resnet18`, 512 of them."""
    crop_rounds: bool = False
    """Where the middle of a picture lies between two pixels, the crop begins at the even one, as with torchvision;
    else at the first."""

    @model_validator(mode="after")
    def _consistent(self) -> VisionSpec:
        if self.channels is not None and self.encoder != "small":
            raise ValueError(f"channels: encoder {self.encoder} has its own; leave them out")
        if self.channels is not None and any(c < 8 or c % 8 for c in self.channels):
            raise ValueError(f"channels: got {list(self.channels)}, expected multiples of 8")
        if self.encoder != "resnet18" and (self.norm, self.pooling) != ("group", "keypoints"):
            raise ValueError(
                f"norm {self.norm}, pooling {self.pooling}: are of encoder resnet18; leave them out"
            )
        if self.pooling == "mean" and (self.features != 512 or self.hidden):
            raise ValueError(
                f"pooling mean: makes 512 features and has no hidden layer, got features {self.features}, hidden "
                f"{self.hidden}"
            )
        return self


def middle(whole: int, part: int, rounds: bool = False) -> int:
    """Where a part in the middle of a whole begins, in pixels."""
    return round((whole - part) / 2) if rounds else (whole - part) // 2


#: How the U-Net is told what was observed (Chi et al., 2023, compare the three in their code). global: every block is
#: modulated by it (FiLM). local: it is put beside the actions of the same steps, through blocks of its own.
#: inpainting: actions and observations are denoised together, with those that were observed put in at each step.
Conditioning = Literal["global", "local", "inpainting"]


class UnetSpec(BaseModel):
    """U-Net for vectors, pictures or both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    denoises: ClassVar[bool] = True
    """Whether actions are drawn by a `SamplerSpec`."""
    kind: Literal["unet1d"] = "unet1d"
    widths: tuple[int, ...] = Field(default=(32, 64, 128), min_length=1)
    """Channels of each level of the U-Net."""
    step_dim: int = Field(default=128, ge=4)
    """Width of the embedding of the noise level."""
    kernel_size: int = Field(default=5, ge=1)
    groups: int = Field(default=8, ge=1)
    """Groups of the group norms."""
    prefix_steps: int = Field(default=0, ge=0)
    """Executed actions that the network was trained to take as given, at most; 0 for none, and no mask channel."""
    conditioning: Conditioning = "global"
    vision: VisionSpec | None = None
    """For tasks that observe pictures."""


class TransformerSpec(BaseModel):
    """Transformer over the actions, for vectors, pictures or both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    denoises: ClassVar[bool] = True
    """Whether actions are drawn by a `SamplerSpec`."""
    kind: Literal["transformer"] = "transformer"
    width: int = Field(default=128, ge=4)
    """Of every token; a multiple of 2 * heads."""
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    prefix_steps: int = Field(default=0, ge=0)
    """Executed actions that the network was trained to take as given, at most; 0 for none, and no mask channel."""
    vision: VisionSpec | None = None
    """For tasks that observe pictures."""

    @model_validator(mode="after")
    def _consistent(self) -> TransformerSpec:
        if self.width % (2 * self.heads):
            raise ValueError(f"width: got {self.width}, expected a multiple of 2 * heads = {2 * self.heads}")
        return self


def conditioning_of(network: BaseModel) -> Conditioning:
    """How a network is told what was observed; a transformer attends to it, which counts as global."""
    found: Conditioning = getattr(network, "conditioning", "global")
    return found


def observed_steps(network: BaseModel, task: TaskSpec) -> int:
    """Rows of observations that a sample to learn from has: with inpainting what comes later is learnt as well."""
    return task.horizon if conditioning_of(network) == "inpainting" else task.n_obs_steps


def labels_of(network: BaseModel) -> dict[str, int]:
    """Recorded streams that a policy with this network learns to tell from pictures, and how many values each has."""
    vision = getattr(network, "vision", None)
    return {} if vision is None or vision.predicts is None else {vision.predicts: vision.features}
