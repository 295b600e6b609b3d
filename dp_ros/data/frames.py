"""Pictures of a recording as one array that training can take any rows of at once.

A recording holds pictures in compressed chunks of a few rows; a batch of random windows would unpack a chunk for
almost every picture. What fits the memory that is given for it is unpacked once into memory, the rest once into a
file beside the recording, which is mapped into memory and named after the recording's content. Easy to get wrong:
such a file belongs to one content; when episodes are added a new one is made and the old one goes.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.errors import UserError

_ROWS_BYTES = 2**26  # unpacked at once


def unpacked_bytes(buffer: ReplayBuffer, key: str) -> int:
    """Size of all committed rows of `key`."""
    first = buffer.rows(key, 0, 1)
    return buffer.n_steps * math.prod(first.shape[1:]) * first.dtype.itemsize


def map_frames(buffer: ReplayBuffer, key: str, digest: str) -> NDArray[Any]:
    """Rows (n_steps, *shape) of `key`, read-only, mapped from a file beside the recording that is made if needed.

    Raises:
        UserError: if the file cannot be written.
    """
    prefix = f".{buffer.path.name}.{key}."
    folder = buffer.path.resolve().parent
    path = folder / f"{prefix}{digest[:16]}.npy"
    if not path.exists():
        unfinished = folder / f"{prefix}{os.getpid()}.unfinished"
        try:
            _unpack(buffer, key, unfinished)
            unfinished.replace(path)
        except OSError as error:
            size_gb = unpacked_bytes(buffer, key) / 1e9
            raise UserError(
                f"{path}: cannot be written ({error.strerror}); training reads pictures from it, unpacked, "
                f"{size_gb:.1f} GB. Make room there, or copy the recording to a folder that can be written"
            ) from error
        finally:
            unfinished.unlink(missing_ok=True)
        for old in folder.glob(f"{prefix}*.npy"):
            if old != path:
                old.unlink(missing_ok=True)  # who has it mapped keeps it
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def _unpack(buffer: ReplayBuffer, key: str, path: Path) -> None:
    first = buffer.rows(key, 0, 1)
    shape = (buffer.n_steps, *first.shape[1:])
    rows = max(1, _ROWS_BYTES // max(1, first.nbytes))
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
        for start in range(0, buffer.n_steps, rows):
            file.write(np.ascontiguousarray(buffer.rows(key, start, start + rows)).data)
        file.flush()
        os.fsync(file.fileno())
