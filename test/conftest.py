"""Fixtures for tests that use ROS: each gets a domain of its own, on loopback only."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator

import pytest

# A shell that starts this in the background leaves SIGINT ignored, which the processes under test would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: Domain ids up to 101 are safe with Linux's ephemeral ports; tests take turns in this range.
_FIRST, _COUNT = 20, 80
_turn = itertools.count(os.getpid())


@pytest.fixture
def ros_domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A ROS_DOMAIN_ID that no other test process uses now, inherited by the processes a test starts."""
    pytest.importorskip("rclpy")
    locks = []
    for _ in range(_COUNT):
        domain = _FIRST + next(_turn) % _COUNT
        try:
            lock = os.open(f"/tmp/dp_ros_test_domain_{domain}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            if _abandoned(domain):
                os.unlink(f"/tmp/dp_ros_test_domain_{domain}")
            continue
        os.write(lock, str(os.getpid()).encode())
        locks.append((domain, lock))
        break
    assert locks, f"all ROS domains from {_FIRST} on are taken: /tmp/dp_ros_test_domain_*"
    domain, lock = locks[0]
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    yield domain
    os.close(lock)
    os.unlink(f"/tmp/dp_ros_test_domain_{domain}")


def _abandoned(domain: int) -> bool:
    try:
        with open(f"/tmp/dp_ros_test_domain_{domain}", encoding="utf-8") as file:
            os.kill(int(file.read() or "0"), 0)
    except (ProcessLookupError, ValueError, FileNotFoundError):
        return True
    except PermissionError:
        return False
    return False
