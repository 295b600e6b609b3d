"""Writes files so that a kill or a power cut leaves each of them old or new, never half.

zarr's own local store renames complete files into place but never flushes them to the disk; this one does.
Easy to get wrong: a renamed file survives a power cut only when its folder was flushed too, which `sync` does
for all at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from dp_ros.errors import UserError

#: Ending of files that are being written; a killed process leaves at most one of each that nobody reads.
PARTIAL = ".partial"


class DurableStore(LocalStore):
    """A zarr store on the local disk whose writes are atomic and, after `sync`, permanent."""

    def __init__(self, root: Path | str, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._unsynced: set[Path] = set()
        self._state = threading.Condition()
        self._in_flight = 0
        self.abandoned = False

    async def set(self, key: str, value: Buffer) -> None:
        """Replace the file of `key`; the call zarr makes for every chunk and every piece of metadata."""
        self._check_writable()
        await asyncio.to_thread(self.write, key, value.to_bytes())

    async def delete(self, key: str) -> None:
        """Remove the file of `key`."""
        with self._writing():
            await super().delete(key)

    def write(self, key: str, content: bytes) -> None:
        """Replace the file of `key` by `content`."""
        path = self.root / key
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, content)
            self._unsynced.add(path.parent)

    def abandon(self) -> None:
        """Refuse all further writes and wait for those under way.

        When one write fails, zarr reports it and leaves its other writes running; they must not land
        on top of a later attempt.
        """
        with self._state:
            self.abandoned = True
            self._state.wait_for(lambda: self._in_flight == 0)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with self._state:
            if self.abandoned:
                raise OSError("an earlier write failed")
            self._in_flight += 1
        try:
            yield
        finally:
            with self._state:
                self._in_flight -= 1
                self._state.notify_all()

    def sync(self) -> None:
        """Flush every folder written to since the last call, so that its new files survive a power cut."""
        for folder in sorted(self._unsynced):
            sync_folder(folder)
        self._unsynced.clear()


def write_file(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step, flushed; its folder is left to `sync_folder`."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sync_folder(path: Path) -> None:
    """Flush the list of names in folder `path`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Flush every file and folder below `path`, and `path` itself."""
    for folder, _, names in os.walk(path):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(folder))


@contextlib.contextmanager
def complete_or_absent(out: Path) -> Iterator[Path]:
    """A path to make a folder or file at, which becomes `out` when the block ends, and is removed if it fails.

    Raises:
        UserError: if `out` is there already, or the disk refuses; nothing is left then.
    """
    if out.exists():
        raise UserError(f"{out}: is there already; give another name")
    draft = out.with_name(f".{out.name}.{uuid.uuid4().hex}.part")
    try:
        yield draft
        os.rename(draft, out)
        sync_folder(out.parent)
    except BaseException as error:
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        elif draft.exists():
            draft.unlink()
        if isinstance(error, OSError):
            raise UserError(f"{out}: cannot be written: {error}; nothing was changed") from error
        raise
