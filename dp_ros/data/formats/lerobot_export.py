"""Recordings as LeRobot data sets, version 3.0, which `LeRobotDataset` opens from a folder.

Cameras become videos (or lossless ones), vectors `observation.state` and `action`. What LeRobot has no place for,
seeds, marks and texts, goes into `meta/dp_ros.json`, so that nothing is lost on the way back. Easy to get wrong:
episodes share files, and what says where one begins are the indices in `meta/episodes`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dp_ros.data.durable_store import complete_or_absent, sync_tree
from dp_ros.data.formats.lerobot_layout import (
    ACTION,
    DATA,
    EPISODES,
    INFO,
    OURS,
    STATE,
    STATS,
    TAKEOVER,
    TASKS,
    VERSION,
    VIDEO,
    camera_feature,
    inside,
    parquet,
    state_names,
    state_slices,
)
from dp_ros.data.formats.video import CODECS, VideoWriter
from dp_ros.data.layout import TAKEOVER as TAKEOVER_ARRAY
from dp_ros.data.pictures import viewable
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.surgery import recorded_task
from dp_ros.errors import UserError
from dp_ros.task import TaskSpec

#: A file takes no further episode beyond this.
VIDEO_FILE_BYTES, DATA_FILE_BYTES, FILES_PER_CHUNK = 200 * 10**6, 100 * 10**6, 1000
_STATS = ("min", "max", "mean", "std")
_PIXEL_STEP = 10  # pictures of which statistics take one


def export_dataset(
    buffer: ReplayBuffer,
    episodes: Sequence[int],
    out: Path,
    progress: Callable[[], None],
    *,
    codec: str = "av1",
) -> str:
    """Write episodes as a data set.

    Args:
        buffer: the recording.
        episodes: indices, in the order in which they are written.
        out: the folder to make.
        progress: called after each episode.
        codec: of the videos: av1, h264 or lossless.

    Returns:
        What was done, for a person.

    Raises:
        UserError: if the recording does not name its task, a picture does not go into a video, pyarrow is not
            installed, or the disk refuses; nothing is there then.
    """
    if codec not in CODECS:
        raise UserError(f"--codec: got {codec}, expected {', '.join(CODECS)}")
    parquet()
    task = recorded_task(buffer)
    for key, spec in task.observations.items():
        if spec.is_image and buffer.rows(key, 0, 1).dtype != np.uint8:
            raise UserError(
                f"{buffer.path}: {key} is {spec.encoding}; videos hold 8 bits, so depth is not exported"
            )
    with complete_or_absent(out) as draft:
        draft.mkdir()
        dataset = _Dataset(draft, task, codec, TAKEOVER_ARRAY in buffer)
        try:
            for index in episodes:
                dataset.add(buffer, index)
                progress()
        finally:
            dataset.close()
        dataset.finish()
        sync_tree(draft)
    return f"{len(episodes)} episodes, {dataset.frames} frames; videos: {codec}"


class _Dataset:
    """A data set that is being written."""

    def __init__(self, folder: Path, task: TaskSpec, codec: str, takeovers: bool) -> None:
        self._folder, self._task, self._codec, self._takeovers = folder, task, codec, takeovers
        self._cameras = [key for key, spec in task.observations.items() if spec.is_image]
        self._slices = state_slices(task)
        self._videos: dict[str, tuple[VideoWriter, Path]] = {}
        self._video_files = dict.fromkeys(self._cameras, 0)
        self._data: Any = None
        self._data_file, self._data_path = 0, folder
        self._texts: dict[str, int] = {}
        self._episodes: list[dict[str, Any]] = []
        self._ours: list[dict[str, Any]] = []
        self._sums: list[dict[str, dict[str, Any]]] = []
        self._video_info: dict[str, tuple[str, str]] = {}
        self.frames = 0

    def add(self, buffer: ReplayBuffer, index: int) -> None:
        """Append an episode."""
        start, stop = int(buffer.episode_ends[index - 1]) if index else 0, int(buffer.episode_ends[index])
        length, number, info = stop - start, len(self._episodes), buffer.episode_info[index]
        text = info.get("instruction") or self._task.description.strip() or self._task.name
        task_index = self._texts.setdefault(text, len(self._texts))
        vectors: dict[str, npt.NDArray[Any]] = {ACTION: buffer.rows("action", start, stop)}
        if self._slices:
            parts = [buffer.rows(key, start, stop).reshape(length, -1) for key in self._slices]
            vectors = {STATE: np.concatenate(parts, axis=1), **vectors}
        if self._takeovers:
            vectors[TAKEOVER] = buffer.rows(TAKEOVER_ARRAY, start, stop).astype(np.int64)[:, None]
        stats = {name: _statistics(values) for name, values in vectors.items()}
        row: dict[str, Any] = {"episode_index": number, "tasks": [text], "length": length}
        for key in self._cameras:
            row |= self._add_video(buffer, key, start, stop, stats)
        row |= self._add_rows(vectors, number, length, task_index)
        row |= {"dataset_from_index": self.frames, "dataset_to_index": self.frames + length}
        for name, values in stats.items():
            row |= {f"stats/{name}/{kind}": value.reshape(-1).tolist() for kind, value in values.items()}
        self._episodes.append(row | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        seed, success = int(buffer.episode_seeds[index]), int(buffer.episode_success[index])
        self._ours.append({"seed": seed, "success": success, "info": info})
        self._sums.append(stats)
        self.frames += length

    def close(self) -> None:
        """Complete the files that are open."""
        for writer, _ in self._videos.values():
            writer.close()
        self._videos.clear()
        if self._data is not None:
            self._data.close()
        self._data = None

    def finish(self) -> None:
        """Write what is said of all of it."""
        import pyarrow

        parquet_module = parquet()
        path = inside(self._folder, EPISODES, chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True)
        parquet_module.write_table(pyarrow.Table.from_pylist(self._episodes), path)
        texts = pyarrow.table({"task_index": list(self._texts.values()), "task": list(self._texts)})
        # pandas, with which LeRobot reads it, makes the column of this name the index.
        columns = [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
            for name, kind, numpy in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
        ]
        pandas = {"index_columns": ["task"], "columns": columns, "column_indexes": []}
        described = texts.replace_schema_metadata({"pandas": json.dumps(pandas)})
        parquet_module.write_table(described, self._folder / TASKS)
        stats = {name: _merged([sums[name] for sums in self._sums]) for name in self._sums[0]}
        listed = {
            name: {kind: value.tolist() for kind, value in values.items()} for name, values in stats.items()
        }
        (self._folder / STATS).write_text(json.dumps(listed, indent=2), encoding="utf-8")
        (self._folder / INFO).write_text(json.dumps(self._info(), indent=2), encoding="utf-8")
        ours = {"task": self._task.model_dump(mode="json"), "episodes": self._ours}
        (self._folder / OURS).write_text(json.dumps(ours), encoding="utf-8")

    def _add_video(
        self, buffer: ReplayBuffer, key: str, start: int, stop: int, stats: dict[str, dict[str, Any]]
    ) -> dict[str, Any]:
        spec, feature = self._task.observations[key], camera_feature(key)
        height, width = spec.shape[:2]
        opened = self._videos.get(key)
        # An encoder that has not given its first picture yet has not made its file either.
        if opened is not None and opened[1].exists() and opened[1].stat().st_size > VIDEO_FILE_BYTES:
            opened[0].close()
            self._video_files[key] += 1
            opened = None
        chunk, file = divmod(self._video_files[key], FILES_PER_CHUNK)
        if opened is None:
            path = inside(self._folder, VIDEO, video_key=feature, chunk_index=chunk, file_index=file)
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = VideoWriter(path, self._codec, height, width, self._task.rate_hz)
            self._videos[key] = opened = (writer, path)
            self._video_info[feature] = (writer.codec_name, writer.pixel_format)
        writer, sample = opened[0], []
        begin_s = writer.seconds
        for row in range(start, stop):
            picture = viewable(buffer.rows(key, row, row + 1)[0], str(spec.encoding))
            writer.add(picture)
            if (row - start) % _PIXEL_STEP == 0:
                sample.append(picture.reshape(-1, 3) / 255.0)
        found = _statistics(np.concatenate(sample))
        stats[feature] = {
            kind: value if kind == "count" else value.reshape(3, 1, 1) for kind, value in found.items()
        }
        prefix = f"videos/{feature}"
        where = {f"{prefix}/chunk_index": chunk, f"{prefix}/file_index": file}
        return where | {f"{prefix}/from_timestamp": begin_s, f"{prefix}/to_timestamp": writer.seconds}

    def _add_rows(
        self, vectors: dict[str, npt.NDArray[Any]], number: int, length: int, task_index: int
    ) -> dict[str, Any]:
        import pyarrow

        columns = {}
        for name, values in vectors.items():
            flat = pyarrow.array(values.reshape(-1))
            columns[name] = (
                flat if name == TAKEOVER else pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
            )
        frames = np.arange(length)
        columns["timestamp"] = pyarrow.array((frames / self._task.rate_hz).astype(np.float32))
        columns["frame_index"] = pyarrow.array(frames)
        columns["episode_index"] = pyarrow.array(np.full(length, number))
        columns["index"] = pyarrow.array(self.frames + frames)
        columns["task_index"] = pyarrow.array(np.full(length, task_index))
        table = pyarrow.table(columns)
        if self._data is not None and self._data_path.stat().st_size > DATA_FILE_BYTES:
            self._data.close()
            self._data, self._data_file = None, self._data_file + 1
        chunk, file = divmod(self._data_file, FILES_PER_CHUNK)
        if self._data is None:
            self._data_path = inside(self._folder, DATA, chunk_index=chunk, file_index=file)
            self._data_path.parent.mkdir(parents=True, exist_ok=True)
            self._data = parquet().ParquetWriter(self._data_path, table.schema)
        self._data.write_table(table)
        return {"data/chunk_index": chunk, "data/file_index": file}

    def _info(self) -> dict[str, Any]:
        task, fps = self._task, self._task.rate_hz
        features: dict[str, Any] = {}
        for key in self._cameras:
            height, width = task.observations[key].shape[:2]
            codec, pixels = self._video_info[camera_feature(key)]
            info = {
                "video.height": height,
                "video.width": width,
                "video.codec": codec,
                "video.pix_fmt": pixels,
            }
            info |= {"video.is_depth_map": False, "video.fps": fps, "video.channels": 3, "has_audio": False}
            names = ["height", "width", "channels"]
            features[camera_feature(key)] = {
                "dtype": "video",
                "shape": [height, width, 3],
                "names": names,
                "info": info,
            }
        if self._slices:
            names = state_names(task)
            features[STATE] = {"dtype": "float32", "shape": [len(names)], "names": names}
        action = {"dtype": "float32", "shape": [task.action.dim], "names": list(task.action.names)}
        features[ACTION] = action
        if self._takeovers:
            features[TAKEOVER] = {"dtype": "int64", "shape": [1], "names": None}
        features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
        for name in ("frame_index", "episode_index", "index", "task_index"):
            features[name] = {"dtype": "int64", "shape": [1], "names": None}
        return {
            "codebase_version": VERSION,
            "robot_type": task.name,
            "total_episodes": len(self._episodes),
            "total_frames": self.frames,
            "total_tasks": len(self._texts),
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": DATA_FILE_BYTES // 10**6,
            "video_files_size_in_mb": VIDEO_FILE_BYTES // 10**6,
            "fps": int(fps) if float(fps).is_integer() else fps,
            "splits": {"train": f"0:{len(self._episodes)}"},
            "data_path": DATA,
            "video_path": VIDEO if self._cameras else None,
            "features": features,
        }


def _statistics(values: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """Statistics over the rows of (N, dim)."""
    given = values.astype(np.float64)
    found = {kind: getattr(given, kind)(axis=0) for kind in _STATS}
    return {**found, "count": np.array([len(given)])}


def _merged(parts: Sequence[dict[str, npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
    """Statistics of all rows from those of parts of them."""
    counts = np.array([float(part["count"][0]) for part in parts])
    weights = (counts / counts.sum()).reshape(-1, *[1] * parts[0]["mean"].ndim)
    means, deviations = (np.stack([part[kind] for part in parts]) for kind in ("mean", "std"))
    mean = (weights * means).sum(axis=0)
    variance = (weights * (deviations**2 + (means - mean) ** 2)).sum(axis=0)
    return {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": np.array([int(counts.sum())]),
    }
