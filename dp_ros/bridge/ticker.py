"""Calls a function at a fixed rate from a thread of its own: what sends setpoints while everything else works.

Deadlines lie on a grid, so that lateness does not add up; after a stall the ticks that went by are counted and
skipped, never run in a burst. The function gets the grid's time and not the moment at which it is called, so that
setpoints are evenly spaced even where calls are not.

Two things keep such a thread from its deadline in Python, and easy to get wrong is to look only for the first: the
processor may be busy, and so may the interpreter lock. For the processor the thread asks for a real-time priority, and
for a short time slice, with which Linux 6.12 and later let it go ahead of threads that compute. The lock is held by
another thread for the switch interval, during a garbage collection, during every publication, and for as long as that
thread, holding it, waits for a processor itself: so the policy node ticks in a process that does nothing else
(`setpoint_loop`).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import struct
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration

from dp_ros.errors import UserError

#: Switch interval of the interpreter while setpoints are sent, seconds.
SWITCH_INTERVAL_S = 0.0005
#: Ticks that the statistics remember: 10 minutes at 100 Hz.
REMEMBERED = 60_000
#: Time slice that the ticking thread asks for, ns: the shortest that Linux grants.
SLICE_NS = 100_000
#: Value of `realtime_priority`: REALTIME_PRIORITY where the user has the right, else as every other thread.
WHERE_PERMITTED = -1
#: SCHED_FIFO priority of a thread that a robot waits for; what controller_manager of ros2_control asks for, too.
REALTIME_PRIORITY = 50
_PR_SET_TIMERSLACK = 29
#: Numbers of sched_setattr(2), which the C library has only since glibc 2.41.
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}


@dataclass(frozen=True)
class TickStatistics:
    """How punctual the ticks were.

    Attributes:
        hz: rate asked for.
        total: ticks that were run.
        missed: ticks that were skipped because one ran, or began, a period or more late.
        jitter_p50_ms: median lateness of the remembered ticks, each counted from the first deadline that it
            serves, so that a stall shows in full; 0 before the first tick.
        jitter_p99_ms: 99th percentile of it.
        jitter_max_ms: largest lateness of all ticks.
    """

    hz: float
    total: int
    missed: int
    jitter_p50_ms: float
    jitter_p99_ms: float
    jitter_max_ms: float


class TickRecord:
    """How late each tick was, of which statistics are made.

    Args:
        hz: rate asked for.
    """

    def __init__(self, hz: float) -> None:
        self._hz = hz
        self.clear()

    def clear(self) -> None:
        """Count from here on."""
        self._late_ns = array("q", bytes(8 * REMEMBERED))
        self._total = self._missed = self._latest_ns = 0

    def note(self, late_ns: int, skipped: int) -> None:
        """Count a tick that began `late_ns` after the first deadline that it serves, in place of so many others."""
        self._late_ns[self._total % len(self._late_ns)] = late_ns
        self._total += 1
        self._missed += skipped
        self._latest_ns = max(self._latest_ns, late_ns)

    def statistics(self) -> TickStatistics:
        """How punctual the ticks have been since the beginning or the last `clear`."""
        total = self._total
        late_ms = np.array(self._late_ns[: min(total, len(self._late_ns))], dtype=np.float64) / 1e6
        p50, p99 = np.percentile(late_ms, [50, 99]).tolist() if len(late_ms) else (0.0, 0.0)
        return TickStatistics(self._hz, total, self._missed, p50, p99, self._latest_ns / 1e6)


class TickTime(Protocol):
    """The clock of a grid, and waiting on it."""

    def now_ns(self) -> int:
        """Present time of the grid's clock."""

    def wait_until(self, deadline_ns: int) -> None:
        """Return at the deadline or earlier: when `wake` was called, or when the clock jumped."""

    def wake(self) -> None:
        """End a wait, the one under way or else the next one; may be called from another thread."""

    def ros_ns(self, grid_ns: int) -> int:
        """ROS time at a time of the grid's clock."""

    def close(self) -> None:
        """Let go of the clock."""


class Ticker:
    """A thread that calls a function at a fixed rate.

    With `use_sim_time` it follows /clock: a tick for each period of simulated time, none while that stands still,
    and one for several periods where the clock advances in larger steps, the others counted as missed.

    Args:
        tick: called with the ROS time that the tick is meant for, ns.
        rate_hz: ticks a second.
        clock: of the node (`get_clock()`).
        on_error: called in the thread with what `tick` raised, which ends the ticking.
        realtime_priority: SCHED_FIFO priority, 1 to 99, for which the user needs the right (rtprio in
            /etc/security/limits.conf); 0: as every other thread; WHERE_PERMITTED: tried, and gone without if refused.
        note: called in the thread, before each tick, with how late it is, ns, and with how many were skipped for it.
        ticktime: for tests.

    Attributes:
        priority: SCHED_FIFO priority that the thread has got, 0 for none; known once it is started.
    """

    def __init__(
        self,
        tick: Callable[[int], None],
        rate_hz: float,
        clock: Any,
        on_error: Callable[[Exception], None],
        *,
        realtime_priority: int = 0,
        note: Callable[[int, int], None] | None = None,
        ticktime: TickTime | None = None,
    ) -> None:
        self._tick, self._on_error = tick, on_error
        self._period_ns = round(1e9 / rate_hz)
        self._clock, self._wanted_priority = clock, realtime_priority
        self.priority = 0
        self._time = ticktime
        self._thread: threading.Thread | None = None
        self._ended = True
        self._record = TickRecord(rate_hz)
        self._note = note or self._record.note

    def start(self) -> None:
        """Begin: the first tick comes one period from now.

        Raises:
            UserError: if the thread may not have the priority asked for.
            RuntimeError: if it is running.
        """
        if self._thread is not None:
            raise RuntimeError("the ticker is running")
        if self._time is None:
            self._time = _SimulatedTime(self._clock) if self._clock.ros_time_is_active else _WallTime()
        self._ended = False
        refused: list[str] = []
        ready = threading.Event()
        self._thread = threading.Thread(
            target=self._run,
            args=(self._time, self._time.now_ns(), refused, ready),
            name="ticker",
            daemon=True,
        )
        self._thread.start()
        ready.wait()
        if refused:
            self.stop()
            raise UserError(refused[0])

    def stop(self, timeout_s: float = 2.0) -> bool:
        """End the ticking; harmless if there is none, and from the ticking thread itself.

        Returns:
            False if a tick has not come back within the time-out.
        """
        self._ended = True
        thread, ticktime = self._thread, self._time
        if thread is None or ticktime is None:
            return True
        ticktime.wake()
        if thread is not threading.current_thread():
            thread.join(timeout_s)
            if thread.is_alive():
                return False
            ticktime.close()
            self._thread = self._time = None
        return True

    def statistics(self) -> TickStatistics:
        """How punctual the ticks have been, where no `note` was given."""
        return self._record.statistics()

    def _run(self, ticktime: TickTime, begin_ns: int, refused: list[str], ready: threading.Event) -> None:
        _sharpen_timers()
        optional = self._wanted_priority == WHERE_PERMITTED
        priority = REALTIME_PRIORITY if optional else self._wanted_priority
        problem = _ask_for_priority(priority)
        if problem is None:
            self.priority = priority
        elif not optional:
            refused.append(problem)
        ready.set()
        period_ns = self._period_ns
        while not self._ended and begin_ns == 0:  # no simulated time yet
            ticktime.wait_until(1)
            begin_ns = ticktime.now_ns()
        deadline_ns = begin_ns + period_ns
        while not self._ended:
            ticktime.wait_until(deadline_ns)
            now_ns = ticktime.now_ns()
            if now_ns < deadline_ns:
                if now_ns < deadline_ns - period_ns:  # the clock was set back
                    deadline_ns = now_ns + period_ns
                continue
            if self._ended:
                return
            skipped = (now_ns - deadline_ns) // period_ns
            deadline_ns += skipped * period_ns
            self._note(now_ns - deadline_ns + skipped * period_ns, skipped)
            try:
                self._tick(ticktime.ros_ns(deadline_ns))
            except Exception as error:  # whatever it is, somebody must hear of it
                self._ended = True
                self._on_error(error)
                return
            deadline_ns += period_ns


class _Alarm:
    """Waiting that another thread can end. A plain lock: to wait on an `Event` is Python code, and later."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # woken already: the next wait ends at once
            self._lock.release()


class _WallTime(_Alarm):
    """The monotonic clock, which nobody sets."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def wait_until(self, deadline_ns: int) -> None:
        wait_ns = deadline_ns - time.monotonic_ns()
        if wait_ns > 0:
            self._lock.acquire(timeout=wait_ns / 1e9)

    def ros_ns(self, grid_ns: int) -> int:
        return time.time_ns() - (time.monotonic_ns() - grid_ns)

    def close(self) -> None:
        pass


class _SimulatedTime(_Alarm):
    """The ROS clock as /clock sets it, in the thread of the node's executor."""

    def __init__(self, clock: Any) -> None:
        super().__init__()
        self._clock = clock
        nanosecond = Duration(nanoseconds=1)
        every = JumpThreshold(min_forward=nanosecond, min_backward=Duration(nanoseconds=-1))
        self._jumps = clock.create_jump_callback(every, post_callback=lambda _: self.wake())

    def now_ns(self) -> int:
        return self._clock.now().nanoseconds

    def wait_until(self, deadline_ns: int) -> None:
        if self.now_ns() < deadline_ns:
            self._lock.acquire()

    def ros_ns(self, grid_ns: int) -> int:
        return grid_ns

    def close(self) -> None:
        self._jumps.unregister()


@contextlib.contextmanager
def prompt_interpreter() -> Iterator[None]:
    """While in it, the interpreter lets a waiting thread run sooner.

    The switch interval is shortened, and what is alive is exempted from garbage collection, so that a full
    collection no longer goes through everything that was loaded (libraries, models).
    """
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(min(interval_s, SWITCH_INTERVAL_S))
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(interval_s)


def _sharpen_timers() -> None:
    """Let the calling thread wake when it asks to, and go ahead of threads that compute."""
    if sys.platform == "linux":
        # The kernel may round up the end of a sleep by 50 us, to wake several sleepers at once.
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, *map(ctypes.c_ulong, (1, 0, 0, 0)))
        _ask_for_slice(SLICE_NS)


def _ask_for_priority(priority: int) -> str | None:
    """Give the calling thread a real-time priority, 0 for none; returns why not, if it was refused."""
    if priority > 0:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
        except (OSError, AttributeError) as error:
            return (
                f"real-time priority {priority} was refused ({error}); set it to 0, or give the user the right: "
                "a line  @realtime - rtprio 98  in /etc/security/limits.conf"
            )
    return None


def _ask_for_slice(slice_ns: int) -> None:
    """Ask the scheduler to let the calling thread run soon and briefly; a kernel that does not know this ignores it."""
    number = _SCHED_SETATTR.get(os.uname().machine)
    if number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    # struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period
    attributes = struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, 0, nice, 0, slice_ns, 0, 0)
    ctypes.CDLL(None).syscall(number, 0, attributes, 0)
