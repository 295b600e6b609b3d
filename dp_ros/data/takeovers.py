"""An operator's takeovers, cut out of recorded runs of a policy.

A recording of runs has, beside the arrays of a demonstration, `data/takeover` (N,): 1 where the operator commanded
and 0 where the policy did. Each stretch of ones becomes an episode of its own. Easy to get wrong: what the policy
commanded must never be learnt as if somebody had shown it, so a recording without the flags is refused and not taken
whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_ros.data.layout import NO_SEED, TAKEOVER, TIMESTAMP, recorded_arrays
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.errors import UserError
from dp_ros.task import TaskSpec


def takeover_episodes(
    path: Path, task: TaskSpec, min_steps: int = 2
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Seed (NO_SEED on a robot) and rows of each takeover of at least `min_steps` steps.

    Raises:
        UserError: if the recording has no flags, lacks a stream of the task, or nobody took over in it.
    """
    buffer = ReplayBuffer.open(path)
    if TAKEOVER not in buffer:
        raise UserError(
            f"{path}: has no data/{TAKEOVER}, so nobody can tell the operator's steps from the policy's; record "
            "runs with the recorder's parameter takeover_topic, or train on it whole if all of it is an operator's"
        )
    missing = [key for key in recorded_arrays(task) if key not in buffer]
    if missing:
        raise UserError(
            f"{path}: lacks {', '.join(missing)} of task {task.name}, it was recorded for another; give the task file "
            "that it was recorded with, or record runs with this one"
        )
    found = 0
    for index, seed in enumerate(buffer.episode_seeds):
        arrays = buffer.episode(index)
        for start, stop in stretches(arrays[TAKEOVER] != 0):
            if stop - start < min_steps:
                continue
            found += 1
            yield int(seed) if start == 0 else NO_SEED, _rows(arrays, task, start, stop)
    if not found:
        raise UserError(
            f"{path}: nobody took over for {min_steps} steps or more in its {buffer.n_episodes} runs; record runs in "
            "which the operator takes over, with the recorder listening to takeover_topic, or give another recording"
        )


def stretches(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First step and step after the last of each run of ones."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _rows(arrays: dict[str, NDArray[Any]], task: TaskSpec, start: int, stop: int) -> list[dict[str, Any]]:
    begin_s = arrays[TIMESTAMP][start]
    return [
        {
            key: arrays[key][row] - begin_s if key == TIMESTAMP else arrays[key][row]
            for key in recorded_arrays(task)
        }
        for row in range(start, stop)
    ]
