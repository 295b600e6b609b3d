"""Training samples: windows of `horizon` steps cut from recorded episodes.

    rows of an episode          0  1  2  3 ...              L-2 L-1
    first window (n_obs = 2) 0  0  1  2 ...                                observed: its first n_obs_steps rows
    last window                                             L-2 L-1 L-1 ... L-1   predicted: all its rows

Every row of an episode is the newest observation of one window. To that end the first row is repeated
n_obs_steps - 1 times before the episode, as in Diffusion Policy (Chi et al., 2023), and the last one as often as
the horizon needs after it. The original repeats it n_action_steps - 1 times only, so that the last rows are never
"now" and the final alignment is learnt from a distance. Easy to get wrong: a window must never reach into the
neighbouring episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_ros.data.layout import ACTION
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.errors import UserError
from dp_ros.task import TaskSpec


@dataclass(frozen=True)
class Demonstrations:
    """Checked episodes of one task, in memory.

    Attributes:
        arrays: each stream of the task and `action`, (N, *shape), all episodes one after the other.
        episode_ends: (n_episodes,) row after the last one of each episode.
        digest: content hash of the recording.
    """

    arrays: dict[str, NDArray[Any]]
    episode_ends: NDArray[np.int64]
    digest: str

    @property
    def n_episodes(self) -> int:
        """Number of episodes."""
        return len(self.episode_ends)

    @property
    def n_steps(self) -> int:
        """Number of rows."""
        return int(self.episode_ends[-1])


@dataclass(frozen=True)
class Windows:
    """Training samples.

    Attributes:
        observations: {stream: (N, n_obs_steps, *shape)}, oldest first.
        actions: (N, horizon, action_dim).
    """

    observations: dict[str, NDArray[Any]]
    actions: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.actions)


def load_demonstrations(path: str | Path, task: TaskSpec) -> Demonstrations:
    """Read a recording and check that `task` can be learnt from it.

    Raises:
        UserError: if it is empty, was recorded for another task, lacks a stream, has other shapes or a value
            that is not finite.
    """
    buffer = ReplayBuffer.open(path)
    if buffer.n_episodes == 0:
        raise UserError(f"{path}: has no episodes; record some with `dp-ros collect`")
    _check_task(path, buffer, task)
    arrays = {key: _stream(path, buffer, key, spec.shape) for key, spec in task.observations.items()}
    arrays[ACTION] = _stream(path, buffer, ACTION, task.action.shape)
    return Demonstrations(arrays, buffer.episode_ends, buffer.digest())


def cut_windows(demonstrations: Demonstrations, task: TaskSpec, episodes: Sequence[int]) -> Windows:
    """All windows of the given episodes, in order of time: as many as they have rows."""
    starts = np.concatenate([[0], demonstrations.episode_ends[:-1]])
    rows = [_window_rows(int(starts[i]), int(demonstrations.episode_ends[i]), task) for i in sorted(episodes)]
    index = np.concatenate(rows) if rows else np.empty((0, task.horizon), np.int64)
    observed = index[:, : task.n_obs_steps]
    return Windows(
        {key: demonstrations.arrays[key][observed] for key in task.observations},
        demonstrations.arrays[ACTION][index],
    )


def split_episodes(n_episodes: int, validation_share: float, seed: int) -> tuple[list[int], list[int]]:
    """Draw which episodes are trained on and which are held out.

    Whole episodes, because steps that follow each other are alike. At least one is held out if there are two
    and the share is above 0.
    """
    wanted = max(round(n_episodes * validation_share), 1 if validation_share > 0 else 0)
    n_held_out = min(wanted, n_episodes - 1)
    order = np.random.default_rng(np.random.SeedSequence([seed, n_episodes])).permutation(n_episodes)
    return sorted(order[n_held_out:].tolist()), sorted(order[:n_held_out].tolist())


def _window_rows(start: int, end: int, task: TaskSpec) -> NDArray[np.int64]:
    """Rows (n_windows, horizon) of the windows of an episode that holds rows start to end - 1."""
    first = start - (task.n_obs_steps - 1)
    last = end - task.n_obs_steps
    rows = np.arange(first, last + 1)[:, None] + np.arange(task.horizon)
    return np.clip(rows, start, end - 1)


def _stream(path: str | Path, buffer: ReplayBuffer, key: str, shape: tuple[int, ...]) -> NDArray[Any]:
    if key not in buffer:
        raise UserError(
            f"{path}: has no data/{key}, which the task needs; it has {', '.join(buffer.keys())}. "
            "Record with this task file, or take the stream out of the task"
        )
    values = buffer[key]
    if values.shape[1:] != tuple(shape):
        raise UserError(
            f"{path}: data/{key} has shape {list(values.shape[1:])} a step, the task says {list(shape)}; "
            "train with the task file that it was recorded with"
        )
    if values.dtype.kind not in "fiu":
        raise UserError(f"{path}: data/{key} is {values.dtype}, expected numbers")
    if values.dtype.kind == "f":
        broken = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        if broken.size:
            episode = int(np.searchsorted(buffer.episode_ends, broken[0], side="right"))
            raise UserError(
                f"{path}: data/{key} is not finite in {broken.size} row(s), first in row {broken[0]} "
                f"(episode {episode}); leave these episodes out or record them again"
            )
        values = values.astype(np.float32, copy=False)
    return values


def _check_task(path: str | Path, buffer: ReplayBuffer, task: TaskSpec) -> None:
    """Refuse a recording of another task; one that does not name its task is judged by its streams alone."""
    recorded = buffer.task
    if recorded is None:
        return
    differing = _differences(recorded.model_dump(mode="json"), task.model_dump(mode="json"))
    if not differing:
        return
    raise UserError(
        f"{path}: was recorded for task {recorded.name}, which differs from task {task.name} in:\n  "
        + "\n  ".join(f"{key}: recorded with {old}, given {new}" for key, old, new in differing)
        + "\ntrain with the task file that it was recorded with"
    )


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
