"""Who may write to a recording: one process at a time, by a lock that the kernel gives back when that process ends.

Easy to get wrong: a recording may be replaced by another while its lock is waited for, so who has the lock looks again
whether what is locked is what lies at the path.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from dp_ros.errors import UserError


class RecordingError(UserError):
    """An episode or a step that cannot be recorded, or a recording that cannot be appended to."""


def lock(path: Path) -> int:
    """Become the only writer of the recording until the returned descriptor is closed or the process ends.

    Raises:
        RecordingError: if another process writes to it.
        OSError: if it cannot be written to.
    """
    while True:
        descriptor = os.open(path / ".zgroup", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                raise
            raise RecordingError(
                f"{path}: another process is recording to it; stop that one or give another file"
            ) from None
        os.close(descriptor)  # of one that has been replaced meanwhile


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only writer of the recording in the block. Raises RecordingError, also where it cannot be written to."""
    try:
        descriptor = lock(path)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be written to: {error}") from error
    try:
        yield
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    return os.path.samestat(os.fstat(descriptor), os.stat(path / ".zgroup"))
