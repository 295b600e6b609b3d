"""The process that sends setpoints, as it is: punctual while its node is not, and gone when that is."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from std_msgs.msg import Float64MultiArray  # noqa: E402

from dp_ros.bridge.setpoint_process import enclave_arguments  # noqa: E402
from dp_ros.errors import UserError  # noqa: E402
from dp_ros.runtime.motion.chunk import ActionChunk  # noqa: E402
from test.bridge.setpoint_bench import LIMIT_S, SetpointBench  # noqa: E402
from test.runtime.setpoint_action import action  # noqa: E402

HELD_S = 1.0


class Bench(SetpointBench[float]):
    """In a namespace, with the topic remapped; of a setpoint the first value is kept."""

    def __init__(self) -> None:
        rclpy.init(args=["--ros-args", "-r", "commands:=renamed"])
        node = rclpy.create_node("policy", namespace="/arm")
        spec = action(reach=9.0, topic="commands")
        super().__init__(
            node, spec, "/arm/renamed", Float64MultiArray, lambda message: float(message.data[0])
        )

    def command(self, seconds: int = 60) -> None:
        """Move slowly for so long."""
        begin_ns = self.now_ns() + 50_000_000
        steps = 0.01 * np.arange(10 * seconds)[:, None] * [1.0, -1.0]
        self.schedule.splice(ActionChunk(begin_ns, 100_000_000, steps, begin_ns))
        self.outlet.open(begin_ns)


@pytest.fixture
def bench(ros_domain: int) -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()
    rclpy.shutdown()


def test_setpoints_go_on_while_the_node_holds_its_interpreter_lock(bench: Bench) -> None:
    stream = bench.start()
    bench.until(lambda: stream.listeners, "the subscription")
    bench.command()
    bench.until(lambda: bench.heard, "setpoints")
    bench.heard.clear()
    # As an extension does that does not give the lock away; no thread of this process runs meanwhile.
    ctypes.PyDLL(None).usleep(round(HELD_S * 1e6))
    held = time.monotonic()
    while time.monotonic() < held + 0.02:
        bench.executor.spin_once(timeout_sec=0.0)
    bench.until(lambda: len(bench.heard) >= 50 * HELD_S, "half of the setpoints of that time")
    assert time.monotonic() < held + 0.3 * HELD_S, "they came in that time and not after it"
    assert not bench.errors


def test_ticks_and_end_are_known_here(bench: Bench) -> None:
    stream = bench.start()
    bench.command()
    bench.until(lambda: len(bench.heard) > 10, "setpoints")

    def total() -> int:
        statistics = stream.statistics()
        return 0 if statistics is None else statistics.total

    bench.until(lambda: total() > 10, "a report")
    begin_ns = bench.now_ns()
    rest_ns = bench.outlet.brake(begin_ns + 10_000_000, end=True)
    assert rest_ns < begin_ns + 2_000_000_000
    assert stream.destroy(bench.now_ns())
    bench.stream = None
    bench.until(lambda: len(set(bench.heard[-5:])) == 1, "rest at the end")
    assert not bench.errors, "an end that was asked for is no error"


def test_a_process_that_is_killed_is_an_error(bench: Bench) -> None:
    bench.start()
    bench.setpoints._process.send_signal(signal.SIGKILL)
    bench.until(lambda: bench.errors, "the error")
    assert "ended" in str(bench.errors[0])


def test_signals_to_everybody_leave_it_to_the_node_to_end_it(bench: Bench) -> None:
    bench.start()
    for number in (signal.SIGINT, signal.SIGTERM):
        bench.setpoints._process.send_signal(number)
    bench.command()
    bench.until(lambda: len(bench.heard) > 10, "setpoints")
    assert not bench.errors


def test_a_dry_run_publishes_nothing_and_ticks(bench: Bench) -> None:
    stream = bench.start(dry_run=True)
    bench.command()
    bench.until(lambda: stream.statistics().total > 20, "ticks")  # type: ignore[union-attr]
    assert not bench.heard
    assert not bench.node.count_publishers("/arm/renamed")


def test_a_priority_that_is_refused_is_told_and_nothing_is_left(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent("""
        import os
        def refuse(*args):
            raise PermissionError(1, "Operation not permitted")
        os.sched_setscheduler = refuse
        """)
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(UserError, match=r"priority 20 was refused .*limits.conf"):
        bench.start(realtime_priority=20)


def test_the_priority_of_the_process_is_known_here(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent("""
        import os
        os.sched_setscheduler = lambda *_: None
        """)
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    bench.start(realtime_priority=33)
    assert bench.setpoints.priority == 33


def test_without_its_node_the_process_ends(ros_domain: int) -> None:
    here, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, other:
        process = subprocess.Popen(
            [sys.executable, "-m", "dp_ros.bridge.setpoint_loop", str(other.fileno())],
            pass_fds=[other.fileno()],
        )
    assert process.wait(LIMIT_S) is not None


def test_the_enclave_of_the_node_is_that_of_the_process() -> None:
    given = ["policy_node", "--ros-args", "-p", "model:=m", "--enclave", "/arm/policy"]
    assert enclave_arguments(given) == ["--ros-args", "--enclave", "/arm/policy"]
    assert enclave_arguments(["policy_node"]) == []
