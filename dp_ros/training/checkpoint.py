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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dp_ros.errors import UserError
from dp_ros.policies.diffusion import DiffusionPolicy
from dp_ros.training.ema import WeightAverage


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        step: optimiser steps done. best_merit: merit of the best evaluation so far (mean score, or minus the
        validation loss), None before one. best_step: step of that evaluation. wall_time_s: time spent
        training, over all resumptions.
    """

    step: int = 0
    evaluated_step: int = 0
    best_merit: float | None = None
    best_step: int = 0
    wall_time_s: float = 0.0


def save_checkpoint(
    path: Path,
    policy: DiffusionPolicy,
    average: WeightAverage,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Write the state of a run."""
    tensors = {f"policy/{key}": value for key, value in policy.state_dict().items()}
    tensors |= {f"average/{key}": value for key, value in average.policy.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in moments.items()}
    _write(path, tensors, progress)


def save_weights(path: Path, average: WeightAverage, progress: Progress) -> None:
    """Write the averaged weights alone."""
    _write(path, {f"average/{key}": value for key, value in average.policy.state_dict().items()}, progress)


def load_checkpoint(
    path: Path, policy: DiffusionPolicy, average: WeightAverage, optimizer: torch.optim.Optimizer
) -> Progress:
    """Put a run back into the state that was saved; returns where it was.

    Raises:
        UserError: if the file is missing, damaged, or of another network.
    """
    tensors, progress = _read(path)
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


def load_weights(path: Path, policy: DiffusionPolicy, *, as_start: bool = False) -> Progress:
    """Load the averaged weights of a checkpoint into `policy`; returns where the run was.

    Args:
        path: the checkpoint.
        policy: what they are loaded into.
        as_start: take those of a network without a mask channel too (`DiffusionPolicy.start_from`).

    Raises:
        UserError: if the file is missing, damaged, or of another network.
    """
    tensors, progress = _read(path)
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


def _write(path: Path, tensors: dict[str, Tensor], progress: Progress) -> None:
    part = path.with_name(f".{path.name}.part")
    metadata = {"progress": json.dumps(dataclasses.asdict(progress))}
    save_file({key: value.contiguous() for key, value in tensors.items()}, part, metadata)
    _put_in_place(part, path)


def _read(path: Path) -> tuple[dict[str, Tensor], Progress]:
    try:
        with safe_open(path, framework="pt") as file:
            progress = Progress(**json.loads((file.metadata() or {})["progress"]))
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
