"""Fixtures for tests that use ROS: each gets a domain of its own, on loopback only."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from test.exported_pieces import pieces_exported_once  # noqa: F401

# A shell or nohup that starts this leaves signals ignored, which the processes under test would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

#: Domain ids up to 101 are safe with Linux's ephemeral ports; tests take turns in this range.
_FIRST, _COUNT = 20, 80
_turn = itertools.count(os.getpid())
#: The domain that pytest and its workers were started under, which a test looking for what it left would find.
_INHERITED = os.environ.get("ROS_DOMAIN_ID")


@pytest.fixture
def ros_domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A ROS_DOMAIN_ID that no other test process uses now, inherited by the processes a test starts."""
    with _domain_of_its_own(monkeypatch) as domain:
        yield domain


@pytest.fixture(scope="module")
def module_ros_domain() -> Iterator[int]:
    """The same for all tests of a module, whose processes go on from one test to the next."""
    with pytest.MonkeyPatch.context() as monkeypatch, _domain_of_its_own(monkeypatch) as domain:
        yield domain


@contextlib.contextmanager
def _domain_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    pytest.importorskip("rclpy")
    with contextlib.ExitStack() as stack:
        for domain in (_FIRST + next(_turn) % _COUNT for _ in range(_COUNT)):
            if str(domain) == _INHERITED:
                continue
            lock = stack.enter_context(open(Path(tempfile.gettempdir()) / f"dp_ros_domain_{domain}", "w"))
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
        else:
            pytest.fail(f"all ROS domains from {_FIRST} to {_FIRST + _COUNT - 1} are taken")
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield domain
