"""How much room is left where a recording grows: a warning early, an end while there still is room to save."""

from __future__ import annotations

import shutil
from pathlib import Path


class DiskSpace:
    """Room on the disk of a recording.

    Args:
        path: of the recording.
        low_bytes: with less than this a person is warned.
        full_bytes: with less than this nothing more is recorded; what is in memory and the index must still fit.

    Raises:
        ValueError: if there would be no warning before the end.
    """

    def __init__(self, path: Path, low_bytes: int, full_bytes: int) -> None:
        if low_bytes < full_bytes:
            raise ValueError(f"a warning at {low_bytes} bytes would come after the end at {full_bytes}")
        self._path, self._low, self._full = path, low_bytes, full_bytes

    def full(self) -> str:
        """Why nothing more can be recorded, for a person; empty where it can."""
        return self._below(self._full)

    def low(self) -> str:
        """That there is little room left, for a person; empty where there is enough."""
        return self._below(self._low)

    def _below(self, limit: int) -> str:
        try:
            free = self._free(self._path)
        except OSError as error:
            return f"{self._path}: {error.strerror}; nothing can be recorded until it is back, or elsewhere"
        if free >= limit:
            return ""
        return (
            f"{free / 1e6:.0f} MB are left on the disk of {self._path}; make room or record to another disk"
        )

    def _free(self, path: Path) -> int:
        return shutil.disk_usage(path).free
