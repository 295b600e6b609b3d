"""The run that another one begins with: whether its weights mean the same here, its normalisation, its weights.

A run goes on from one of the same task, or, where its encoder predicts a stream (`network.vision.predicts`), from one
of a task that observes that stream in place of the camera: the encoder then learns to stand in for it, and the rest
of the network knows already what to do. Easy to get wrong: weights mean something with the normalisation that they
were trained with only, so it comes from the same run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dp_ros.data.layout import ACTION
from dp_ros.errors import UserError
from dp_ros.inference.manifest import Ancestor
from dp_ros.policies.policy import Policy
from dp_ros.policies.specs import labels_of
from dp_ros.task import TaskSpec
from dp_ros.training.checkpoint import load_weights
from dp_ros.training.config import TrainingConfig
from dp_ros.training.run_folder import BEST, open_run

#: Share of the range of a run that is started from, by which data may go beyond it: a policy that is corrected comes
#: to states that no demonstration had, but actions beyond the range are cut off.
_SLACK, _ACTION_SLACK = 0.5, 0.1
#: What decides which numbers a stream gives, and in which order.
_CONTENT = {"type", "fields", "names", "shape", "rotation"}
#: What the networks of two runs must have in common besides.
_SHAPE = ("widths", "step_dim", "kernel_size", "groups", "width", "layers", "heads")


class Origin:
    """A run whose best weights another one begins with.

    Args:
        run: its folder.
        task: of the run that begins.
        config: recipe of the run that begins.

    Attributes:
        ancestors: once its weights are loaded, it and the runs that it goes back to, the first one first.

    Raises:
        UserError: if its weights would mean something else.
    """

    def __init__(self, run: Path, task: TaskSpec, config: TrainingConfig) -> None:
        self._run, self._record = run, open_run(run)
        self.ancestors: list[Ancestor] = []
        self._task = self._record.task_spec(run)
        if self._task.digest() == task.digest():
            return
        labels = tuple(labels_of(config.network))
        if not labels:
            raise UserError(
                f"{run}: was trained for task {self._task.name}, which differs from task {task.name} of this one; "
                "start from a run of the same task"
            )
        there, here = _condition(self._task, labels[0]), _condition(task, labels[0])
        differing = [
            f"{name}: {there.get(name, 'nothing')} there, {here.get(name, 'nothing')} here"
            for name in dict.fromkeys((*there, *here))
            if there.get(name) != here.get(name)
        ]
        theirs, ours = self._record.config, config
        differing += [
            f"{section}.{name}: {old} there, {new} here"
            for section, names in (
                ("network", _SHAPE),
                ("sampler", ("prediction", "train_steps", "beta_schedule")),
            )
            for name in names
            if (old := getattr(getattr(theirs, section), name, None))
            != (new := getattr(getattr(ours, section), name, None))
        ]
        if getattr(theirs.network, "prefix_steps", 0) and not getattr(ours.network, "prefix_steps", 0):
            differing.append(f"network.prefix_steps: {theirs.network.prefix_steps} there, 0 here")
        if differing:
            raise UserError(
                f"{run}: its network cannot go on here, where {labels[0]} is predicted from a picture; it differs "
                "in:\n  " + "\n  ".join(differing) + "\nstart from a run that fits, or with random weights"
            )

    def statistics(self, given: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
        """Its normalisation, without which its weights mean nothing.

        Raises:
            UserError: if the data, whose ranges are `given`, goes far beyond it.
        """
        run = self._run
        for key, old in self._record.statistics.items():
            if key not in given:
                continue
            if len(old["min"]) != len(given[key]["min"]):
                raise UserError(
                    f"{run}: {key} had {len(old['min'])} values there, it has {len(given[key]['min'])} here; "
                    "start from a run on data like these, or with random weights"
                )
            low, high = np.array(old["min"]), np.array(old["max"])
            slack = (_ACTION_SLACK if key == ACTION else _SLACK) * (high - low)
            beyond = (np.array(given[key]["min"]) < low - slack) | (
                np.array(given[key]["max"]) > high + slack
            )
            if beyond.any():
                i = int(np.flatnonzero(beyond)[0])
                raise UserError(
                    f"{run}: was trained on data of another range: {key}[{i}] went from {low[i]:g} to {high[i]:g} "
                    f"there, from {given[key]['min'][i]:g} to {given[key]['max'][i]:g} here; start from a run on data "
                    "like these, or with random weights"
                )
        return {key: self._record.statistics.get(key, own) for key, own in given.items()}

    def load_into(self, policy: Policy) -> str:
        """Load its best weights; returns what the record of the run that begins says of that."""
        progress = load_weights(self._run / BEST, policy, as_start=True, task=self._task)
        samples = progress.step * self._record.samples_per_step
        self.ancestors = [
            *self._record.ancestors,
            Ancestor(
                run=self._run.name,
                steps=progress.step,
                samples=samples,
                seed=self._record.config.training.seed,
                wall_time_s=round(progress.wall_time_s, 1),
                data_digest=self._record.data_digest,
            ),
        ]
        return f"{self._run.name}, {progress.step} steps, {samples} samples, data {self._record.data_digest[:12]}"


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
