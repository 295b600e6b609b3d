"""Recordings on a real file system that is full or read-only, one that only the test's own process sees."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALONE = ["unshare", "--user", "--map-root-user", "--mount"]


def _can_mount(folder: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    mount = [*ALONE, "mount", "-t", "tmpfs", "none", str(folder)]
    return subprocess.run(mount, capture_output=True, timeout=20).returncode == 0


@pytest.mark.parametrize(
    "scenario",
    ["full_while_saving", "full_while_recording", "full_when_starting", "full_while_copying", "read_only"],
)
def test_no_committed_episode_is_lost(tmp_path: Path, scenario: str) -> None:
    if not _can_mount(tmp_path):
        pytest.skip("this machine lets nobody mount a disk of his own")
    session = [*ALONE, sys.executable, "-m", "test.data.disk_session", scenario, str(tmp_path)]
    done = subprocess.run(session, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
