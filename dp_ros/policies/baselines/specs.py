"""Shapes of the networks that diffusion policy is compared with, one for each kind.

pydantic only: a robot reads them from a manifest without torch. Easy to get wrong: none of these policies denoises,
so a recipe for one has no `sampler` section, and a number of denoising steps means nothing to it.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class BaselineSpec(BaseModel):
    """What the four have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    denoises: ClassVar[bool] = False
    """Whether actions are drawn by a `SamplerSpec`."""
    prefix_steps: ClassVar[int] = 0
    """None of them takes a prefix."""


class RegressionSpec(BaselineSpec):
    """Explicit regression: a residual MLP from observations to one chunk."""

    kind: Literal["regression"] = "regression"
    width: int = Field(default=512, ge=1)
    """Channels of every layer."""
    blocks: int = Field(default=3, ge=1)
    """Residual blocks of two layers each."""


class LstmGmmSpec(BaselineSpec):
    """LSTM with a mixture of Gaussians for each action (BC-RNN of robomimic)."""

    kind: Literal["lstm_gmm"] = "lstm_gmm"
    width: int = Field(default=192, ge=1)
    """Hidden size of every layer; robomimic has 400."""
    layers: int = Field(default=2, ge=1)
    components: int = Field(default=5, ge=1)
    """Gaussians of a mixture."""
    min_std: float = Field(default=0.05, gt=0)
    """Least standard deviation of a component in training, in the normalised range of 2; robomimic has 0.0001."""
    action_noise: float = Field(default=0.05, ge=0)
    """Standard deviation of noise on the previous actions that it is taught with, in the normalised range of 2."""


class BetSpec(BaselineSpec):
    """Categorical actions: k-means bins and offsets from a small transformer (Behavior Transformer)."""

    kind: Literal["bet"] = "bet"
    bins: int = Field(default=24, ge=2)
    """Centres that k-means puts into the actions of the training data."""
    width: int = Field(default=72, ge=1)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    focal_gamma: float = Field(default=2.0, ge=0)
    """Exponent of the focal loss; 0 for plain cross-entropy."""
    offset_scale: float = Field(default=100.0, gt=0)
    """Weight of the offsets' squared error beside the loss of the bin."""

    @model_validator(mode="after")
    def _divisible(self) -> BetSpec:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        return self


class IbcSpec(BaselineSpec):
    """Implicit policy: an energy of observation and action, lowered without derivatives (IBC)."""

    kind: Literal["ibc"] = "ibc"
    observation_width: int = Field(default=256, ge=1)
    """Channels of the layers that see the observation, once for all candidates."""
    width: int = Field(default=128, ge=1)
    """Channels of the layers that see each candidate."""
    layers: int = Field(default=2, ge=1)
    """Layers that see each candidate, after the first."""
    counter_examples: int = Field(default=64, ge=1)
    """Uniform actions that each demonstrated one is told from."""
    taught_steps: int = Field(default=4, ge=1)
    """Steps of the horizon that each sample teaches, drawn anew each time."""
    action_noise: float = Field(default=0.05, ge=0)
    """Standard deviation of noise on the previous action that it is taught with, in the normalised range of 2."""
    candidates: int = Field(default=256, ge=2)
    """Actions that a draw is chosen from."""
    iterations: int = Field(default=4, ge=1)
    """Rounds of scoring the candidates; all but the last resample and spread them."""
    spread: float = Field(default=0.33, gt=0)
    """Standard deviation that the first resampling spreads with, in the normalised range of 2."""
    shrink: float = Field(default=0.5, gt=0, le=1)
    """Factor of the spread from one resampling to the next."""
