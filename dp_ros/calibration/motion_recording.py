"""Recorded motion: every stream of a task and its commands, at full rate with their own stamps.

`MotionRecording` is what `dp-ros calibrate latency --record` writes, one npz file; an episode recording (zarr)
can be read as well. Either way every stream comes out at its header stamps. Easy to get wrong: the rows of an
episode recording lie on the task's grid and the latencies of the task were already taken off, so those of the
recorded task are added again.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_ros.calibration.pictures import thumbnail
from dp_ros.data.layout import ACTION, TIMESTAMP
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.errors import UserError
from dp_ros.task import TaskSpec

FORMAT = "dp_ros motion"
FORMAT_VERSION = 1
#: Motion taken from an episode recording at most, spread over its episodes.
MOST_SECONDS = 300.0
Stamps = NDArray[np.int64]


@dataclass(frozen=True)
class Samples:
    """Samples of one stream, or the commands.

    Attributes:
        stamps_ns: (n,) header stamps; of a command the time it was meant for.
        values: (n, dim), or (n, h, w) small grey pictures of a camera.
        names: of the columns; empty for pictures.
    """

    stamps_ns: Stamps
    values: NDArray[Any]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class MotionRecording:
    """Streams and commands of one uninterrupted motion.

    Attributes:
        streams: by key of the task; `action` is the commands.
    """

    streams: Mapping[str, Samples] = field(default_factory=dict)

    def save(self, path: Path, task: TaskSpec) -> None:
        """Write one npz file, complete or not at all."""
        facts = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "task": task.model_dump(mode="json"),
            "names": {key: list(samples.names) for key, samples in self.streams.items()},
        }
        arrays: dict[str, NDArray[Any]] = {"facts": np.array(json.dumps(facts))}
        for key, samples in self.streams.items():
            arrays[f"{key}.stamp_ns"], arrays[f"{key}.value"] = samples.stamps_ns, samples.values
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".part")
        with partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> MotionRecording:
        """Read a file that `save` wrote.

        Raises:
            UserError: if it is another kind of file.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                facts = json.loads(str(arrays["facts"]))
                if facts["format"] != FORMAT or facts["format_version"] > FORMAT_VERSION:
                    raise UserError(
                        f"{path}: is {facts['format']} {facts['format_version']}, expected {FORMAT}"
                    )
                streams = {
                    key: Samples(arrays[f"{key}.stamp_ns"], arrays[f"{key}.value"], tuple(names))
                    for key, names in facts["names"].items()
                }
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{path}: is not a recording of `dp-ros calibrate latency --record`: {error}"
            ) from None
        return cls(streams)


def load_motion(path: Path, task: TaskSpec) -> list[MotionRecording]:
    """The motion in an npz file, or in the episodes of a zarr recording.

    Args:
        path: file or folder.
        task: gives the streams that are wanted of an episode recording.

    Raises:
        UserError: if it cannot be read.
    """
    if not path.is_dir():
        return [MotionRecording.load(path)]
    recording = ReplayBuffer.open(path)
    recorded = recording.task or task
    lengths_s = np.diff(recording.episode_ends, prepend=0) * recorded.dt_ns / 1e9
    every = max(int(np.ceil(lengths_s.sum() / MOST_SECONDS)), 1)
    chosen = range(0, recording.n_episodes, every)
    return [_of_episode(recording.episode(index), recorded, task) for index in chosen]


def _of_episode(episode: Mapping[str, NDArray[Any]], recorded: TaskSpec, task: TaskSpec) -> MotionRecording:
    rows = len(next(iter(episode.values())))
    times_s = np.asarray(episode.get(TIMESTAMP, np.arange(rows) * recorded.dt_ns / 1e9), dtype=np.float64)
    stamps = 1_000_000_000 + np.rint(times_s * 1e9).astype(np.int64)
    streams = {}
    if ACTION in episode:
        streams[ACTION] = Samples(stamps, episode[ACTION], tuple(recorded.action.names))
    for key, spec in task.observations.items():
        if key not in episode or key not in recorded.observations:
            continue
        header = stamps + round(recorded.observations[key].latency_s * 1e9)
        if spec.is_image:
            streams[key] = Samples(header, np.stack([thumbnail(picture) for picture in episode[key]]))
        else:
            names = column_names(recorded, key)
            streams[key] = Samples(header, episode[key], names)
    return MotionRecording(streams)


def column_names(task: TaskSpec, key: str) -> tuple[str, ...]:
    """What each value of a vector stream is: `position elbow`, `position.x`, `position.x 3`."""
    spec = task.observations[key]
    if spec.names:
        return tuple(f"{field} {name}" for field in spec.fields for name in spec.names)
    if len(spec.fields) == spec.dim:
        return tuple(spec.fields)
    if spec.dim % len(spec.fields) == 0:
        return tuple(f"{f} {i}" for i in range(spec.dim // len(spec.fields)) for f in spec.fields)
    return tuple(f"value {i}" for i in range(spec.dim))
