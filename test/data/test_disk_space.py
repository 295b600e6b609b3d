"""Room on the disk of a recording, and what is said where there is none or no recording any more."""

from __future__ import annotations

import shutil
from pathlib import Path

from dp_ros.data.disk_space import DiskSpace


def test_a_recording_that_was_deleted_while_it_is_looked_at_is_said_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    path.mkdir()
    space = DiskSpace(path, low_bytes=2, full_bytes=1)
    assert space.low() == space.full() == ""
    shutil.rmtree(path)
    for said in (space.low(), space.full()):
        assert said.startswith(f"{path}: No such file or directory; nothing can be recorded until it")
