"""Which processes of a test are still alive: those that inherited its ROS domain."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path


def processes_of_domain(domain: int) -> list[str]:
    """Command lines of the living processes, this one and its threads excepted, with that ROS_DOMAIN_ID.

    Domains are used again after 80 tests, and the resource tracker that multiprocessing starts for this very process
    keeps the one it was started under, so it is excepted too.
    """
    wanted = f"ROS_DOMAIN_ID={domain}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        own_tracker = parent == os.getpid() and "resource_tracker" in command
        if wanted in variables and command and not own_tracker:
            found.append(f"{folder.name}: {command}")
    return found


def processes_left(domain: int, limit_s: float = 20.0) -> list[str]:
    """What is still alive after up to `limit_s`: for tests in which every process has been told to end.

    A process that has ended may leave one of its own, such as multiprocessing's resource tracker, which ends
    a moment later by itself.
    """
    end_s = time.monotonic() + limit_s
    while (left := processes_of_domain(domain)) and time.monotonic() < end_s:
        threading.Event().wait(0.02)
    return left
