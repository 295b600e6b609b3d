"""Checkpoints: everything a run needs to go on, in one safetensors file each, no pickle.

A file is written beside the old one, flushed to disk and renamed, so there is always one whole checkpoint.
Random numbers are not in it: every draw of a run is a function of its seed and the step. Easy to get wrong:
the optimiser's moments are matched to the parameters by order, so a checkpoint only fits the network it came
from.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dp_ros.errors import UserError
from dp_ros.policies.policy import Policy
from dp_ros.task import TaskSpec
from dp_ros.training.ema import WeightAverage

CHECKPOINTS = "checkpoints"
_NAME = re.compile(r"step_(?P<step>\d+)_(?P<kind>score|val_loss)_(?P<value>[\d.]+)\.safetensors")


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        step: optimiser steps done. evaluated_step: step of the last evaluation. best_merit: merit of the best
        evaluation so far (mean score, or minus the validation loss), None before one. best_step: step of that
        evaluation. wall_time_s: time spent training, over all resumptions. losses: of the steps since their mean was
        last written, so that the next mean is over the same steps after a resumption.
    """

    step: int = 0
    evaluated_step: int = 0
    best_merit: float | None = None
    best_step: int = 0
    wall_time_s: float = 0.0
    losses: list[float] = dataclasses.field(default_factory=list)


def save_checkpoint(
    path: Path,
    policy: Policy,
    average: WeightAverage,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Write the state of a run."""
    tensors = {f"policy/{key}": value for key, value in policy.state_dict().items()}
    tensors |= {f"average/{key}": value for key, value in average.policy.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in moments.items()}
    _write(path, tensors, progress, policy.task)


def save_weights(path: Path, average: WeightAverage, progress: Progress) -> None:
    """Write the averaged weights alone."""
    tensors = {f"average/{key}": value for key, value in average.policy.state_dict().items()}
    _write(path, tensors, progress, average.policy.task)


def keep_among_best(run: Path, average: WeightAverage, progress: Progress, merit: float, keep: int) -> None:
    """Write the averaged weights to checkpoints/ and remove all but the best `keep` there; of equals the later stay.

    The name says the step and the score, or the validation loss where there is no score.
    """
    if keep == 0:
        return
    folder = run / CHECKPOINTS
    folder.mkdir(exist_ok=True)
    value = f"score_{merit:.4f}" if merit >= 0 else f"val_loss_{-merit:.5f}"
    save_weights(folder / f"step_{progress.step:07d}_{value}.safetensors", average, progress)
    for path in kept_checkpoints(run)[keep:]:
        path.unlink()


def kept_checkpoints(run: Path) -> list[Path]:
    """Checkpoints of the best evaluations that were kept, best first."""
    found = [
        (match, path)
        for path in (run / CHECKPOINTS).glob("*.safetensors")
        if (match := _NAME.match(path.name))
    ]

    def place(item: tuple[re.Match[str], Path]) -> tuple[float, int]:
        match, _ = item
        value = float(match["value"])
        return (value if match["kind"] == "score" else -value, int(match["step"]))

    return [path for _, path in sorted(found, key=place, reverse=True)]


def checkpoint_path(run: Path, name: str) -> Path:
    """File of the averaged weights that `name` stands for: best, last, or the step of a checkpoint that was kept.

    Raises:
        UserError: if there is none; it says which there are.
    """
    kept = {int(path.name.split("_")[1]): path for path in kept_checkpoints(run)}
    if name in ("best", "last"):
        path = run / f"{name}.safetensors"
        if path.is_file():
            return path
    elif name.isascii() and name.isdecimal() and int(name) in kept:
        return kept[int(name)]
    there = [n for n in ("best", "last") if (run / f"{n}.safetensors").is_file()] + [
        str(step) for step in sorted(kept)
    ]
    raise UserError(
        f"{run}: has no checkpoint {name}; "
        + (f"take one of {', '.join(there)}" if there else "there is none yet, train on")
    )


def load_checkpoint(
    path: Path, policy: Policy, average: WeightAverage, optimizer: torch.optim.Optimizer
) -> Progress:
    """Put a run back into the state that was saved; returns where it was.

    Raises:
        UserError: if the file is missing, damaged, of another task or of another network.
    """
    tensors, progress = _read(path, policy.task)
    groups = _by_first_part(tensors)
    try:
        policy.load_state_dict(groups["policy"])
        average.policy.load_state_dict(groups["average"])
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in groups.get("optimizer", {}).items():
            index, name = key.split("/")
            moments.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: is not a checkpoint of this network: {error}") from error
    return progress


def load_weights(
    path: Path, policy: Policy, *, as_start: bool = False, task: TaskSpec | None = None
) -> Progress:
    """Load the averaged weights of a checkpoint into `policy`; returns where the run was.

    Args:
        path: the checkpoint.
        policy: what they are loaded into.
        as_start: take those of a network without a mask channel or an encoder too (`Policy.start_from`).
        task: of the run that it belongs to; None: the policy's.

    Raises:
        UserError: if the file is missing, damaged, of another task or of another network.
    """
    tensors, progress = _read(path, task or policy.task)
    weights = _by_first_part(tensors).get("average", {})
    try:
        policy.start_from(weights) if as_start else policy.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path}: is not a checkpoint of this network: {error}") from error
    return progress


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file; a reader sees the old content or the new."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    _put_in_place(part, path)


def _write(path: Path, tensors: dict[str, Tensor], progress: Progress, task: TaskSpec) -> None:
    part = path.with_name(f".{path.name}.part")
    metadata = {
        "progress": json.dumps(dataclasses.asdict(progress)),
        "task": task.name,
        "task_digest": task.digest(),
    }
    save_file({key: value.contiguous() for key, value in tensors.items()}, part, metadata)
    _put_in_place(part, path)


def _read(path: Path, task: TaskSpec) -> tuple[dict[str, Tensor], Progress]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("task_digest", task.digest()) != task.digest():  # older files do not say
                raise UserError(
                    f"{path}: is a checkpoint for another task ({metadata.get('task')}, or another version of it) than "
                    f"{task.name} of this run; put the run's own file back, or start a new run"
                )
            progress = Progress(**json.loads(metadata["progress"]))
            return {key: file.get_tensor(key) for key in file.keys()}, progress  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise UserError(f"{path}: is not there; the run has no such checkpoint yet") from None
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: is not a checkpoint or is damaged: {error}") from error


def _by_first_part(tensors: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for key, value in tensors.items():
        first, rest = key.split("/", 1)
        groups.setdefault(first, {})[rest] = value
    return groups


def _put_in_place(part: Path, path: Path) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
