"""Curves of training runs: whether several seeds of a kind of policy go the same way.

Easy to get wrong: losses of different kinds are different quantities and may be compared in shape alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dp_ros.training.metrics import read_metrics
from dp_ros.training.run_folder import open_run

#: What is read of a run, and what a figure calls it.
CURVES = {
    "train_loss": "training loss",
    "val_loss": "loss on held-out episodes",
    "test/mean_score": "score in simulation",
}


@dataclass(frozen=True)
class RunCurves:
    """Curves of one run.

    Attributes:
        run: name of its folder.
        kind: of its network.
        seed: of the training.
        points: by name in CURVES, (step, value).
    """

    run: str
    kind: str
    seed: int
    points: dict[str, list[tuple[int, float]]]

    def as_json(self) -> dict[str, Any]:
        """The numbers behind the picture."""
        return {"run": self.run, "kind": self.kind, "seed": self.seed, **self.points}


def read_curves(runs: Sequence[Path]) -> list[RunCurves]:
    """Curves of runs. Raises UserError for a folder that is none, or has no measurements."""
    found = []
    for run in runs:
        config, lines = open_run(run).config, read_metrics(run)
        points = {
            name: [(int(line["step"]), float(line[name])) for line in lines if name in line]
            for name in CURVES
        }
        found.append(RunCurves(run.resolve().name, config.network.kind, config.training.seed, points))
    return found
