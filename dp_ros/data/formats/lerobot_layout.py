"""LeRobot data sets, version 3.0: names of files, features and streams.

Easy to get wrong: paths come from the data set's own `info.json`, so each is checked to lie in its folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dp_ros.data.formats.rerun import value_names
from dp_ros.errors import UserError
from dp_ros.task import TaskSpec

VERSION = "v3.0"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
#: What a recording says of its episodes and LeRobot has no place for.
OURS = "meta/dp_ros.json"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
STATE, ACTION = "observation.state", "action"
#: Columns that every data set has beside its features.
INDICES = ("timestamp", "frame_index", "episode_index", "index", "task_index")
TAKEOVER = "takeover"


def camera_feature(key: str) -> str:
    """Feature of a camera stream."""
    return f"observation.images.{key}"


def state_slices(task: TaskSpec) -> dict[str, slice]:
    """Where each vector stream is in `observation.state`."""
    slices, begin = {}, 0
    for key, spec in task.observations.items():
        if not spec.is_image:
            slices[key] = slice(begin, begin + spec.dim)
            begin += spec.dim
    return slices


def state_names(task: TaskSpec) -> list[str]:
    """A name for each value of `observation.state`."""
    vectors = {key: spec for key, spec in task.observations.items() if not spec.is_image}
    return [
        name if len(vectors) == 1 else f"{key}.{name}"
        for key, spec in vectors.items()
        for name in value_names(spec)
    ]


def inside(folder: Path, template: str, **indices: Any) -> Path:
    """A file that a data set names. Raises UserError if it would lie outside of its folder."""
    try:
        name = template.format(**indices)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{folder}: {INFO} names files by {template!r}, which cannot be filled in: {error}"
        ) from None
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{folder}: {INFO} names {name}, which is outside of the data set; it was not opened")
    return path


def parquet() -> Any:
    """The module that reads and writes parquet. Raises UserError if it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            "LeRobot data sets need pyarrow, which is not installed; pip install pyarrow"
        ) from None
    return pyarrow.parquet
