"""How fast random training windows come from a recording: ours, and slices of the zarr arrays, one window at a time.

The plain way is what the layout invites to: for each sample cut the rows of every stream out of the store, repeat the
first or last one at the ends of the episode, stack. Both give the same arrays. Easy to get wrong: a machine is rarely
quiet for long, so the two run in turns and each turn's ratio counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray

from dp_ros.benchmark.turns import in_turns, median_ratio
from dp_ros.data.layout import ACTION
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.windows import cut_windows, load_demonstrations
from dp_ros.task import TaskSpec

#: Random batches that are drawn before anything is timed.
_BATCHES = 64
Batch = tuple[dict[str, NDArray[Any]], NDArray[np.float32]]


class WindowSpeed(NamedTuple):
    """Medians over the turns.

    Attributes:
        windows_per_s: of ours, pictures and all.
        plain_windows_per_s: of slices of the zarr arrays.
        speedup: by how much ours is faster, turn by turn.
        open_s: how long ours took to open the recording: vectors are read and everything is checked then.
        turns: that each was measured in.
    """

    windows_per_s: float
    plain_windows_per_s: float
    speedup: float
    open_s: float
    turns: int


class PlainWindows:
    """Windows cut out of the zarr arrays, one at a time.

    Args:
        path: of the recording.
        task: streams and steps.
    """

    def __init__(self, path: str, task: TaskSpec) -> None:
        data = zarr.open_group(path, mode="r", zarr_format=2)["data"]
        assert isinstance(data, zarr.Group)
        self._task = task
        self._arrays: dict[str, Any] = {key: data[key] for key in (*task.observations, ACTION)}
        ends = ReplayBuffer.open(path).episode_ends
        starts = np.concatenate([[0], ends[:-1]])
        self._now = [
            (row, int(a), int(b)) for a, b in zip(starts, ends, strict=True) for row in range(int(a), int(b))
        ]

    def at(self, chosen: NDArray[np.int64]) -> Batch:
        """The same as `data.windows.Windows.at`."""
        task, observations, actions = self._task, list[dict[str, NDArray[Any]]](), list[NDArray[Any]]()
        for index in chosen.tolist():
            now, start, end = self._now[index]
            first = now - task.n_obs_steps + 1
            rows = {key: self._rows(key, first, task.n_obs_steps, start, end) for key in task.observations}
            observations.append(rows)
            actions.append(self._rows(ACTION, first, task.horizon, start, end))
        stacked = {key: np.stack([sample[key] for sample in observations]) for key in task.observations}
        return stacked, np.stack(actions).astype(np.float32)

    def _rows(self, key: str, first: int, n: int, start: int, end: int) -> NDArray[Any]:
        rows = np.asarray(self._arrays[key][max(first, start) : min(first + n, end)])
        before, after = max(start - first, 0), max(first + n - end, 0)
        return np.pad(rows, [(before, after), *[(0, 0)] * (rows.ndim - 1)], mode="edge")


def measure(path: str, task: TaskSpec, *, batch: int, seconds: float, seed: int = 0) -> WindowSpeed:
    """Measure for about so many seconds, and no less than a few turns; a turn is one batch.

    Raises:
        UserError: if the recording cannot be learnt from.
    """
    began = time.perf_counter()
    demonstrations = load_demonstrations(path, task)
    ours = cut_windows(demonstrations, task, range(demonstrations.n_episodes))
    open_s = time.perf_counter() - began
    chosen = np.random.default_rng(seed).integers(0, len(ours), (_BATCHES, batch))
    ways = {"ours": ours.at, "plain": PlainWindows(path, task).at}
    times = in_turns(
        {name: partial(_take, at, chosen) for name, at in ways.items()}, seconds, steps=1, warmup=1
    )
    rate = {name: batch / statistics.median(each) for name, each in times.items()}
    speedup = median_ratio(times["plain"], times["ours"])
    return WindowSpeed(rate["ours"], rate["plain"], speedup, open_s, len(times["ours"]))


def _take(at: Callable[[NDArray[np.int64]], Batch], chosen: NDArray[np.int64], step: int) -> None:
    at(chosen[step % len(chosen)])


def made_up_recording(path: str, task: TaskSpec, n_episodes: int, length: int) -> None:
    """Record smooth pictures and random walks in the shape of a task, for speed alone."""
    from dp_ros.data.episode_writer import EpisodeWriter
    from dp_ros.data.layout import TIMESTAMP, recorded_arrays

    draw = np.random.default_rng(0)
    with EpisodeWriter(path, task) as writer:
        for _ in range(n_episodes):
            walks: dict[str, NDArray[Any]] = {}
            for key, (shape, dtype) in recorded_arrays(task).items():
                if key == TIMESTAMP:
                    walks[key] = np.arange(length) / task.rate_hz
                elif dtype.kind == "u":
                    ramp = np.add.outer(np.arange(length), np.arange(int(np.prod(shape))) // 97)
                    walks[key] = (ramp % 251).astype(dtype).reshape(length, *shape)
                else:
                    walks[key] = draw.normal(size=(length, *shape)).cumsum(axis=0).astype(dtype)
            for row in range(length):
                writer.add({key: values[row] for key, values in walks.items()})
            writer.save()
