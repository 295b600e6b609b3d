"""Work in several processes: in order, loaded once, and not ended by a Ctrl-C that is for the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

from dp_ros.process_pool import map_in_processes, map_loaded


def load(log: Path) -> int:
    with log.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return os.getpid()


def work(loaded: int, item: int) -> tuple[int, bool, bool]:
    return item, loaded == os.getpid(), signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def lift(loaded: int, item: int) -> int:
    return loaded


def interrupt(loaded: int, item: int) -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return item


def begin(log: Path, loaded: int, item: int) -> int:
    with log.open("a") as file:
        file.write(f"{item}\n")
    return item


def test_results_come_in_order_and_each_process_loads_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    found = list(map_in_processes(partial(load, log), work, range(20), 2))
    assert found == [(item, True, True) for item in range(20)]
    loaded = log.read_text().split()
    assert 1 <= len(loaded) == len(set(loaded)) <= 2


def test_an_interrupt_of_a_process_is_not_its_end() -> None:
    assert list(map_in_processes(os.getpid, interrupt, [3, 1, 2], 1)) == [3, 1, 2]


def test_what_nobody_takes_is_given_up(tmp_path: Path) -> None:
    log = tmp_path / "log"
    results = map_in_processes(os.getpid, partial(begin, log), range(10_000), 1)
    assert next(results) == 0
    results.close()
    assert len(log.read_text().split()) < 10_000


def test_one_process_is_this_one_and_loads_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    found = map_loaded(partial(load, log), lambda loaded, item: (loaded, item), [2, 1], 1)
    assert list(found) == [(os.getpid(), 2), (os.getpid(), 1)]
    assert log.read_text().split() == [str(os.getpid())]


def test_two_processes_are_others() -> None:
    found = map_loaded(os.getpid, lift, range(4), 2)
    assert os.getpid() not in found


def stay(loaded: int, item: int) -> int:
    threading.Event().wait(120.0)
    return item


def work_for_ever() -> None:
    """What the test below starts and kills."""
    list(map_in_processes(load_pid, stay, range(2), 2))


def load_pid() -> int:
    print(os.getpid(), flush=True)
    return os.getpid()


def test_a_parent_that_is_killed_leaves_no_process() -> None:
    command = [sys.executable, "-c", "from test.test_process_pool import work_for_ever as w; w()"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as parent:
        assert parent.stdout is not None
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
        end_s = time.monotonic() + 30.0
        while any(_runs(pid) for pid in workers) and time.monotonic() < end_s:
            threading.Event().wait(0.05)
        assert not [pid for pid in workers if _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"
