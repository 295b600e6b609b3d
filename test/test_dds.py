"""The DDS profile: used where nobody has chosen and there is room, and really loaded by a node."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from dp_ros import dds
from dp_ros.paths import share_dir

CHOSEN = [
    {"FASTRTPS_DEFAULT_PROFILES_FILE": "/mine.xml"},
    {"FASTDDS_DEFAULT_PROFILES_FILE": "/mine.xml"},
    {"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"},
]
NODE = """
import rclpy
rclpy.init()
node = rclpy.create_node("probe")
print("up", flush=True)
input()
"""


def free(monkeypatch: pytest.MonkeyPatch, mib: int) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=mib, f_frsize=2**20))


def test_nodes_get_the_profile_where_nobody_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 1024)
    variables = dds.profile_variables({})
    assert Path(variables["FASTRTPS_DEFAULT_PROFILES_FILE"]).samefile(share_dir() / "config/fastdds.xml")


@pytest.mark.parametrize("chosen", CHOSEN)
def test_what_a_person_has_chosen_stays(monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str]) -> None:
    free(monkeypatch, 1024)
    assert dds.profile_variables(chosen) == {}


def test_little_or_no_shared_memory_leaves_fast_dds_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert dds.profile_variables({}, tmp_path / "absent") == {}
    free(monkeypatch, 64)
    assert dds.profile_variables({}) == {}


def _largest_segment(pid: int) -> int:
    """Size in bytes of the largest shared-memory segment of Fast DDS that a process has mapped."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    paths = {Path(line.split()[-1]) for line in maps.splitlines() if "/dev/shm/fastrtps_" in line}
    return max((path.stat().st_size for path in paths if path.exists()), default=0)


@pytest.mark.timeout(60)
def test_a_node_takes_the_segment_that_the_profile_asks_for(ros_domain: int) -> None:
    pytest.importorskip("rclpy")
    if os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp") != "rmw_fastrtps_cpp":
        pytest.skip("another middleware")
    plain = {key: value for key, value in os.environ.items() if key not in dds.CHOSEN_BY}
    variables = dds.profile_variables(plain)
    if not variables:
        pytest.skip("little shared memory")
    process = subprocess.Popen(
        [sys.executable, "-c", NODE],
        env={**plain, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        end_s = time.monotonic() + 10
        while _largest_segment(process.pid) < 2**24:
            assert time.monotonic() < end_s, "the profile was not loaded"
    finally:
        process.communicate("\n", timeout=20)
