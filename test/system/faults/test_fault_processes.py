"""Faults of the computer that the policy runs on: a full disk under its log, and a policy that is killed.

Easy to get wrong: logging to a disk that is full must cost the log and nothing else, so the node is made to log
while it acts.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from dp_ros.bringup import NodeSpec
from dp_ros.processes import command_of, running

from ..processes_left import processes_left
from .bench import Bench
from .model import CHUNK_S
from .rows import row
from .scene import GOES_ON_S, faulty_policy

pytestmark = pytest.mark.timeout(120)


@contextlib.contextmanager
def disk_of_its_own(folder: Path) -> Iterator[bool]:
    """A file system of 4 MB on a folder; False where this user may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def full(folder: Path, pid: int, *, mounted: bool) -> Iterator[None]:
    """No room for the log any more: fill the disk or, without one, forbid the process to make a file longer."""
    if not mounted:
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
        try:
            yield
        finally:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        return
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert os.statvfs(folder).f_bavail == 0
    try:
        yield
    finally:
        filler.unlink()


def talkative(node: NodeSpec) -> list[str]:
    """Command line of a node that logs something all the time."""
    return [*command_of(node), "--log-level", "debug"]


def log_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.log"))


def test_a_full_disk_for_logs_and_a_killed_policy(ros_domain: int, tmp_path: Path) -> None:
    bringup, logs = faulty_policy(tmp_path), tmp_path / "logs"
    environment = {**os.environ, "ROS_LOG_DIR": str(logs)}
    with contextlib.ExitStack() as stack:
        mounted = stack.enter_context(disk_of_its_own(logs))
        policy = stack.enter_context(running(bringup, environment=environment, command=talkative))
        bench = stack.enter_context(Bench(policy, tmp_path))

        with row(bench, "disk full for logs") as entry:
            entry.begin()
            bench.until(lambda: log_bytes(logs) > 4096, "the log")
            with full(logs, policy.pids["policy"], mounted=mounted):
                entry.happened()
                entry.goes_on(within_s=GOES_ON_S)
                before = log_bytes(logs)
                entry.goes_on(within_s=GOES_ON_S)
                assert log_bytes(logs) == before, "the log had no room"
                entry.cancel()
        with row(bench, "policy killed") as entry:
            entry.begin()
            entry.happened()
            policy.kill("policy")
            bench.replace_policy(stack.enter_context(running(bringup)))
            entry.stands_still(CHUNK_S + 1.5)  # the controller runs the last chunk, which ends at rest
        with row(bench, "policy started again") as entry:
            entry.begin()
            entry.cancel()
        bench.report()
    assert processes_left(ros_domain) == []
