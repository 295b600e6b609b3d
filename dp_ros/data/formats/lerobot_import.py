"""LeRobot data sets, version 3.0, as recordings of a task.

Features are found by the names under which `lerobot_export` writes them, by a few that public data sets use, or as a
person maps them. Easy to get wrong: a data set comes from anywhere, so every size, path and type that it states is
checked before anything is read by it, and its rate must be the task's, because actions mean something at one rate only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dp_ros.data.durable_store import complete_or_absent
from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.data.formats.lerobot_layout import (
    ACTION,
    DATA,
    INFO,
    OURS,
    STATE,
    TAKEOVER,
    VERSION,
    VIDEO,
    camera_feature,
    inside,
    parquet,
    state_slices,
)
from dp_ros.data.formats.video import read_frames
from dp_ros.data.layout import NO_SEED, UNMARKED
from dp_ros.errors import UserError
from dp_ros.task import ObservationSpec, TaskSpec

#: Rows of one episode, at most: a day at 30 Hz is 2.6 million.
MAX_ROWS = 10**6
_MAX_TEXT_BYTES = 2**26


@dataclass(frozen=True)
class _Source:
    """Where a stream's values are: a feature, and which of its values."""

    feature: str
    part: slice


def import_dataset(
    source: Path,
    task: TaskSpec,
    out: Path,
    progress: Callable[[], None],
    *,
    names: Mapping[str, str] | None = None,
) -> str:
    """Make a recording of a data set.

    Args:
        source: folder of the data set.
        task: streams, their shapes, and the rate.
        out: the recording to make.
        progress: called after each episode.
        names: stream of the task, or action, to feature of the data set.

    Returns:
        What was done, for a person.

    Raises:
        UserError: if it is no data set of version 3.0, does not fit the task or is damaged; nothing is written then.
    """
    dataset = _Dataset(source, task, names or {})
    with (
        complete_or_absent(out) as draft,
        EpisodeWriter(draft, task, takeover=dataset.takeovers) as writer,
    ):
        for number, episode in enumerate(dataset.episodes()):
            for row in dataset.rows(episode):
                writer.add(row)
            seed, success, info = dataset.said_of(number, episode)
            writer.save(seed, success=success, info=info)
            progress()
        if not writer.n_episodes:
            raise UserError(f"{source}: holds no episode")
        return f"{writer.n_episodes} episodes, {writer.n_rows} steps"


class _Dataset:
    def __init__(self, folder: Path, task: TaskSpec, names: Mapping[str, str]) -> None:
        self._folder, self._task = folder, task
        self._info = _read_json(folder / INFO)
        version = self._info.get("codebase_version")
        if version != VERSION:
            raise UserError(
                f"{folder}: is of version {version}, expected {VERSION}; LeRobot's convert_dataset_v21_to_v30 converts "
                "older ones"
            )
        features = self._info.get("features")
        if not isinstance(features, dict) or not all(isinstance(f, dict) for f in features.values()):
            raise UserError(f"{folder}: {INFO} lists no features")
        self._features: dict[str, dict[str, Any]] = features
        fps = self._info.get("fps")
        if not isinstance(fps, int | float) or abs(float(fps) - task.rate_hz) > 1e-6 * task.rate_hz:
            raise UserError(
                f"{folder}: has {fps} frames a second, task {task.name} has {task.rate_hz:g}; a policy's actions mean "
                f"something at one rate only, so set the task's rate_hz to {fps}"
            )
        self._sources = {key: self._source(key, spec, names) for key, spec in task.observations.items()}
        self._action = _Source(names.get("action", ACTION), slice(0, task.action.dim))
        self._require("action", self._action, task.action.dim)
        if unknown := set(names) - set(task.observations) - {"action"}:
            raise UserError(
                f"--map: {', '.join(sorted(unknown))} is no stream of task {task.name}; it has "
                f"{', '.join(task.observations)} and action"
            )
        self.takeovers = TAKEOVER in self._features
        self._ours: list[Any] = []
        if (folder / OURS).is_file():
            said = _read_json(folder / OURS).get("episodes")
            self._ours = said if isinstance(said, list) else []

    def _source(self, key: str, spec: ObservationSpec, names: Mapping[str, str]) -> _Source:
        if spec.is_image:
            known = (camera_feature(key), f"observation.{key}", "observation.image")
            feature = names.get(key) or next((name for name in known if name in self._features), known[0])
            self._require_camera(key, feature, spec)
            return _Source(feature, slice(None))
        slices = state_slices(self._task)
        feature = names.get(key) or next((n for n in (f"observation.{key}",) if n in self._features), STATE)
        part = slices[key] if feature == STATE and key not in names else slice(0, spec.dim)
        source = _Source(feature, part)
        total = max(s.stop for s in slices.values()) if feature == STATE and key not in names else spec.dim
        self._require(key, source, total)
        return source

    def _known(self, key: str, feature: str) -> dict[str, Any]:
        if feature not in self._features:
            held = ", ".join(f"{n} {f.get('shape')}" for n, f in self._features.items())
            raise UserError(
                f"{self._folder}: has no {feature} for {key} of task {self._task.name}; it has {held}. Say which is "
                f"which with --map {key}=FEATURE"
            )
        return self._features[feature]

    def _require(self, key: str, source: _Source, dim: int) -> None:
        found = self._known(key, source.feature)
        if found.get("shape") != [dim]:
            raise UserError(
                f"{self._folder}: {source.feature} has shape {found.get('shape')}, for {key} of task "
                f"{self._task.name} it should be [{dim}]"
            )

    def _require_camera(self, key: str, feature: str, spec: ObservationSpec) -> None:
        found = self._known(key, feature)
        if found.get("dtype") not in ("video", "image"):
            raise UserError(f"{self._folder}: {feature} is {found.get('dtype')}, {key} is a camera")
        shape = found.get("shape")
        if shape not in (list(spec.shape), [spec.shape[2], *spec.shape[:2]]) and spec.resize is None:
            raise UserError(
                f"{self._folder}: {feature} has pictures of {shape}, task {self._task.name} says {list(spec.shape)}; "
                f"set resize: {list(spec.shape[:2])} in the task to have them scaled"
            )

    def episodes(self) -> Iterator[dict[str, Any]]:
        """What `meta/episodes` says of each."""
        folder = self._folder / "meta" / "episodes"
        files = sorted(folder.glob("chunk-*/file-*.parquet"))
        if not files:
            raise UserError(
                f"{self._folder}: has no {folder.relative_to(self._folder)}/chunk-*/file-*.parquet"
            )
        for path in files:
            with _damage_said(path) as opened:
                wanted = [n for n in opened.schema_arrow.names if not n.startswith("stats/")]
                tables = [opened.read_row_group(k, columns=wanted) for k in range(opened.num_row_groups)]
            for table in tables:
                yield from table.to_pylist()

    def rows(self, episode: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Rows of an episode as a recording has them."""
        length = self._number(episode, "length", MAX_ROWS)
        where = {name: self._number(episode, f"data/{name}") for name in ("chunk_index", "file_index")}
        path = inside(self._folder, str(self._info.get("data_path", DATA)), **where)
        columns = self._columns(path, self._number(episode, "episode_index"), length)
        cameras = {
            key: self._pictures(episode, key, source.feature, length, columns)
            for key, source in self._sources.items()
            if self._task.observations[key].is_image
        }
        for k in range(length):
            row: dict[str, Any] = {
                "timestamp": k / self._task.rate_hz,
                ACTION: columns[self._action.feature][k],
            }
            for key, source in self._sources.items():
                spec = self._task.observations[key]
                if spec.is_image:
                    row[key] = self._fitted(next(cameras[key]), key, spec)
                else:
                    row[key] = columns[source.feature][k][source.part].reshape(spec.shape)
            if self.takeovers:
                row[TAKEOVER] = np.uint8(columns[TAKEOVER][k][0] != 0)
            yield row

    def said_of(self, number: int, episode: Mapping[str, Any]) -> tuple[int, bool | None, dict[str, str]]:
        """Seed, success and texts of an episode."""
        texts = episode.get("tasks")
        info = {"instruction": str(texts[0])} if isinstance(texts, list) and texts else {}
        said = self._ours[number] if number < len(self._ours) else None
        if not isinstance(said, dict):
            return NO_SEED, None, info
        seed, success, kept = said.get("seed"), said.get("success"), said.get("info")
        if isinstance(kept, dict):
            info = {str(name): str(text) for name, text in kept.items()}
        return (
            seed if type(seed) is int and abs(seed) < 2**62 else NO_SEED,
            None if success in (None, UNMARKED) else bool(success),
            info,
        )

    def _columns(self, path: Path, number: int, length: int) -> dict[str, npt.NDArray[Any]]:
        """Values (length, dim) of the features that are needed, of one episode; pictures stay as they are stored."""
        cameras = {s.feature for k, s in self._sources.items() if self._task.observations[k].is_image}
        stored = {name for name in cameras if self._features[name].get("dtype") == "image"}
        vectors = {s.feature for k, s in self._sources.items() if s.feature not in cameras} | {
            self._action.feature
        }
        vectors |= {TAKEOVER} if self.takeovers else set()
        wanted = ["episode_index", *sorted(vectors | stored)]
        found: dict[str, list[Any]] = {name: [] for name in wanted}
        with _damage_said(path) as opened:
            missing = set(wanted) - set(opened.schema_arrow.names)
            if missing:
                raise UserError(f"{path}: lacks {', '.join(sorted(missing))}")
            if any(opened.metadata.row_group(k).num_rows > MAX_ROWS for k in range(opened.num_row_groups)):
                raise UserError(f"{path}: claims to have more than {MAX_ROWS} rows in a group")
            schema = opened.metadata.schema  # a column of pictures has several leaves
            at = next(k for k in range(len(schema)) if schema.column(k).path == "episode_index")
            for group in range(opened.num_row_groups):
                known = opened.metadata.row_group(group).column(at).statistics
                if known is not None and known.has_min_max and not known.min <= number <= known.max:
                    continue
                numbers = opened.read_row_group(group, columns=["episode_index"]).column(0).to_pylist()
                chosen = [k for k, value in enumerate(numbers) if value == number]
                if not chosen:
                    continue
                table = opened.read_row_group(group, columns=wanted).take(chosen)
                for name in wanted:
                    found[name] += table.column(name).to_pylist()
        if len(found["episode_index"]) != length:
            raise UserError(
                f"{path}: episode {number} has {len(found['episode_index'])} rows, meta/episodes says {length}"
            )
        columns: dict[str, Any] = {name: found[name] for name in stored}
        for name in vectors:
            try:
                values = np.array(found[name], dtype=np.float32).reshape(length, -1)
            except (ValueError, TypeError, OverflowError) as error:
                raise UserError(f"{path}: {name} of episode {number}: {error}") from None
            if values.shape[1] != int(np.prod(self._features[name].get("shape") or [1])):
                raise UserError(
                    f"{path}: {name} has {values.shape[1]} values, {INFO} says {self._features[name].get('shape')}"
                )
            columns[name] = values
        return columns

    def _pictures(
        self, episode: Mapping[str, Any], key: str, feature: str, length: int, columns: Mapping[str, Any]
    ) -> Iterator[npt.NDArray[np.uint8]]:
        """RGB pictures of a camera."""
        if self._features[feature].get("dtype") == "image":
            return (_stored_picture(stored, f"{self._folder}: {feature}") for stored in columns[feature])
        prefix = f"videos/{feature}"
        where = {name: self._number(episode, f"{prefix}/{name}") for name in ("chunk_index", "file_index")}
        template = str(self._info.get("video_path") or VIDEO)
        path = inside(self._folder, template, video_key=feature, **where)
        if not path.is_file():
            raise UserError(f"{path}: is not there")
        from_s = episode.get(f"{prefix}/from_timestamp")
        if not isinstance(from_s, int | float) or not 0 <= from_s < 1e9:
            raise UserError(f"{self._folder}: {prefix}/from_timestamp of an episode is {from_s!r}")
        return read_frames(path, float(from_s), length, self._task.rate_hz)

    def _fitted(self, picture: npt.NDArray[np.uint8], key: str, spec: ObservationSpec) -> npt.NDArray[Any]:
        """An RGB picture as the task's stream records it."""
        height, width, channels = spec.shape
        if picture.shape[:2] != (height, width):
            if spec.resize is None:
                raise UserError(
                    f"{self._folder}: {key} has a picture of {picture.shape[0]}x{picture.shape[1]}, expected "
                    f"{height}x{width}"
                )
            picture = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        encoding = str(spec.encoding)
        if channels == 1 and encoding in ("mono8", "8UC1"):
            return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)[..., None]
        if channels != 3 or encoding not in ("rgb8", "bgr8"):
            raise UserError(f"{key}: pictures of a data set are colours, {encoding} cannot be made of them")
        return np.ascontiguousarray(picture[..., ::-1] if encoding == "bgr8" else picture)

    def _number(self, episode: Mapping[str, Any], name: str, most: int = 2**31) -> int:
        value = episode.get(name)
        if type(value) is not int or not 0 <= value <= most:
            raise UserError(f"{self._folder}: meta/episodes says {name} {value!r}, expected 0 to {most}")
        return value


class _damage_said:  # noqa: N801  reads like the function that it is
    """Opens a parquet file; whatever its library raises becomes a UserError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Any:
        if not self._path.is_file():
            raise UserError(f"{self._path}: is not there; the data set is incomplete")
        try:
            self._file = parquet().ParquetFile(self._path)
        except (OSError, ValueError, TypeError, KeyError) as error:  # pyarrow's own errors are ValueErrors
            raise UserError(f"{self._path}: cannot be read as parquet: {error}") from error
        return self._file

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._file.close()
        if isinstance(error, OSError | ValueError | TypeError | KeyError | IndexError) and not isinstance(
            error, UserError
        ):
            raise UserError(f"{self._path}: cannot be read: {error}; the file is damaged") from error


def _stored_picture(stored: Any, where: str) -> npt.NDArray[np.uint8]:
    content = stored.get("bytes") if isinstance(stored, dict) else None
    pixels = None
    if isinstance(content, bytes) and content:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise UserError(f"{where}: holds something that is not a picture")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: is not there; expected the folder of a LeRobot data set, version 3.0")
    if path.stat().st_size > _MAX_TEXT_BYTES:
        raise UserError(f"{path}: has {path.stat().st_size} bytes, which no data set needs")
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not isinstance(said, dict):
        raise UserError(f"{path}: expected a JSON object")
    return said
