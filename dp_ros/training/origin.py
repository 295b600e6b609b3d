"""What a run begins with, another run or a model: whether its weights mean the same here, and its normalisation.

It goes on from one of the same task, or, where its encoder predicts a stream (`network.vision.predicts`), from one
of a task that observes that stream in place of the camera: the encoder then learns to stand in for it, and the rest
of the network knows already what to do. Easy to get wrong: weights mean something with the normalisation that they
were trained with only, so it comes from the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from dp_ros.data.layout import ACTION
from dp_ros.errors import UserError
from dp_ros.inference.manifest import MANIFEST_FILE, WEIGHTS_FILE, Ancestor, load_manifest
from dp_ros.inference.torch import load_policy
from dp_ros.policies.policy import Policy
from dp_ros.policies.specs import labels_of
from dp_ros.task import TaskSpec
from dp_ros.training.checkpoint import load_weights
from dp_ros.training.config import TrainingConfig
from dp_ros.training.run_folder import BEST, RUN_FILE, open_run

#: Share of the range of what is started from, by which data may go beyond it: a policy that is corrected comes
#: to states that no demonstration had, but actions beyond the range are cut off.
_SLACK, _ACTION_SLACK = 0.5, 0.1
#: What decides which numbers a stream gives, and in which order.
_CONTENT = {"type", "fields", "names", "shape", "rotation"}
#: What the networks of two runs must have in common besides.
_SHAPE = ("widths", "step_dim", "kernel_size", "groups", "width", "layers", "heads")


class Origin:
    """A run whose best weights another one begins with, or a model folder.

    Args:
        folder: of the run or model.
        task: of the run that begins.
        config: recipe of the run that begins.

    Attributes:
        ancestors: once its weights are loaded, it and the runs that it goes back to, the first one first; nothing is
            known of those of a model that was imported.

    Raises:
        UserError: if it is neither, or its weights would mean something else.
    """

    def __init__(self, folder: Path, task: TaskSpec, config: TrainingConfig) -> None:
        self._source = source = _source(folder)
        self.ancestors: list[Ancestor] = []
        if source.task.digest() == task.digest():
            return
        labels = tuple(labels_of(config.network))
        if not labels:
            raise UserError(
                f"{folder}: was trained for task {source.task.name}, which differs from task {task.name} of this one; "
                "start from a run or model of the same task"
            )
        there, here = _condition(source.task, labels[0]), _condition(task, labels[0])
        differing = [
            f"{name}: {there.get(name, 'nothing')} there, {here.get(name, 'nothing')} here"
            for name in dict.fromkeys((*there, *here))
            if there.get(name) != here.get(name)
        ]
        differing += [
            f"{section}.{name}: {old} there, {new} here"
            for section, theirs, ours, names in (
                ("network", source.network, config.network, _SHAPE),
                ("sampler", source.sampler, config.sampler, ("prediction", "train_steps", "beta_schedule")),
            )
            for name in names
            if (old := getattr(theirs, name, None)) != (new := getattr(ours, name, None))
        ]
        steps = getattr(source.network, "prefix_steps", 0)
        if steps and not getattr(config.network, "prefix_steps", 0):
            differing.append(f"network.prefix_steps: {steps} there, 0 here")
        if differing:
            raise UserError(
                f"{folder}: its network cannot go on here, where {labels[0]} is predicted from a picture; it differs "
                "in:\n  "
                + "\n  ".join(differing)
                + "\nstart from a run or model that fits, or with random weights"
            )

    def statistics(self, given: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
        """Its normalisation, without which its weights mean nothing.

        Raises:
            UserError: if the data, whose ranges are `given`, goes far beyond it.
        """
        folder, theirs = self._source.folder, self._source.statistics
        for key, old in theirs.items():
            if key not in given:
                continue
            if len(old["min"]) != len(given[key]["min"]):
                raise UserError(
                    f"{folder}: {key} had {len(old['min'])} values there, it has {len(given[key]['min'])} here; "
                    "start from a run or model on data like these, or with random weights"
                )
            low, high = np.array(old["min"]), np.array(old["max"])
            slack = (_ACTION_SLACK if key == ACTION else _SLACK) * (high - low)
            beyond = (np.array(given[key]["min"]) < low - slack) | (
                np.array(given[key]["max"]) > high + slack
            )
            if beyond.any():
                i = int(np.flatnonzero(beyond)[0])
                raise UserError(
                    f"{folder}: was trained on data of another range: {key}[{i}] went from {low[i]:g} to {high[i]:g} "
                    f"there, from {given[key]['min'][i]:g} to {given[key]['max'][i]:g} here; start from a run or model "
                    "on data like these, or with random weights"
                )
        return {key: theirs.get(key, own) for key, own in given.items()}

    def load_into(self, policy: Policy) -> str:
        """Load its weights, a run's best ones; returns what the record of the run that begins says of that.

        Raises:
            UserError: if they are of another network.
        """
        said, self.ancestors = self._source.load_into(policy)
        return said


@dataclass(frozen=True)
class _Source:
    """What a run and a model have in common."""

    folder: Path
    task: TaskSpec
    network: BaseModel
    sampler: BaseModel
    statistics: dict[str, dict[str, list[float]]]
    load_into: Callable[[Policy], tuple[str, list[Ancestor]]]
    """Load the weights; gives what to say of them, and the line of runs that they come from."""


def _source(folder: Path) -> _Source:
    if (folder / RUN_FILE).is_file():
        return _run(folder)
    if (folder / MANIFEST_FILE).is_file():
        return _model(folder)
    raise UserError(
        f"{folder}: is neither a training run (no {RUN_FILE}) nor a model (no {MANIFEST_FILE}); give a folder that "
        "`dp-ros train`, `dp-ros export` or `dp-ros import` wrote"
    )


def _run(folder: Path) -> _Source:
    record = open_run(folder)
    task, config = record.task_spec(folder), record.config

    def load_into(policy: Policy) -> tuple[str, list[Ancestor]]:
        progress = load_weights(folder / BEST, policy, as_start=True, task=task)
        itself = Ancestor(
            run=folder.name,
            steps=progress.step,
            samples=progress.step * record.samples_per_step,
            seed=config.training.seed,
            wall_time_s=round(progress.wall_time_s, 1),
            data_digest=record.data_digest,
        )
        return _said(itself), [*record.ancestors, itself]

    return _Source(folder, task, config.network, config.sampler, record.statistics, load_into)


def _model(folder: Path) -> _Source:
    manifest = load_manifest(folder)
    task, made = manifest.task_spec(str(folder)), manifest.provenance

    def load_into(policy: Policy) -> tuple[str, list[Ancestor]]:
        weights = load_policy(folder, manifest).state_dict()
        try:
            policy.start_from(weights)
        except RuntimeError as error:
            raise UserError(f"{folder / WEIGHTS_FILE}: is not of this network: {error}") from error
        if made is None:
            return manifest.model_id, []
        itself = Ancestor(
            run=manifest.model_id,
            steps=made.steps,
            samples=made.samples,
            seed=made.seed,
            wall_time_s=made.wall_time_s,
            data_digest=made.data_digest,
        )
        return _said(itself), [*made.ancestors, itself]

    return _Source(folder, task, manifest.network, manifest.sampler, manifest.normalization, load_into)


def _said(of: Ancestor) -> str:
    return f"{of.run}, {of.steps} steps, {of.samples} samples, data {of.data_digest[:12]}"


def _condition(task: TaskSpec, predicted: str) -> dict[str, Any]:
    """What a network of `task` is given and gives, by name; `predicted` stands in for its camera.

    What the predicted stream consists of, a task with a camera does not say.
    """
    streams = [predicted if spec.is_image else key for key, spec in task.observations.items()]
    found: dict[str, Any] = {"streams": streams}
    for key in ("rate_hz", "n_obs_steps", "horizon"):
        found[key] = getattr(task, key)
    for key, spec in task.observations.items():
        if key != predicted and not spec.is_image:
            found[f"observations.{key}"] = spec.model_dump(mode="json", include=_CONTENT)
    action = task.action.model_dump(mode="json", include={"names", "rotation", "relative", "command"})
    return {**found, **{f"action.{key}": value for key, value in action.items()}}
