"""Which processes of a test are still alive: those that inherited its ROS domain."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path


def processes_of_domain(domain: int) -> list[str]:
    """Command lines of the living processes, this one and its threads excepted, with that ROS_DOMAIN_ID."""
    wanted = f"ROS_DOMAIN_ID={domain}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if wanted in variables and command:
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
