"""Training samples: windows of `horizon` steps cut from recorded episodes.

    rows of an episode          0  1  2  3 ...              L-2 L-1
    first window (n_obs = 2) 0  0  1  2 ...                                observed: its first n_obs_steps rows
    last window                                             L-2 L-1 L-1 ... L-1   predicted: all its rows

Every row of an episode is the newest observation of one window. To that end the first row is repeated
n_obs_steps - 1 times before the episode, as in Diffusion Policy (Chi et al., 2023), and the last one as often as
the horizon needs after it. The original repeats it n_action_steps - 1 times only, so that the last rows are never
"now" and the final alignment is learnt from a distance. Windows are an index: the rows are taken when a batch is
made, each once, and nothing is copied before. Easy to get wrong: a window must never reach into the neighbouring
episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_ros.data.checks import (
    check_changes,
    check_chunks,
    check_label,
    check_lengths,
    check_rate,
    check_stream,
    check_task,
    check_values,
)
from dp_ros.data.frames import map_frames, unpacked_bytes
from dp_ros.data.layout import ACTION
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.errors import UserError
from dp_ros.runtime.action_space import ActionSpace
from dp_ros.task import TaskSpec

#: Pictures that are kept in memory, MB in all; more are mapped from a file.
IMAGE_MEMORY_MB = 512.0


@dataclass(frozen=True)
class Demonstrations:
    """Checked episodes of one task.

    Attributes:
        arrays: each stream of the task and `action`, (N, *shape), all episodes one after the other. Vectors are
            float32 in memory; pictures are as recorded and may lie in a file that is mapped.
        episode_ends: (n_episodes,) row after the last one of each episode.
        digest: content hash of the recording.
        labels: further vector streams among the arrays, which the task does not observe and a policy learns to tell.
    """

    arrays: dict[str, NDArray[Any]]
    episode_ends: NDArray[np.int64]
    digest: str
    labels: tuple[str, ...] = ()

    @property
    def n_episodes(self) -> int:
        """Number of episodes."""
        return len(self.episode_ends)

    @property
    def n_steps(self) -> int:
        """Number of rows."""
        return int(self.episode_ends[-1])


class Windows:
    """Training samples: which rows of the demonstrations each consists of.

    Args:
        demonstrations: whose rows.
        task: what is observed and commanded. With `action.relative`, actions count from the state at the newest
            observation of their window.
        rows: (N, horizon) rows of each window, the first n_obs_steps of which are observed.
        observed_steps: how many rows of observations a sample has; None: n_obs_steps. More for a policy that learns
            what will be observed as well.
    """

    def __init__(
        self,
        demonstrations: Demonstrations,
        task: TaskSpec,
        rows: NDArray[np.int64],
        observed_steps: int | None = None,
    ) -> None:
        self._arrays = demonstrations.arrays
        self._streams = [*task.observations, *demonstrations.labels]
        self.labels, self._observed_steps = demonstrations.labels, observed_steps or task.n_obs_steps
        self._rows = rows
        relative = task.action.relative and len(rows)
        self._relative = _relative_actions(demonstrations, task, rows) if relative else None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def sample_bytes(self) -> int:
        """Size of one sample."""
        observed = sum(self._arrays[key][:1].nbytes for key in self._streams) * self._observed_steps
        return observed + self._arrays[ACTION][:1].nbytes * self._rows.shape[1]

    def at(self, chosen: NDArray[np.int64]) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
        """Observations {stream: (B, observed_steps, *shape)}, oldest first, and actions (B, horizon, action_dim).

        Labels are among the observations.
        """
        rows = self._rows[chosen]
        observed = rows[:, : self._observed_steps]
        observations = {key: np.take(self._arrays[key], observed, axis=0) for key in self._streams}
        actions = self._relative[chosen] if self._relative is not None else self._arrays[ACTION][rows]
        return observations, actions

    def values(self, key: str) -> NDArray[Any]:
        """All values (n, *shape) of a stream or of `action` that are learnt from: what normalisation is made for."""
        if key == ACTION and self._relative is not None:
            return self._relative.reshape(-1, self._relative.shape[-1])
        return self._arrays[key][np.unique(self._rows)]

    @property
    def observations(self) -> dict[str, NDArray[Any]]:
        """Observations of all windows, {stream: (N, observed_steps, *shape)}: a copy."""
        return self.at(np.arange(len(self)))[0]

    @property
    def actions(self) -> NDArray[np.float32]:
        """Actions of all windows, (N, horizon, action_dim): a copy."""
        return self._arrays[ACTION][self._rows] if self._relative is None else self._relative.copy()


def load_demonstrations(
    path: str | Path,
    task: TaskSpec,
    *,
    labels: Sequence[str] = (),
    image_memory_mb: float = IMAGE_MEMORY_MB,
) -> Demonstrations:
    """Read a recording and check that `task` can be learnt from it.

    `labels` are recorded vector streams that are wanted beside those of the task. Pictures of up to
    `image_memory_mb` in all are kept in memory, more in a mapped file beside the recording.

    Raises:
        UserError: if it is empty, lacks a part, was recorded for another task or at another rate, lacks a stream, has
            other shapes, a value that is not finite or one that never changes, or episodes shorter than a window.
    """
    buffer = ReplayBuffer.open(path)
    if buffer.n_episodes == 0:
        raise UserError(f"{path}: has no episodes; record some with `dp-ros collect`")
    check_chunks(buffer)
    check_task(buffer, task)
    check_lengths(buffer, task)
    check_rate(buffer, task)
    shapes = {key: spec.shape for key, spec in task.observations.items()} | {ACTION: task.action.shape}
    for key, shape in shapes.items():
        check_stream(buffer, key, shape)
    for key in labels:
        check_label(buffer, key)
    images = [key for key, spec in task.observations.items() if spec.is_image]
    digest = buffer.digest()
    in_memory = sum(unpacked_bytes(buffer, key) for key in images) <= image_memory_mb * 1e6
    arrays: dict[str, NDArray[Any]] = {}
    for key in shapes:
        if key in images:
            arrays[key] = buffer[key] if in_memory else map_frames(buffer, key, digest)
            check_values(buffer, key, arrays[key])
        else:
            arrays[key] = buffer[key]
            check_values(buffer, key, arrays[key])
            arrays[key] = arrays[key].astype(np.float32, copy=False)
            check_changes(buffer, key, arrays[key], task)
    for key in labels:
        check_values(buffer, key, buffer[key])
        arrays[key] = buffer[key].astype(np.float32, copy=False)
        check_changes(buffer, key, arrays[key], task)
    return Demonstrations(arrays, buffer.episode_ends, digest, tuple(labels))


def cut_windows(
    demonstrations: Demonstrations, task: TaskSpec, episodes: Sequence[int], observed_steps: int | None = None
) -> Windows:
    """All windows of the given episodes, in order of time: as many as they have rows; arguments as of `Windows`."""
    starts = np.concatenate([[0], demonstrations.episode_ends[:-1]])
    rows = [_window_rows(int(starts[i]), int(demonstrations.episode_ends[i]), task) for i in sorted(episodes)]
    index = np.concatenate(rows) if rows else np.empty((0, task.horizon), np.int64)
    return Windows(demonstrations, task, index, observed_steps)


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


def _relative_actions(
    demonstrations: Demonstrations, task: TaskSpec, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Actions (N, horizon, action_dim) of windows, counted from the state at their newest observation."""
    space = ActionSpace(task)
    now = rows[:, task.n_obs_steps - 1]
    states = demonstrations.arrays[str(task.action.state)]
    references = np.stack([space.measured(state) for state in states[now]])  # (N, command_dim)
    actions = demonstrations.arrays[ACTION][rows]
    n, horizon, dim = actions.shape
    relative = space.to_relative(actions.reshape(-1, dim), np.repeat(references, horizon, axis=0))
    return relative.reshape(n, horizon, dim).astype(np.float32)
