"""What a run measures, under names that do not change, written to `metrics.jsonl` and to a tracker.

    train_loss                    mean over the last steps            lr, epoch, gradient_norm
    val_loss                      of held-out episodes                train_action_mse_error   robot units squared
    val_<stream>_error            mean absolute error of what the encoder predicts, robot units
    test/mean_score               over fresh start states             train/mean_score   over those of demonstrations
    test/mean_score_low, _high    95 % interval                       test/success_rate, test/final_coverage
    test/sim_max_reward_<seed>    of one start state                  train/sim_max_reward_<seed>

Each line is a JSON object with `step`. Easy to get wrong: a run that was killed comes by some steps again, so a resumed
one first drops the lines after the step it goes on from.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from dp_ros.errors import UserError
from dp_ros.training.evaluate import Evaluation

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
Line = dict[str, float]


class _Tracker(Protocol):
    def log(self, values: Mapping[str, float], step: int) -> None: ...
    def close(self) -> None: ...


class MetricsLog:
    """Writes measurements as they come.

    Args:
        run: folder of the run.
        logger: tensorboard, wandb, wandb_offline or none.
        step: where the run goes on from; 0 for a new one.
        config: what the tracker is told of the run.
        active: False for a process that measures nothing: it writes nothing either.

    Raises:
        UserError: if the tracker is not installed or refuses.
    """

    def __init__(
        self, run: Path, logger: str, step: int, config: Mapping[str, Any], *, active: bool = True
    ) -> None:
        self._file, self._tracker = None, None
        if not active:
            return
        self._tracker = _tracker(logger, run, step, config)
        path = run / METRICS
        if path.exists():
            kept = [line for line in read_metrics(run) if line["step"] <= step]
            part = path.with_name(f".{METRICS}.part")
            part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            part.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._tracker is not None:
            self._tracker.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write what was measured after `step` optimiser steps."""
        if self._file is not None:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        if self._tracker is not None:
            self._tracker.log(values, step)


def read_metrics(run: Path) -> list[Line]:
    """Lines of a run, in order; a last line that was not written to its end is left out.

    Raises:
        UserError: if there are none, or the file is damaged.
    """
    path = run / METRICS
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError:
        raise UserError(
            f"{run}: has no {METRICS}; it was trained by an older version or is not a run. "
            f"`tensorboard --logdir {run}` shows what an older version logged"
        ) from None
    found: list[Line] = []
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            found.append({**values, "step": int(values["step"])})
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                break
            raise UserError(f"{path}: line {number} is damaged: {line[:60]!r}; take it out") from None
    return found


def score_metrics(evaluation: Evaluation, group: str) -> Line:
    """Scores under their names; `group` is test or train."""
    episodes = evaluation.episodes
    metrics = {f"{group}/sim_max_reward_{episode.seed}": episode.score for episode in episodes}
    metrics[f"{group}/mean_score"] = evaluation.mean_score
    if evaluation.interval_95 is not None:
        metrics[f"{group}/mean_score_low"], metrics[f"{group}/mean_score_high"] = evaluation.interval_95
    metrics[f"{group}/success_rate"] = evaluation.success_rate
    metrics[f"{group}/final_coverage"] = sum(episode.final_coverage for episode in episodes) / len(episodes)
    return metrics


def merit(values: Mapping[str, float]) -> float | None:
    """What evaluations are compared by: score in simulation, else minus the validation loss, else nothing."""
    if "test/mean_score" in values:
        return values["test/mean_score"]
    return -values["val_loss"] if "val_loss" in values else None


def seeds_of(lines: Sequence[Line], group: str) -> list[int]:
    """Start states that `group` was scored on, in order."""
    prefix = f"{group}/sim_max_reward_"
    return sorted({int(key.removeprefix(prefix)) for line in lines for key in line if key.startswith(prefix)})


class _TensorBoard:
    def __init__(self, run: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / TENSORBOARD), purge_step=step + 1 if step else None)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


def require_logger(logger: str) -> None:
    """Refuse a tracker that is not installed, before anything is made for a run. Raises UserError."""
    if not logger.startswith("wandb"):
        return
    try:
        importlib.import_module("wandb")
    except ImportError:
        raise UserError(
            f"training.logger: {logger} needs wandb, which is not installed; `pip install wandb`, or give "
            "training.logger=tensorboard or training.logger=none"
        ) from None


class _WandB:
    """Weights & Biases; a resumed run goes on under its id, which is kept in the run folder."""

    def __init__(self, run: Path, config: Mapping[str, Any], mode: str) -> None:
        require_logger("wandb")
        wandb: Any = importlib.import_module("wandb")
        id_file = run / "wandb_id"
        known = id_file.read_text(encoding="utf-8").strip() if id_file.exists() else None
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "dp_ros"),
                name=run.name,
                dir=str(run),
                id=known,
                resume="allow",
                config=dict(config),
                mode=mode,
            )
        except Exception as error:  # wandb has its own hierarchy of errors, which is not there to import
            raise UserError(
                f"training.logger: wandb refuses: {' '.join(str(error).split())}; run `wandb login`, or go on "
                f"without it: dp-ros train --out {run} --resume training.logger=wandb_offline"
            ) from error
        id_file.write_text(self._run.id, encoding="utf-8")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def _tracker(logger: str, run: Path, step: int, config: Mapping[str, Any]) -> _Tracker | None:
    if logger == "tensorboard":
        return _TensorBoard(run, step)
    if logger == "none":
        return None
    return _WandB(run, config, "offline" if logger == "wandb_offline" else "online")
