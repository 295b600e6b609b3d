"""Faults of time: a simulation whose clock stops, jumps and begins anew, in front of a policy in simulated time.

As in `test_fault_matrix`, with a node that takes its time from /clock, which the robot process publishes. Easy to get
wrong: a controller follows the clock as well, so where it jumps only what is sent can be judged, not the motion.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("rclpy")

from dp_ros.processes import running

from ..processes_left import processes_left
from .bench import Bench
from .rows import row
from .scene import STILL_S, faulty_policy

pytestmark = pytest.mark.timeout(120)

TIMEOUT_S = 2.0
END_S = TIMEOUT_S + 2.5


@pytest.fixture(scope="module")
def bench(module_ros_domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("clock")
    bringup = faulty_policy(folder, use_sim_time=True, clock_timeout_s=TIMEOUT_S)
    with running(bringup) as policy, Bench(policy, folder, clock_s=1000.0) as bench:
        yield bench
        bench.report()
    assert processes_left(module_ros_domain) == []


def test_the_clock_stops_and_goes_on(bench: Bench) -> None:
    with row(bench, "clock stops") as entry:
        entry.begin()
        entry.fault(clock="stopped")
        entry.stands_still(STILL_S)
        entry.ends("CLOCK_STOPPED", "is the simulation alive?", within_s=END_S)
        entry.counts("CLOCK_STOPPED")
        entry.clear()


def test_the_clock_is_reset(bench: Bench) -> None:
    with row(bench, "clock reset", clock_jumps=True) as entry:
        entry.begin()
        entry.fault(clock_jump_s=-900.0)
        entry.ends("CLOCK_JUMP", "set back", within_s=STILL_S)
        entry.counts("CLOCK_JUMP")


def test_the_clock_leaps(bench: Bench) -> None:
    with row(bench, "clock leaps ahead", clock_jumps=True) as entry:
        entry.begin()
        entry.fault(clock_jump_s=60.0)
        entry.ends("CLOCK_JUMP", "jumped by +", within_s=STILL_S)
        entry.counts("CLOCK_JUMP")


def test_the_clock_is_before_the_beginning_of_time(bench: Bench) -> None:
    """Of which rclpy's own subscription to /clock would die, and the node with it."""
    with row(bench, "clock negative", clock_jumps=True) as entry:
        entry.begin()
        entry.fault(clock_jump_s=-5000.0)
        entry.stands_still(STILL_S)
        entry.ends("CLOCK_STOPPED", "is the simulation alive?", within_s=END_S)
        entry.counts("CLOCK_STOPPED")
        bench.set(clock_jump_s=5000.0)
    with row(bench, "clock positive again") as entry:
        entry.begin()
        entry.cancel()


def test_the_simulation_is_killed_and_started_again(bench: Bench) -> None:
    try:
        with row(bench, "simulation killed", clock_jumps=True) as entry:
            entry.begin()
            entry.happened(bench.kill_robot())
            entry.stands_still(STILL_S)
            entry.ends("CLOCK_STOPPED", within_s=END_S)
            entry.says("idle", "CLOCK_STOPPED")
    finally:
        bench.start_robot()
    with row(bench, "simulation restarted") as entry:
        entry.begin()
        entry.cancel()


def test_the_simulation_is_restarted_under_a_running_goal(bench: Bench) -> None:
    with row(bench, "simulation restarted in a goal", clock_jumps=True) as entry:
        entry.begin()
        entry.happened(bench.kill_robot())
        bench.start_robot()
        entry.ends(("CLOCK_JUMP", "CLOCK_STOPPED"), within_s=END_S)
    with row(bench, "after it") as entry:
        entry.begin()
        entry.cancel()
