"""Reads a recording: episodes, whole arrays, and a hash of the content.

Any zarr v2 folder, or zip of one, with `data/*` and `meta/episode_ends` can be read, also one that this project did not
write. Easy to get wrong: arrays may be longer than the episodes say, while a recorder writes or after it was
killed; every method here gives committed rows only. And zarr reads a chunk whose file is gone as zeros: what
this project wrote has all of them, so one that is missing is damage and never read.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from dp_ros.data.archive import open_archive
from dp_ros.data.layout import (
    EPISODE_ENDS,
    EPISODE_INFO,
    EPISODE_SEED,
    EPISODE_SUCCESS,
    FORMAT,
    NO_SEED,
    UNMARKED,
    Array,
)
from dp_ros.data.stored_pictures import PictureStorage, Stored, storage_of, stored_rows
from dp_ros.errors import UserError
from dp_ros.task import TaskSpec

_DIGEST_BYTES = 2**24  # read at once while hashing
#: A chunk is read as a whole; the file of somebody else may claim any size.
MAX_CHUNK_BYTES = 2**30


class ReplayBuffer:
    """A recording opened for reading, also while it is written; made by `ReplayBuffer.open`."""

    def __init__(
        self,
        path: Path,
        root: zarr.Group,
        arrays: dict[str, zarr.Array[Any]],
        episode_ends: NDArray[np.int64],
    ) -> None:
        self.path = path
        self._root = root
        self._arrays = arrays
        self._chunks: dict[str, frozenset[str]] = {}
        self.episode_ends = episode_ends
        """Row after the last one of each episode (n_episodes,), int64."""
        for key, array in arrays.items():
            if array.shape[0] < self.n_steps:
                raise UserError(
                    f"{path}: data/{key} has {array.shape[0]} rows but meta/episode_ends says "
                    f"{self.n_steps}; the recording is damaged, restore it from a copy"
                )

    @classmethod
    def open(cls, path: str | Path) -> ReplayBuffer:
        """Open the recording at `path`.

        Raises:
            UserError: if it is not there, is not zarr, or does not have the layout of a recording.
        """
        path = Path(path)
        if path.is_file():
            root = open_archive(path)
        elif not path.is_dir():
            raise UserError(f"{path}: is not there; expected a recording in zarr format, folder or zip")
        elif not (path / ".zgroup").is_file():
            raise UserError(f"{path}: no zarr v2 group (there is no .zgroup); give the folder of a recording")
        try:
            if path.is_dir():
                root = zarr.open_group(str(path), mode="r", zarr_format=2)
            arrays, ends, recorded = {}, np.zeros(0, np.int64), root.get("data")
            if isinstance(recorded, zarr.Group):
                # The index before the rows, which a recorder writes first: it never says more than there is.
                ends = _episode_ends(path, root)
                arrays = dict(sorted(recorded.arrays()))
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError, NotImplementedError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: is not readable as zarr: {error}") from error
        for key, array in arrays.items():
            chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
            if chunk_bytes > MAX_CHUNK_BYTES:
                raise UserError(
                    f"{path}: data/{key} says that a chunk has {chunk_bytes} bytes; a recording's have at most "
                    f"{MAX_CHUNK_BYTES}. Write it again with smaller chunks, if you trust it"
                )
        if not arrays:
            raise UserError(f"{path}: has no arrays under data/; it is not a recording")
        return cls(path, root, arrays, ends)

    @property
    def n_episodes(self) -> int:
        """Number of committed episodes."""
        return len(self.episode_ends)

    @property
    def n_steps(self) -> int:
        """Number of rows in all committed episodes."""
        return int(self.episode_ends[-1]) if len(self.episode_ends) else 0

    @property
    def unfinished_steps(self) -> int:
        """Rows beyond the last episode: being recorded now, or left by a recorder that was killed."""
        return max(array.shape[0] for array in self._arrays.values()) - self.n_steps

    @property
    def stored_bytes(self) -> int:
        """Size on the disk, with what is not committed."""
        files = [self.path] if self.path.is_file() else [p for p in self.path.rglob("*") if p.is_file()]
        return sum(file.stat().st_size for file in files)

    @property
    def attrs(self) -> dict[str, Any]:
        """`task`, `task_digest`, `format` and `format_version`; empty in files of other projects."""
        return dict(self._root.attrs)

    @property
    def task(self) -> TaskSpec | None:
        """The task that was recorded, or None if the file does not say."""
        task = self.attrs.get("task")
        return None if task is None else TaskSpec.from_dict(task, source=f"{self.path} (task)")

    @property
    def episode_seeds(self) -> NDArray[np.int64]:
        """Seed of each episode's start state (n_episodes,); NO_SEED where it had none."""
        return self._of_episodes(EPISODE_SEED, NO_SEED)

    @property
    def episode_success(self) -> NDArray[np.int64]:
        """What the operator said of each episode (n_episodes,): 1 success, 0 failure, UNMARKED."""
        return self._of_episodes(EPISODE_SUCCESS, UNMARKED)

    @property
    def episode_info(self) -> list[dict[str, str]]:
        """Texts about each episode, such as operator, instruction and when it was recorded; empty where unknown."""
        with _damage_said(self.path, "meta"):
            meta = self._root.get("meta")
        known = meta.attrs.get(EPISODE_INFO) if isinstance(meta, zarr.Group) else None
        infos = [
            {str(key): str(value) for key, value in info.items()} if isinstance(info, dict) else {}
            for info in (known if isinstance(known, list) else [])
        ]
        return (infos + [{}] * self.n_episodes)[: self.n_episodes]

    def _of_episodes(self, name: str, unknown: int) -> NDArray[np.int64]:
        """`meta/<name>` for each episode, `unknown` where it says nothing."""
        values = np.full(self.n_episodes, unknown, dtype=np.int64)
        with _damage_said(self.path, f"meta/{name}"):
            array = self._root.get(f"meta/{name}")
            if isinstance(array, zarr.Array):
                known = np.asarray(array[: self.n_episodes], dtype=np.int64)
                values[: len(known)] = known
        return values

    def keys(self) -> list[str]:
        """Names of the recorded arrays, sorted."""
        return list(self._arrays)

    @property
    def cameras(self) -> list[str]:
        """Names of the arrays that hold pictures, sorted."""
        return [key for key, array in self._arrays.items() if array.ndim == 4]

    def encoding(self, camera: str) -> str:
        """Encoding of a camera's pictures; rgb8 where the recording does not say."""
        task = self.task
        return str(task.observations[camera].encoding) if task and camera in task.observations else "rgb8"

    def require_episode(self, index: int) -> None:
        """Raise UserError, saying what there is, if there is no such episode."""
        if not 0 <= index < self.n_episodes:
            raise UserError(f"{self.path}: got episode {index}, it has 0 to {self.n_episodes - 1}")

    def __contains__(self, key: object) -> bool:
        return key in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __getitem__(self, key: str) -> Array:
        """All committed rows of `key` (n_steps, *shape), in memory. Raises UserError if unknown."""
        return self.rows(key, 0, self.n_steps)

    def rows(self, key: str, start: int, stop: int) -> Array:
        """Committed rows `start` to `stop` of `key`, read into memory."""
        if key not in self._arrays:
            raise UserError(f"{self.path}: has no data/{key}; it has {', '.join(self._arrays)}")
        with _damage_said(self.path, f"data/{key}"):
            self.require_chunks(key, start, stop)
            return np.asarray(self._arrays[key][start : min(stop, self.n_steps)])

    @property
    def is_ours(self) -> bool:
        """Whether this project wrote it: every chunk of it is then on the disk, also one of zeros alone."""
        return self.attrs.get("format") == FORMAT

    def missing_chunks(self, key: str, start: int = 0, stop: int | None = None) -> list[tuple[int, int]]:
        """Committed rows (first, after the last) of `key` whose chunk is not stored, looked up and not read.

        zarr gives the fill value for them; other projects may leave chunks of nothing else out.
        """
        array, stop = self._arrays[key], self.n_steps if stop is None else min(stop, self.n_steps)
        length, *others = array.chunks
        further = [range(-(-size // chunk)) for size, chunk in zip(array.shape[1:], others, strict=True)]
        numbers = range(max(start, 0) // length, -(-stop // length))

        def absent() -> list[int]:
            stored = self._chunks.get(key, frozenset())
            names = (
                (n, [array.metadata.encode_chunk_key((n, *rest)) for rest in itertools.product(*further)])
                for n in numbers
            )
            return [n for n, keys in names if not stored.issuperset(keys)]

        if absent():  # looked up before, a recorder may have gone on since
            self._chunks[key] = frozenset(self._stored_names(key))
        return [(n * length, min((n + 1) * length, self.n_steps)) for n in absent()]

    def _stored_names(self, key: str) -> Iterator[str]:
        """Names of the files of `key`, as zarr calls its chunks."""
        if self.path.is_file():
            prefix = f"data/{key}/"
            with zipfile.ZipFile(self.path) as archive:
                names = archive.namelist()
            yield from (name.removeprefix(prefix) for name in names if name.startswith(prefix))
            return
        top = self.path / "data" / key
        for folder, _, files in os.walk(top):
            inside = "" if folder == str(top) else f"{Path(folder).relative_to(top).as_posix()}/"
            yield from (inside + file for file in files)

    def require_chunks(self, key: str, start: int = 0, stop: int | None = None) -> None:
        """Refuse rows of a recording of ours whose chunk is gone: zeros would be read for them.

        Raises:
            UserError: says which rows, and how to get at the others.
        """
        missing = self.missing_chunks(key, start, stop) if self.is_ours else []
        if not missing:
            return
        first, after = missing[0]
        ends = self.episode_ends
        episodes = [int(np.searchsorted(ends, row, side="right")) for row in (first, missing[-1][1] - 1)]
        raise UserError(
            f"{self.path}: data/{key} lacks {len(missing)} chunk(s) of its rows, first that of rows {first} to "
            f"{after - 1}: it was copied or written by half. Restore it from a copy, or leave the episodes concerned "
            f"out ({episodes[0]} to {episodes[1]}): dp-ros data drop {self.path} "
            f"{episodes[0]}:{episodes[1] + 1} --out NEW.zarr"
        )

    def episode(self, index: int) -> dict[str, Array]:
        """All arrays of one episode, each (length, *shape). Raises IndexError as a list does."""
        if not -self.n_episodes <= index < self.n_episodes:
            raise IndexError(f"{self.path}: episode {index} of {self.n_episodes}")
        index %= self.n_episodes
        start = int(self.episode_ends[index - 1]) if index else 0
        return {key: self.rows(key, start, int(self.episode_ends[index])) for key in self._arrays}

    def stored_episode(self, index: int) -> dict[str, Stored]:
        """All arrays of one episode, as `episode` gives them, but encoded pictures as they are stored.

        Raises:
            UserError: if a picture is missing.
        """
        start, stop = int(self.episode_ends[index - 1]) if index else 0, int(self.episode_ends[index])
        with _damage_said(self.path, f"episode {index}"):
            for key in self._arrays:
                self.require_chunks(key, start, stop)
            return {key: stored_rows(array, start, stop) for key, array in self._arrays.items()}

    @property
    def storage(self) -> PictureStorage:
        """How pictures are stored."""
        return storage_of(self._arrays)

    def digest(self) -> str:
        """Hash of names, types, rows and episode boundaries; independent of chunking and compression."""
        content = hashlib.sha256()
        content.update(self.episode_ends.astype("<i8").tobytes())
        for key, array in self._arrays.items():
            dtype = np.dtype(array.dtype).newbyteorder("<")
            content.update(f"{key} {dtype.str} {array.shape[1:]}\n".encode())
            row_bytes = max(1, array.nbytes // max(1, array.shape[0]))
            batch = max(1, _DIGEST_BYTES // row_bytes // array.chunks[0]) * array.chunks[0]
            for start in range(0, self.n_steps, batch):
                rows = np.ascontiguousarray(self.rows(key, start, start + batch), dtype=dtype)
                content.update(rows.data)
        return content.hexdigest()


def _episode_ends(path: Path, root: zarr.Group) -> NDArray[np.int64]:
    """Checked `meta/episode_ends`."""
    with _damage_said(path, f"meta/{EPISODE_ENDS}"):
        array = root.get(f"meta/{EPISODE_ENDS}")
        if not isinstance(array, zarr.Array):
            raise UserError(
                f"{path}: has no meta/{EPISODE_ENDS}; without it nobody can tell the episodes apart. Restore "
                "it from a copy, or write there, as integers, the row after the last one of each episode"
            )
        ends = np.asarray(array[:])
    if ends.ndim != 1 or not np.issubdtype(ends.dtype, np.integer):
        raise UserError(
            f"{path}: meta/{EPISODE_ENDS} has shape {ends.shape} and type {ends.dtype}; "
            "expected a list of integers"
        )
    ends = ends.astype(np.int64)
    falls = np.flatnonzero(np.diff(ends, prepend=0) <= 0)
    if falls.size:
        i = int(falls[0])
        before = int(ends[i - 1]) if i else 0
        raise UserError(
            f"{path}: meta/{EPISODE_ENDS} is not increasing: episode {i} ends at row {int(ends[i])}, "
            f"the one before at {before}; the recording is damaged, restore it from a copy"
        )
    return ends


@contextlib.contextmanager
def _damage_said(path: Path, what: str) -> Iterator[None]:
    """Say which part of a recording cannot be read, whatever the library that reads it raises."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path}: {what} cannot be read: {error}; the recording is damaged, restore it from a copy"
        ) from error
