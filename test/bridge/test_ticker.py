"""The setpoint thread: on the grid, never in a burst, and gone when it is told to."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("rclpy")

from rclpy.clock import ROSClock
from rclpy.time import Time

from dp_ros.bridge.ticker import WHERE_PERMITTED, Ticker, prompt_interpreter
from dp_ros.errors import UserError

MS = 1_000_000
LIMIT_S = 20.0
#: Stands for an error among the times of the ticks.
TOLD = -1.0


class FakeTime:
    """A clock that each wait moves to the deadline plus the next lateness."""

    def __init__(self, *late_ms: float, start_ms: int = 1000) -> None:
        self.now, self._late_ms = start_ms * MS, list(late_ms)

    def now_ns(self) -> int:
        return self.now

    def wait_until(self, deadline_ns: int) -> None:
        if self.now < deadline_ns:
            late_ms = self._late_ms.pop(0) if self._late_ms else 0
            self.now = deadline_ns + round(late_ms * MS)

    def wake(self) -> None:
        pass

    def ros_ns(self, grid_ns: int) -> int:
        return grid_ns

    def close(self) -> None:
        pass


def run(fake: FakeTime, n: int, work: Callable[[int], None] = lambda k: None) -> tuple[list[float], Ticker]:
    """Run n ticks at 100 Hz; returns the times they were meant for, ms."""
    times: list[float] = []

    def tick(time_ns: int) -> None:
        times.append(time_ns / MS)
        work(len(times))
        if len(times) == n:
            ticker.stop()

    ticker = Ticker(tick, 100.0, None, lambda error: times.append(TOLD), ticktime=fake)
    ticker.start()
    thread = ticker._thread
    assert thread is not None
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    return times, ticker


def test_lateness_does_not_add_up() -> None:
    times, ticker = run(FakeTime(3, 0, 9, 2), 4)
    assert times == [1010, 1020, 1030, 1040]
    result = ticker.statistics()
    assert (result.hz, result.total, result.missed) == (100.0, 4, 0)
    assert (result.jitter_p50_ms, result.jitter_max_ms) == pytest.approx((2.5, 9.0))


def test_after_a_stall_the_ticks_that_went_by_are_counted_and_skipped() -> None:
    times, ticker = run(FakeTime(0, 35, 0), 4)
    assert times == [1010, 1050, 1060, 1070]
    result = ticker.statistics()
    assert (result.total, result.missed, result.jitter_max_ms) == (4, 3, 35.0)


def test_a_tick_that_takes_too_long_costs_the_next_ones_and_not_the_grid() -> None:
    fake = FakeTime()

    def work(k: int) -> None:
        fake.now += 24 * MS if k == 2 else 0

    times, ticker = run(fake, 4, work)
    assert times == [1010, 1020, 1040, 1050]
    assert ticker.statistics().missed == 1


def test_a_wait_that_ends_early_makes_no_tick() -> None:
    assert run(FakeTime(-4, -1, 0), 2)[0] == [1010, 1020]


def test_a_clock_that_is_set_back_begins_a_new_grid() -> None:
    fake = FakeTime(0, -500, 0)
    times, ticker = run(fake, 3)
    assert times == [1010, 530, 540]
    assert ticker.statistics().missed == 0


def test_before_simulated_time_begins_nothing_is_due_or_missed() -> None:
    times, ticker = run(FakeTime(999, 0, start_ms=0), 2)
    assert len(times) == 2
    assert times[0] > 999
    assert ticker.statistics().missed == 0


def test_what_a_tick_raises_ends_the_ticking_and_is_told() -> None:
    def work(k: int) -> None:
        if k == 3:
            raise ValueError("no command")

    times, ticker = run(FakeTime(), 9, work)
    assert times == [1010, 1020, 1030, TOLD]
    assert ticker.stop(LIMIT_S)


def wait(condition: Callable[[], Any]) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.001)


def test_on_the_wall_clock_it_ticks_on_its_grid_until_it_is_stopped() -> None:
    times: list[int] = []
    ticker = Ticker(times.append, 200.0, ROSClock(), pytest.fail)
    for _ in range(2):
        times.clear()
        begin_ns = time.time_ns()
        ticker.start()
        wait(lambda: len(times) >= 5)
        assert ticker.stop(LIMIT_S)
        count = len(times)
        assert times[0] > begin_ns
        assert times == sorted(times)
        assert not any(thread.name == "ticker" for thread in threading.enumerate())
        assert len(times) == count
    assert ticker.stop(), "a second stop is harmless"


def test_on_simulated_time_it_follows_the_clock_and_ends_while_that_stands_still() -> None:
    clock = ROSClock()
    clock._set_ros_time_is_active(True)

    def set_ms(time_ms: int) -> None:
        clock.set_ros_time_override(Time(nanoseconds=time_ms * MS, clock_type=clock.clock_type))

    times: list[float] = []
    ticker = Ticker(lambda ns: times.append(ns / MS), 100.0, clock, pytest.fail)
    set_ms(1000)
    ticker.start()
    set_ms(1009)
    set_ms(1011)
    wait(lambda: times == [1010])
    set_ms(1035)
    wait(lambda: times == [1010, 1030])
    assert ticker.stop(LIMIT_S)
    assert ticker.statistics().missed == 1


def test_a_real_time_priority_that_is_refused_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    ticker = Ticker(lambda _: None, 100.0, ROSClock(), pytest.fail, realtime_priority=20)
    with pytest.raises(UserError, match=r"real-time priority 20 was refused .*limits.conf"):
        ticker.start()
    assert not any(thread.name == "ticker" for thread in threading.enumerate())


def test_a_real_time_priority_is_gone_without_where_it_is_only_wished_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def refuse(_: int, policy: int, parameters: Any) -> None:
        assert policy == os.SCHED_FIFO
        asked.append(parameters.sched_priority)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    ticked = threading.Event()
    ticker = Ticker(lambda _: ticked.set(), 100.0, ROSClock(), pytest.fail, realtime_priority=WHERE_PERMITTED)
    ticker.start()
    assert ticked.wait(LIMIT_S)
    assert (asked, ticker.priority) == ([50], 0)
    assert ticker.stop(LIMIT_S)


def test_a_real_time_priority_that_is_granted_is_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    granted: list[int] = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda _, __, p: granted.append(p.sched_priority))
    ticker = Ticker(lambda _: None, 100.0, ROSClock(), pytest.fail, realtime_priority=WHERE_PERMITTED)
    ticker.start()
    assert (granted, ticker.priority) == ([50], 50)
    assert ticker.stop(LIMIT_S)


def test_a_running_ticker_is_not_started_twice() -> None:
    ticker = Ticker(lambda _: None, 100.0, ROSClock(), pytest.fail)
    ticker.start()
    with pytest.raises(RuntimeError, match="is running"):
        ticker.start()
    assert ticker.stop(LIMIT_S)


def test_the_interpreter_is_left_as_it_was() -> None:
    before_s = sys.getswitchinterval()
    with prompt_interpreter():
        assert sys.getswitchinterval() == pytest.approx(0.0005)
        assert gc.get_freeze_count() > 0
    assert sys.getswitchinterval() == before_s
    assert gc.get_freeze_count() == 0
