"""How much room is left where a recording grows: a warning early, an end while there still is room to save."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

Level = Literal["enough", "low", "full"]


class DiskSpace:
    """Room on the disk of a recording.

    Args:
        path: of the recording.
        low_bytes: with less than this a person is warned.
        full_bytes: with less than this nothing more is recorded; what is in memory and the index must still fit.
        free: gives the free bytes; for tests.

    Raises:
        ValueError: if there would be no warning before the end.
    """

    def __init__(
        self, path: Path, low_bytes: int, full_bytes: int, free: Callable[[Path], int] | None = None
    ) -> None:
        if low_bytes < full_bytes:
            raise ValueError(f"a warning at {low_bytes} bytes would come after the end at {full_bytes}")
        self._path, self._low, self._full = path, low_bytes, full_bytes
        self._free = free or (lambda place: shutil.disk_usage(place).free)

    def level(self) -> Level:
        """Whether there is enough."""
        free = self._free(self._path)
        return "full" if free < self._full else "low" if free < self._low else "enough"

    def message(self) -> str:
        """How much is left and what to do, for a person; empty where there is enough."""
        if self.level() == "enough":
            return ""
        free_mb = self._free(self._path) / 1e6
        return f"{free_mb:.0f} MB are left on the disk of {self._path}; make room or record to another disk"
