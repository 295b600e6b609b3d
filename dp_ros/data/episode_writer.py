"""Appends episodes to a recording; each is committed as a whole or is not there at all.

Rows are written and flushed first, `meta/episode_ends` last; the rename of its `.zarray`, which holds the
number of episodes, is the commit. Easy to get wrong: a new episode usually begins in the middle of a chunk
that holds committed rows, so every file is replaced in one step and never written in place. Only one process
can write to a recording. What an operator deletes, and what a recorder that was killed left unfinished, becomes an
episode of another recording beside it, NAME.set_aside.zarr.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import ArrayLike, NDArray

from dp_ros.data.durable_store import PARTIAL, DurableStore
from dp_ros.data.episode_index import index_metadata, write_index, write_info
from dp_ros.data.layout import (
    EPISODE_ENDS,
    EPISODE_SEED,
    EPISODE_SUCCESS,
    FORMAT,
    FORMAT_VERSION,
    NO_SEED,
    TAKEOVER,
    TIMESTAMP,
    UNMARKED,
    Array,
    recorded_arrays,
)
from dp_ros.data.lock import RecordingError, lock
from dp_ros.data.new_recording import create_recording
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.stored_pictures import (
    LOSSLESS,
    Encoded,
    PictureStorage,
    Stored,
    encoding_codecs,
    picture_rows,
    stored_rows,
)
from dp_ros.task import TaskSpec

_FLUSH_BYTES = 2**26  # an episode larger than this goes to the disk while it is being recorded

log = logging.getLogger(__name__)


class EpisodeWriter:
    """Appends episodes to the recording at `path`, which is created if it is not there.

    Use as a context manager, or call `close`; both give up an episode that was not saved. With `takeover`, rows
    also say whether an operator had taken over from a policy (`layout.TAKEOVER`). With `keep_unfinished`, rows that a
    killed recorder left are put into the recording `set_aside_path(path)`; without, they are cut off. Pictures of a new
    recording are stored as `storage` says; one that is there goes on as it is.

    Raises:
        RecordingError: if `path` holds a recording of another task or anything else, or another process
            writes to it.
    """

    def __init__(
        self,
        path: str | Path,
        task: TaskSpec,
        *,
        takeover: bool = False,
        keep_unfinished: bool = True,
        storage: PictureStorage = LOSSLESS,
    ) -> None:
        self.path = Path(path)
        self.task = task
        self.recovered_steps = 0
        """Rows of an unfinished episode that a killed recorder had left and that were cut off on opening."""
        self.set_aside_steps = 0
        """How many of them were complete and are now an episode of `set_aside_path(path)`."""
        self._spec = recorded_arrays(task, takeover)
        self._ends = self._seeds = self._successes = np.empty(0, np.int64)
        self._infos: list[dict[str, str]] = []
        self._rows: list[dict[str, Array | Encoded]] = []  # accepted, not yet in the arrays
        self._rows_bytes = 0
        self._written = 0  # rows of the episode in progress that are in the arrays
        self._commit_uncertain = False  # a save was interrupted, perhaps after its last write
        self._lock: int | None = None
        if self.path.is_file():
            raise RecordingError(
                f"{self.path}: is a file, episodes are added to folders; take one out of a zip with "
                "`dp-ros data split FILE : --out NEW.zarr`"
            )
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            try:
                create_recording(self.path, task, self._spec, storage)
            except OSError as error:
                raise RecordingError(f"{self.path}: cannot be created: {error}") from error
        buffer = ReplayBuffer.open(self.path)
        self._check_same_task(buffer)
        self._read_index(buffer)
        try:
            self._lock = lock(self.path)
            buffer = ReplayBuffer.open(self.path)  # again: another writer may have ended since
            self._read_index(buffer)
            self._store = DurableStore(self.path)
            self._data = _open_for_writing(self._store)
            codecs = encoding_codecs(self._data)
            self._pictures = {key: picture_rows(codec) for key, codec in codecs.items()}
            for leftover in self.path.rglob(f".*{PARTIAL}"):
                leftover.unlink(missing_ok=True)
            self.recovered_steps = buffer.unfinished_steps
            if self.recovered_steps:
                if keep_unfinished:
                    self.set_aside_steps = self._keep_unfinished()
                log.warning("%s: %s", self.path, self.recovery)
                self._cut_back()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise RecordingError(
                    f"{self.path}: cannot be written to: {error}; what is committed can still be read"
                ) from error
            raise

    @property
    def recovery(self) -> str:
        """What a killed recorder had left and where it is now, for a person; empty if nothing."""
        if not self.recovered_steps:
            return ""
        text = f"{self.recovered_steps} steps of an episode that was never saved were cut off"
        kept = set_aside_path(self.path)
        return text + (f"; {self.set_aside_steps} of them are in {kept}" if self.set_aside_steps else "")

    @property
    def n_episodes(self) -> int:
        """Committed episodes."""
        return len(self._ends)

    @property
    def n_rows(self) -> int:
        """Steps of all committed episodes."""
        return self._committed_rows

    @property
    def episode_seeds(self) -> NDArray[np.int64]:
        """Seed of each committed episode; NO_SEED where it had none."""
        return self._seeds.copy()

    @property
    def n_steps(self) -> int:
        """Steps added to the episode in progress."""
        return self._written + len(self._rows)

    def add(self, step: Mapping[str, ArrayLike | Encoded]) -> None:
        """Add one step to the episode in progress.

        Args:
            step: one value for every observation stream of the task, `action`, and `timestamp` in seconds since the
                episode's first step. A picture may be given as it is stored in another recording.

        Raises:
            RecordingError: if a key is missing or unknown, a shape or type differs from the task's, or a number is
                not finite. The episode in progress is as before.
        """
        self._open_or_raise()
        if set(step) != set(self._spec):
            missing, unknown = sorted(set(self._spec) - set(step)), sorted(set(step) - set(self._spec))
            raise RecordingError(
                f"step {self.n_steps}: expected {', '.join(sorted(self._spec))}"
                + (f"; missing {', '.join(missing)}" if missing else "")
                + (f"; unknown {', '.join(unknown)}" if unknown else "")
            )
        # Pictures are encoded when nothing can be refused any more: one of a video follows from those before it.
        checked = {key: self._checked(key, step[key]) for key in self._spec}
        row = self._committed_rows + self.n_steps
        self._rows.append({key: self._encoded(key, value, row) for key, value in checked.items()})
        self._rows_bytes += sum(value.nbytes for value in self._rows[-1].values())
        if self._rows_bytes >= _FLUSH_BYTES:
            try:
                with self._writing():
                    self._flush()
            except OSError as error:
                raise RecordingError(
                    f"{self.path}: step not written: {error}; the episode is kept"
                ) from error

    def save(
        self, seed: int = NO_SEED, *, success: bool | None = None, info: Mapping[str, str] | None = None
    ) -> int:
        """Commit the episode in progress and return its index.

        Args:
            seed: of the episode's start state, where there is one; kept in `meta/episode_seed`.
            success: what the operator said of it, kept in `meta/episode_success`.
            info: texts about it, such as operator and instruction; kept among the attributes of `meta`.

        Raises:
            RecordingError: if no step was added, or the disk refused (the episode then stays in progress).
        """
        self._open_or_raise()
        if not self.n_steps:
            raise RecordingError(f"{self.path}: nothing to save, no step was recorded")
        ends = np.append(self._ends, self._committed_rows + self.n_steps)
        seeds = np.append(self._seeds, seed)
        successes = np.append(self._successes, UNMARKED if success is None else int(success))
        infos = [*self._infos, dict(info or {})]
        try:
            with self._writing():
                self._commit_uncertain = True
                self._flush()
                self._store.sync()
                write_info(self._store, self.path, infos)
                write_index(self._store, self.path, EPISODE_SEED, seeds)
                write_index(self._store, self.path, EPISODE_SUCCESS, successes)
                write_index(self._store, self.path, EPISODE_ENDS, ends)
        except OSError as error:
            raise RecordingError(
                f"{self.path}: not saved: {error}; the episode is kept, save again"
            ) from error
        self._commit_uncertain = False
        self._ends, self._seeds, self._successes, self._infos = ends, seeds, successes, infos
        self._written = 0
        self._restart_pictures()
        return self.n_episodes - 1

    def delete_last(self) -> int:
        """Take the last committed episode out and return its index; it is kept in `set_aside_path(path)`.

        Raises:
            RecordingError: if there is none, one is in progress, or the disk refused (nothing is lost then).
        """
        self._open_or_raise()
        if self.n_steps:
            raise RecordingError(
                f"{self.path}: {self.n_steps} steps are in progress; save or discard them first"
            )
        if not self.n_episodes:
            raise RecordingError(f"{self.path}: no episode is there to delete")
        index = self.n_episodes - 1
        try:
            episode = ReplayBuffer.open(self.path).stored_episode(index)
            self._set_aside(
                episode,
                {**self._infos[index], "set_aside": "deleted"},
                seed=int(self._seeds[index]),
                success=int(self._successes[index]),
            )
            with self._writing():
                write_index(self._store, self.path, EPISODE_ENDS, self._ends[:index])
                self._ends, self._seeds = self._ends[:index], self._seeds[:index]
                self._successes, self._infos = self._successes[:index], self._infos[:index]
                self._cut_back()
        except OSError as error:
            raise RecordingError(f"{self.path}: episode {index} could not be deleted: {error}") from error
        return index

    def discard(self) -> int:
        """Forget the episode in progress; returns how many steps it had."""
        steps = self.n_steps
        self._clear_rows()
        self._restart_pictures()
        with self._writing():
            if self._commit_uncertain:
                write_index(self._store, self.path, EPISODE_ENDS, self._ends)
            if self._written or self._commit_uncertain:
                self._cut_back()
        return steps

    def close(self) -> None:
        """Give up the episode in progress and let other processes write to the recording."""
        if self._lock is None:
            return
        try:
            # A save that was interrupted after its last write has been seen by readers: it stands.
            saved = index_metadata(self.path, EPISODE_ENDS)["shape"][0] > self.n_episodes
            if not saved and (self.n_steps or self._commit_uncertain):
                self.discard()
        except OSError as error:
            log.warning("%s: what was not saved is cut off when it is opened again: %s", self.path, error)
        finally:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_index(self, buffer: ReplayBuffer) -> None:
        self._ends, self._seeds = buffer.episode_ends, buffer.episode_seeds
        self._successes, self._infos = buffer.episode_success, buffer.episode_info

    def _keep_unfinished(self) -> int:
        """Put what a killed recorder left into the recording beside this one; returns how many steps."""
        try:
            return self._set_aside(self._unfinished(), {"set_aside": "unfinished"})
        except RecordingError as error:
            raise RecordingError(
                f"{self.path}: {self.recovered_steps} steps that a killed recorder left cannot be put aside "
                f"({error}); make room there and start again, nothing was changed"
            ) from error

    def _unfinished(self) -> dict[str, Stored]:
        """Rows beyond the committed ones that a killed recorder had written in full, oldest first.

        Timestamps are written last, so a row whose timestamp is there is there altogether.
        """
        start = self._committed_rows
        stop = min(array.shape[0] for array in self._data.values())
        try:
            times = np.asarray(self._data[TIMESTAMP][start:stop], dtype=np.float64)
            later = np.flatnonzero(~(np.diff(times) > 0.0))
            stop = start + (int(later[0]) + 1 if later.size else len(times))
            return {key: stored_rows(array, start, stop) for key, array in self._data.items()}
        except (OSError, ValueError, RuntimeError) as error:
            log.warning("%s: what was left unfinished cannot be read: %s", self.path, error)
            return {}

    def _set_aside(
        self,
        episode: Mapping[str, Stored],
        info: Mapping[str, str],
        *,
        seed: int = NO_SEED,
        success: int = UNMARKED,
    ) -> int:
        """Append rows to the recording beside this one; returns how many there were. Raises RecordingError."""
        rows = len(episode[TIMESTAMP]) if episode else 0
        if not rows:
            return 0
        with EpisodeWriter(
            set_aside_path(self.path),
            self.task,
            takeover=TAKEOVER in self._spec,
            keep_unfinished=False,
            storage=ReplayBuffer.open(self.path).storage,
        ) as aside:
            for row in range(rows):
                aside.add({key: values[row] for key, values in episode.items()})
            aside.save(seed, success=None if success == UNMARKED else bool(success), info=info)
        return rows

    @property
    def _committed_rows(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Give up the store when writing to it fails, and begin with a new one after that."""
        if self._store.abandoned:
            self._store = DurableStore(self.path)
            self._data = _open_for_writing(self._store)
        try:
            yield
        except BaseException:
            self._store.abandon()
            raise

    def _open_or_raise(self) -> None:
        if self._lock is None:
            raise RecordingError(f"{self.path}: the writer is closed")

    def _encoded(self, key: str, value: Array | Encoded, row: int) -> Array | Encoded:
        if key not in self._pictures or not isinstance(value, np.ndarray):
            return value
        return self._pictures[key].encode(value, row)

    def _checked(self, key: str, value: ArrayLike | Encoded) -> Array | Encoded:
        """A private copy of `value` in the type that is recorded. Raises RecordingError."""
        shape, dtype = self._spec[key]
        where = f"step {self.n_steps}: {key}"
        if isinstance(value, Encoded):
            if key in self._pictures and self._pictures[key].takes(value):
                return value
            value = value.decoded()
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise RecordingError(f"{where}: {error}") from None
        if array.shape != shape:
            raise RecordingError(f"{where}: got shape {array.shape}, the task says {shape}")
        if not np.can_cast(array.dtype, dtype, casting="same_kind"):
            raise RecordingError(f"{where}: got type {array.dtype}, expected {dtype}")
        if dtype.kind != "f" and array.dtype != dtype:
            raise RecordingError(f"{where}: got type {array.dtype}, expected {dtype}")
        if dtype.kind == "f":
            bad = np.flatnonzero(~np.isfinite(array))
            if bad.size:
                first = int(bad[0])
                raise RecordingError(f"{where}: value {first} is {array.flat[first]}, not a finite number")
        return np.array(array, dtype=dtype, order="C")

    def _flush(self) -> None:
        """Write the rows accepted so far behind the committed ones. Can be repeated when the disk refused."""
        rows, start = len(self._rows), self._committed_rows + self._written
        for key, array in sorted(self._data.items(), key=lambda item: item[0] == TIMESTAMP):
            if not rows:
                break
            array.resize((start + rows, *array.shape[1:]))
            values = [row[key] for row in self._rows]
            if key in self._pictures:
                self._pictures[key].write(self._store, f"data/{key}", start, values)
            else:
                array[start:] = np.stack([np.asarray(value) for value in values])
        self._written += rows
        self._clear_rows()

    def _clear_rows(self) -> None:
        self._rows.clear()
        self._rows_bytes = 0

    def _restart_pictures(self) -> None:
        for pictures in self._pictures.values():
            pictures.restart()

    def _cut_back(self) -> None:
        """Shorten every array to the committed rows."""
        for array in self._data.values():
            array.resize((self._committed_rows, *array.shape[1:]))
        self._store.sync()
        self._written, self._commit_uncertain = 0, False

    def _check_same_task(self, buffer: ReplayBuffer) -> None:
        attrs = buffer.attrs
        if attrs.get("format") != FORMAT or attrs.get("format_version") != FORMAT_VERSION:
            raise RecordingError(
                f"{self.path}: cannot be appended to: it says format {attrs.get('format')}, "
                f"version {attrs.get('format_version')}, expected {FORMAT}, version {FORMAT_VERSION}; "
                "give another file"
            )
        if attrs.get("task_digest") != self.task.digest():
            other = attrs.get("task", {})
            differing = [
                key
                for key, value in self.task.model_dump(mode="json", exclude={"description"}).items()
                if other.get(key) != value
            ]
            raise RecordingError(
                f"{self.path}: holds episodes of task {other.get('name')} ({attrs.get('task_digest')}), "
                f"not of {self.task.name} ({self.task.digest()}): {', '.join(differing)} differ; "
                "nothing was written, give another file"
            )
        unequal = set(buffer.keys()) ^ set(self._spec)
        if unequal == {TAKEOVER}:
            kinds = "demonstrations, not runs in which an operator may take over"
            if TAKEOVER in buffer:
                kinds = "runs in which an operator may take over, not demonstrations"
            raise RecordingError(f"{self.path}: holds {kinds}; nothing was written, give another file")
        if unequal:
            names = ", ".join(sorted(unequal))
            raise RecordingError(f"{self.path}: damaged, data/ should not lack or have {names}")


def set_aside_path(path: Path) -> Path:
    """Where what was deleted from, or left unfinished in, the recording `path` is kept."""
    return path.with_name(f"{path.stem}.set_aside{path.suffix}")


def _open_for_writing(store: DurableStore) -> dict[str, zarr.Array[Any]]:
    # Chunks of zeros are written like others: what is on the disk then does not depend on the values.
    with zarr.config.set({"array.write_empty_chunks": True}):
        data = zarr.open_group(store, mode="r+", path="data", zarr_format=2)
        return dict(data.arrays())
