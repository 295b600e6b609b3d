"""Weights of a checkpoint, taken out one by one under their old names, so that none is forgotten and none made up."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dp_ros.errors import UserError


class WeightReader:
    """The weights of a part of a checkpoint that have not been taken yet.

    Args:
        weights: without a prefix.
        source: file, for messages.
    """

    def __init__(self, weights: Mapping[str, Tensor], source: str) -> None:
        self.weights, self.source = dict(weights), source

    def take(self, key: str) -> Tensor:
        """A weight; raises UserError if it is not there."""
        if key not in self.weights:
            raise UserError(
                f"{self.source}: weight {key} is missing; the checkpoint is of another network or cut short"
            )
        return self.weights.pop(key).detach().float().contiguous()

    def move(self, old: str, new: str, out: dict[str, Tensor]) -> None:
        """Take weight and bias of the layer `old` and put them into `out` as those of `new`."""
        for part in ("weight", "bias"):
            out[f"{new}.{part}"] = self.take(f"{old}.{part}")

    def finish(self) -> None:
        """Raise UserError if a weight was not taken."""
        if self.weights:
            raise UserError(
                f"{self.source}: {', '.join(sorted(self.weights)[:3])}: weights of a part that is not supported"
            )
