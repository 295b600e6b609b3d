"""The U-Net of LeRobot and of the Diffusion Policy reference, renamed for `ConditionalUnet1d`.

Both are the same network as ours with other names, except that theirs has one FiLM layer a block where ours has one for
all, and may leave the scale out; a scale of 1 then comes from a weight of 0 and a bias of 1. Easy to get wrong: their
last group norm has 8 groups whatever the configuration says, so a network with another number cannot be taken.
Sources: `modeling_diffusion.py` of huggingface/lerobot, `conditional_unet1d.py` of real-stanford/diffusion_policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dp_ros.errors import UserError
from dp_ros.importing.weights import WeightReader
from dp_ros.inference.manifest import NetworkSpec

#: Groups of the last norm in both projects, which neither takes from its configuration.
HEAD_GROUPS = 8


@dataclass(frozen=True)
class Names:
    """What a project calls the parts of a block, and the change of resolution after a level."""

    first: str
    second: str
    resample: str


@dataclass(frozen=True)
class ForeignUnet:
    """A U-Net read from a checkpoint.

    Attributes:
        network: its shape.
        action_dim: values of one action.
        observation_dim: values of the flattened observation.
        weights: for `ConditionalUnet1d.load_state_dict`.
    """

    network: NetworkSpec
    action_dim: int
    observation_dim: int
    weights: dict[str, Tensor]


def read_unet(weights: Mapping[str, Tensor], names: Names, groups: int, source: str) -> ForeignUnet:
    """Read a U-Net from its weights; every one of them must be understood.

    Args:
        weights: of the U-Net, without a prefix.
        names: what the project calls its parts.
        groups: of the group norms, as configured.
        source: file, for messages.

    Raises:
        UserError: if a weight is missing, left over, or of a shape that does not fit.
    """
    if groups != HEAD_GROUPS:
        raise UserError(f"{source}: n_groups: got {groups}, supported is {HEAD_GROUPS}")
    reader = _Reader(weights, names, source)
    levels = len({key.split(".")[1] for key in weights if key.startswith("down_modules.")})
    if not levels:
        raise UserError(f"{source}: there is no down_modules among the weights; expected a 1-D U-Net")
    out: dict[str, Tensor] = {}
    for k in (1, 3):
        reader.move(f"diffusion_step_encoder.{k}", f"step_embedding.{k}", out)
    for k in range(levels):
        reader.level(f"down_modules.{k}", f"down.{k}", k < levels - 1, out)
    for k in range(2):
        reader.block(f"mid_modules.{k}", f"middle.{k}", out)
    for k in range(levels - 1):
        reader.level(f"up_modules.{k}", f"up.{k}", True, out)
    for k in range(2):
        reader.move(f"final_conv.0.block.{k}", f"head.0.{k}", out)
    reader.move("final_conv.1", "head.1", out)
    reader.finish()
    widths = [out[f"down.{k}.first.first.0.weight"].shape[0] for k in range(levels)]
    step_dim = out["step_embedding.1.weight"].shape[1]
    out["film.weight"] = torch.cat([weight for weight, _ in reader.films])
    out["film.bias"] = torch.cat([bias for _, bias in reader.films])
    first = out["down.0.first.first.0.weight"]
    network = NetworkSpec(widths=tuple(widths), step_dim=step_dim, kernel_size=first.shape[2], groups=groups)
    return ForeignUnet(network, first.shape[1], out["film.weight"].shape[1] - step_dim, out)


class _Reader(WeightReader):
    """Takes weights out of a checkpoint under their old names, blocks in the order in which they run."""

    def __init__(self, weights: Mapping[str, Tensor], names: Names, source: str) -> None:
        super().__init__(weights, source)
        self.names = names
        self.films: list[tuple[Tensor, Tensor]] = []

    def level(self, old: str, new: str, resamples: bool, out: dict[str, Tensor]) -> None:
        self.block(f"{old}.0", f"{new}.first", out)
        self.block(f"{old}.1", f"{new}.second", out)
        if resamples:
            self.move(f"{old}.{self.names.resample}", f"{new}.resample", out)

    def block(self, old: str, new: str, out: dict[str, Tensor]) -> None:
        for theirs, ours in ((self.names.first, "first"), (self.names.second, "second")):
            for k in range(2):
                self.move(f"{old}.{theirs}.{k}", f"{new}.{ours}.{k}", out)
        if f"{old}.residual_conv.weight" in self.weights:
            self.move(f"{old}.residual_conv", f"{new}.shortcut", out)
        weight, bias = self.take(f"{old}.cond_encoder.1.weight"), self.take(f"{old}.cond_encoder.1.bias")
        channels = len(out[f"{new}.first.0.weight"])
        if len(bias) == channels:
            weight = torch.cat([torch.zeros_like(weight), weight])
            bias = torch.cat([torch.ones_like(bias), bias])
        self.films.append((weight, bias))
