"""Stops process groups when the process that started them is gone, however it went.

The guard is a process of its own. It reads the ids of process groups from a pipe; when the pipe closes,
which the kernel does even for a process that was killed, it stops those groups. It runs as a plain file,
isolated from the environment, and must therefore import nothing but the standard library. A pidfd or
PR_SET_PDEATHSIG would not do: they cover a child but not what the child started, and the latter fires when
the *thread* that forked ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

_PATIENCE_S = 5.0


@contextlib.contextmanager
def guard() -> Iterator[Callable[[int], None]]:
    """Run a guard; yields a function that puts a process group under its protection.

    On leaving the context in an orderly way, the guard stops whatever is still there.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, start_new_session=True, close_fds=True
    )
    pipe = process.stdin
    assert pipe is not None

    def protect(group: int) -> None:
        pipe.write(f"{group}\n".encode())
        pipe.flush()

    try:
        yield protect
    finally:
        pipe.close()
        process.wait()


def group_exists(group: int) -> bool:
    """Whether a process group has a member that is not merely waiting to be reaped."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return any(_stat(int(name))[0] == group for name in os.listdir("/proc") if name.isdigit())


def _stat(pid: int) -> tuple[int, int]:
    """Process group and start time of a process; zeros if it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            values = file.read().rpartition(")")[2].split()
    except OSError:
        return 0, 0
    return (0, 0) if values[0] in "ZX" else (int(values[2]), int(values[19]))


def main() -> None:
    """Read process groups from standard input until it closes, then stop them."""
    started = {int(line): _stat(int(line))[1] for line in sys.stdin}
    # Where the leader of a group has another start time now, the number belongs to somebody else.
    groups = [group for group, time_ in started.items() if _stat(group)[1] in (0, time_)]
    for number in (signal.SIGINT, signal.SIGKILL):
        groups = [group for group in groups if group_exists(group)]
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, number)
        deadline = time.monotonic() + _PATIENCE_S
        while any(map(group_exists, groups)) and time.monotonic() < deadline:
            time.sleep(0.02)


if __name__ == "__main__":
    main()
