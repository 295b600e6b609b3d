"""How many threads an inference pays for, by a short measurement on this machine.

One processor core is left to the node's own work: samples, setpoints, safety. Easy to get wrong: more threads are worth
their cores only if they are clearly faster, and a measurement is noisy, so each count has to beat a smaller one by far.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

CALLS = 5
#: A count of threads is taken only if it makes an inference this much faster than the best smaller one.
WORTH = 1.15


class Warm(Protocol):
    """Something that can make a call for nothing."""

    def warm_up(self) -> None:
        """Make one inference."""


Made = TypeVar("Made", bound=Warm)


def available_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_counts(cores: int) -> list[int]:
    """What is worth trying on so many cores: powers of two, and all cores but one."""
    most = max(1, cores - 1)
    return sorted({1, most, *(2**k for k in range(1, most.bit_length()) if 2**k <= most)})


def fastest_engine(
    make: Callable[[int], Made], cores: int, clock_s: Callable[[], float] = time.perf_counter
) -> tuple[Made, int, dict[int, float]]:
    """Make the engine with the count of threads that is worth its cores.

    Args:
        make: makes an engine with so many threads.
        cores: that there are.
        clock_s: present time, s.

    Returns:
        The engine, warm; its threads; and the median time of an inference, s, for each count that was tried: counts are
        tried upwards until one is not worth it. Nothing is measured where there is no choice.
    """
    counts = thread_counts(cores)
    if len(counts) == 1:
        engine = make(1)
        engine.warm_up()
        return engine, 1, {}
    taken: tuple[Made, int] | None = None
    times_s: dict[int, float] = {}
    for count in counts:
        engine = make(count)
        times_s[count] = call_s(engine, clock_s)
        if taken is not None and times_s[count] * WORTH > times_s[taken[1]]:
            break
        taken = (engine, count)
    assert taken is not None
    return *taken, times_s


def call_s(engine: Warm, clock_s: Callable[[], float] = time.perf_counter) -> float:
    """Median time of a call, s, after one that pays for everything that is made on the way."""
    engine.warm_up()
    took = []
    for _ in range(CALLS):
        begin_s = clock_s()
        engine.warm_up()
        took.append(clock_s() - begin_s)
    return statistics.median(took)
