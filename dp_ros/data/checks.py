"""What a recording must be like for a task to be learnt from it; refused with the reason and the remedy.

Easy to get wrong: a file of another project may say nothing of its task, so its arrays are looked at and not only
what it says of itself.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_ros.data.layout import ACTION, TIMESTAMP
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.errors import UserError
from dp_ros.task import TaskSpec

log = logging.getLogger(__name__)

#: Share by which the time between steps may be off what the task says; cameras and clocks are not exact.
RATE_TOLERANCE = 0.2
#: Values that differ by less than this share of their size do not change.
RELATIVE_RANGE = 1e-4


def check_task(buffer: ReplayBuffer, task: TaskSpec) -> None:
    """Refuse a recording of another task; one that does not name its task is judged by its arrays alone.

    A recording may hold further streams than the task observes; its task then has another name, too.
    """
    recorded = buffer.task
    if recorded is None:
        return
    differing = _differences(recorded.model_dump(mode="json"), task.model_dump(mode="json"))
    further = {f"observations.{key}" for key in recorded.observations if key not in task.observations}
    if further:
        differing = [found for found in differing if found[0] not in further | {"name"}]
    if not differing:
        return
    raise UserError(
        f"{buffer.path}: was recorded for task {recorded.name}, which differs from task {task.name} in:\n  "
        + "\n  ".join(f"{key}: recorded with {old}, given {new}" for key, old, new in differing)
        + "\ntrain with the task file that it was recorded with"
    )


def check_lengths(buffer: ReplayBuffer, task: TaskSpec) -> None:
    """Refuse a window that is longer than every episode."""
    longest = int(np.diff(buffer.episode_ends, prepend=0).max())
    if longest < task.horizon:
        raise UserError(
            f"{buffer.path}: its longest episode has {longest} steps, a window of task {task.name} has {task.horizon} "
            f"(horizon); record longer episodes, or lower horizon in the task file"
        )


def check_chunks(buffer: ReplayBuffer) -> None:
    """Refuse a recording of this project that lacks a part; warn of one by others, who may leave chunks out.

    zarr does not tell: what is not there is read as zeros.
    """
    for key in buffer:
        buffer.require_chunks(key)
        missing = buffer.missing_chunks(key)
        if missing:
            log.warning(
                "%s: data/%s lacks %d chunk(s), first that of rows %d to %d, and its fill value is read there. Whoever "
                "wrote it may have left out what is nothing else; if these rows should be, restore it from a copy",
                buffer.path,
                key,
                len(missing),
                missing[0][0],
                missing[0][1] - 1,
            )


def check_rate(buffer: ReplayBuffer, task: TaskSpec) -> None:
    """Refuse steps that lie closer or farther apart in time than the task says."""
    if TIMESTAMP not in buffer:
        return
    times = np.asarray(buffer[TIMESTAMP], np.float64)
    if times.ndim != 1:
        return
    within = np.ones(max(len(times) - 1, 0), bool)
    within[buffer.episode_ends[:-1] - 1] = False
    apart = np.diff(times)[within]
    if not apart.size:
        return
    typical = float(np.median(apart))
    if not abs(typical * task.rate_hz - 1.0) <= RATE_TOLERANCE:
        rate = f"{1.0 / typical:.4g} Hz" if typical > 0.0 else "not a rate"
        raise UserError(
            f"{buffer.path}: its steps are {typical:.4g} s apart ({rate}, by data/{TIMESTAMP}), task {task.name} says "
            f"{task.rate_hz:g} Hz; set rate_hz to that of the recording, or take every n-th step of it"
        )


def check_stream(buffer: ReplayBuffer, key: str, shape: tuple[int, ...]) -> None:
    """Refuse an array that is missing, has another shape or holds no numbers."""
    if key not in buffer:
        raise UserError(
            f"{buffer.path}: has no data/{key}, which the task needs; it has {', '.join(buffer.keys())}. "
            "Record with this task file, or take the stream out of the task"
        )
    first = buffer.rows(key, 0, 1)
    if first.shape[1:] != tuple(shape):
        raise UserError(
            f"{buffer.path}: data/{key} has shape {list(first.shape[1:])} a step, the task says {list(shape)}; "
            "train with the task file that it was recorded with"
        )
    if first.dtype.kind not in "fiu":
        raise UserError(f"{buffer.path}: data/{key} is {first.dtype}, expected numbers")


def check_label(buffer: ReplayBuffer, key: str) -> None:
    """Refuse a label that was not recorded or is not a vector of numbers."""
    if key not in buffer:
        raise UserError(
            f"{buffer.path}: has no data/{key}, which network.vision.predicts names; it has "
            f"{', '.join(buffer.keys())}. Record with a task file that has this stream besides, as "
            "pusht_image_labelled has keypoint"
        )
    first = buffer.rows(key, 0, 1)
    if first.ndim != 2 or first.dtype.kind not in "fiu":
        raise UserError(
            f"{buffer.path}: data/{key}, which network.vision.predicts names, is {first.dtype} of shape "
            f"{list(first.shape[1:])} a step, expected a vector of numbers"
        )


def check_values(buffer: ReplayBuffer, key: str, values: NDArray[Any]) -> None:
    """Refuse values that are not finite."""
    if values.dtype.kind != "f":
        return
    broken = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if broken.size:
        episode = int(np.searchsorted(buffer.episode_ends, broken[0], side="right"))
        raise UserError(
            f"{buffer.path}: data/{key} is not finite in {broken.size} row(s), first in row {broken[0]} "
            f"(episode {episode}); leave these episodes out or record them again"
        )


def check_changes(buffer: ReplayBuffer, key: str, values: NDArray[Any], task: TaskSpec) -> None:
    """Refuse a dimension that is the same in every step: nothing can be learnt of it, and often it is a fault.

    A pose is taken whole, so of its dimensions only all may not be constant. `key` may be a label, too, of which the
    task says nothing and the recording's own may.
    """
    flat = values.reshape(len(values), -1)
    low, high = flat.min(axis=0), flat.max(axis=0)
    constant = np.flatnonzero(high - low <= RELATIVE_RANGE * np.maximum(np.abs(low), np.abs(high)))
    is_label = key != ACTION and key not in task.observations
    task = (buffer.task or task) if is_label else task
    observed = task.observations.get(key)
    is_pose = task.action.is_pose if key == ACTION else observed is not None and observed.is_pose
    if not constant.size or (is_pose and constant.size < flat.shape[1]):
        return
    names = _dimension_names(key, task)
    found = ", ".join(f"{names[i] if names else f'[{i}]'} = {low[i]:g}" for i in constant)
    remedy = f"take it out of {'action.names' if key == ACTION else f'observations.{key}'} and record again"
    if is_label:
        remedy = f"{remedy}, or do not have it learnt (network.vision.predicts=null)"
    raise UserError(
        f"{buffer.path}: data/{key} never changes in {constant.size} of {flat.shape[1]} dimension(s): {found}. "
        f"Check that what measures it works; if it is meant to stand still, {remedy}"
    )


def _dimension_names(key: str, task: TaskSpec) -> list[str] | None:
    """Name of each dimension of a vector; None where the task does not say."""
    if key == ACTION:
        names = list(task.action.names)
    else:
        spec = task.observations.get(key)
        if spec is None:
            return None
        names = [f"{field} of {name}" for field in spec.fields for name in spec.names] or list(spec.fields)
        if len(names) != spec.dim:
            return None
    return names


def _differences(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """Key, old and new value wherever two parsed tasks differ in what is recorded: not in description or limits."""
    if key == "action.limits":
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for part in sorted({*old, *new} - ({"description"} if not key else set())):
            found += _differences(old.get(part), new.get(part), f"{key}.{part}" if key else part)
        return found
    return [] if old == new else [(key, old, new)]
