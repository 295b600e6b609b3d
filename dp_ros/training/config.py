"""Recipe of a training run, read from `config/policies/*.yaml`.

Values of the command line replace those of the file; what was resolved is stored with the run, so that a
resumed run cannot differ from the one that was started. Easy to get wrong: the learning rate ends at zero at
`steps`, so a run cannot be lengthened afterwards; and a step takes `batch_size` samples for each process and each
of the `accumulate` parts, so that both enlarge the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dp_ros.errors import UserError
from dp_ros.inference.manifest import AnyNetwork
from dp_ros.inference.sampler import SamplerSpec
from dp_ros.paths import share_dir
from dp_ros.policies.specs import labels_of
from dp_ros.training.overrides import apply_overrides, explain_values

DEFAULT_CONFIG = "diffusion_unet_state"
#: Start states that results are reported on: no checkpoint may be chosen by them.
REPORTED_SEEDS = range(100000, 100050)


class OptimizationSpec(BaseModel):
    """How a policy is trained; config/policies/diffusion_unet_state.yaml says what each value is for."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0, le=1)
    warmup_steps: int = Field(ge=0)
    betas: tuple[float, float]
    weight_decay: float = Field(ge=0)
    clip_norm: float = Field(gt=0)
    ema_power: float = Field(gt=0, le=1)
    ema_max_decay: float = Field(gt=0, lt=1)
    validation_share: float = Field(ge=0, lt=1)
    seed: int = Field(ge=0, lt=2**32)
    threads: int = Field(ge=1)
    checkpoint_every: int = Field(ge=1)
    eval_every: int = Field(ge=1)
    eval_episodes: int = Field(ge=0)
    eval_first_seed: int = Field(ge=0)
    eval_train_episodes: int = Field(default=0, ge=0)
    accumulate: int = Field(default=1, ge=1)
    device: str = Field(default="cpu", pattern=r"^(cpu|mps|cuda(:\d+)?)$")
    precision: Literal["float32", "bfloat16"] = "float32"
    keep_best: int = Field(default=0, ge=0)
    logger: Literal["tensorboard", "wandb", "wandb_offline", "none"] = "tensorboard"
    prefix_share: float = Field(default=0.5, ge=0, le=1)
    prefix_noise: float = Field(default=0.0, ge=0, lt=1)
    action_weight: float = Field(default=1.0, ge=0)
    auxiliary_weight: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> OptimizationSpec:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: got {list(self.betas)}, expected two numbers from 0 to below 1")
        first, last = self.eval_first_seed, self.eval_first_seed + self.eval_episodes - 1
        if first <= REPORTED_SEEDS[-1] and last >= REPORTED_SEEDS[0]:
            raise ValueError(
                f"eval_first_seed: got {first}, so that start states {first} to {last} choose the checkpoint; results "
                f"are reported on {REPORTED_SEEDS[0]} to {REPORTED_SEEDS[-1]}, choose others, such as 200000"
            )
        return self


class TrainingConfig(BaseModel):
    """Everything that decides what a run learns, beside task and data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: AnyNetwork
    sampler: SamplerSpec = SamplerSpec()
    training: OptimizationSpec

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        if not self.network.denoises and self.sampler != SamplerSpec():
            raise ValueError(f"sampler: a {self.network.kind} policy does not denoise; leave the section out")
        spec = self.training
        if spec.action_weight == 0 and not (labels_of(self.network) and spec.auxiliary_weight):
            raise ValueError(
                "training.action_weight: 0 leaves nothing to learn; set network.vision.predicts and an "
                "auxiliary_weight above 0, or leave it out"
            )
        return self


def load_config(
    path_or_name: str | Path = DEFAULT_CONFIG, overrides: Mapping[str, Any] | None = None
) -> TrainingConfig:
    """Read a recipe.

    Args:
        path_or_name: a file, or the name of one in config/policies.
        overrides: values by dotted key, such as `training.steps`, that replace those of the file.

    Raises:
        UserError: if there is no such file, it is not YAML, or a value is not allowed.
    """
    path = Path(path_or_name)
    shipped = share_dir() / "config" / "policies"
    if not path.is_file() and path.suffix == "":
        path = shipped / f"{path}.yaml"
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        names = ", ".join(sorted(p.stem for p in shipped.glob("*.yaml")))
        raise UserError(
            f"recipe {path_or_name}: {error.strerror}; expected a YAML file or one of: {names}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict) or not all(isinstance(part, dict) for part in data.values()):
        raise UserError(f"{path}: expected the sections {', '.join(TrainingConfig.model_fields)}")
    return _validated(apply_overrides(TrainingConfig, data, overrides or {}), str(path))


def with_overrides(config: TrainingConfig, overrides: Mapping[str, Any]) -> TrainingConfig:
    """`config` with values replaced by dotted key. Raises UserError for one that is not allowed."""
    return _validated(apply_overrides(TrainingConfig, config.model_dump(mode="json"), overrides), "recipe")


def _validated(data: dict[str, Any], source: str) -> TrainingConfig:
    try:
        return TrainingConfig.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{source}: " + "\n  ".join(explain_values(error, TrainingConfig, data))) from None
