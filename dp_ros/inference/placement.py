"""How many threads an inference pays for, on which cores, and whether they wait awake, by a measurement at start-up.

One processor core is left to the node's own work: samples, setpoints, safety. Easy to get wrong: more threads, ones
that spin and ones that are kept on cores cost others something, and a measurement is noisy, so each has to be clearly
faster than doing without.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from dp_ros.errors import UserError

CALLS = 5
#: A placement is taken only if it makes an inference this much faster than one that costs less.
WORTH = 1.15
#: Words for what can be chosen by a measurement.
MEASURED, ANY = "auto", "any"
SPIN = {MEASURED: None, "on": True, "off": False}


@dataclass(frozen=True)
class Placement:
    """Where an inference runs.

    Attributes:
        threads: it computes with.
        cores: of the processor that they may use; (): any.
        spin: whether they wait awake for one another.
    """

    threads: int
    cores: tuple[int, ...] = ()
    spin: bool = False

    def __str__(self) -> str:
        cores = f" on core {', '.join(map(str, self.cores))}" if self.cores else ""
        return f"{self.threads} thread(s)" + cores + (", spinning" if self.spin else "")


@dataclass(frozen=True)
class Wanted:
    """What is asked for; None: what a measurement finds worth it.

    Attributes:
        threads: of an inference.
        cores: that they may use; (): any.
        spin: whether they wait awake.
    """

    threads: int | None = None
    cores: tuple[int, ...] | None = None
    spin: bool | None = None

    @classmethod
    def of(cls, threads: int = 0, affinity: str = MEASURED, spin: str = MEASURED) -> Wanted:
        """From numbers and words as people give them.

        Args:
            threads: 0: measured.
            affinity: `auto`, `any`, or cores such as `2,3`.
            spin: `auto`, `on` or `off`.

        Raises:
            UserError: if one of them is none of these, or this process may not use a core.
        """
        if threads < 0:
            raise UserError(f"threads: got {threads}, expected 1 or more, or 0 to have it measured")
        if spin not in SPIN:
            raise UserError(f"spin: got {spin!r}, expected one of {', '.join(SPIN)}")
        words: dict[str, tuple[int, ...] | None] = {MEASURED: None, ANY: ()}
        cores = words[affinity] if affinity in words else _cores(affinity)
        return cls(threads or None, cores, SPIN[spin])


def _cores(text: str) -> tuple[int, ...]:
    try:
        cores = tuple(sorted({int(each) for each in text.split(",")}))
    except ValueError:
        raise UserError(f"affinity: got {text!r}, expected {MEASURED}, {ANY}, or cores such as 2,3") from None
    there = available_cores()
    if not set(cores) <= set(there):
        raise UserError(
            f"affinity: got {text!r}, but this process may use the cores {', '.join(map(str, there))} only"
        )
    return cores


class Warm(Protocol):
    """Something that can make a call for nothing."""

    def warm_up(self) -> None:
        """Make one inference."""


Made = TypeVar("Made", bound=Warm)


def available_cores() -> list[int]:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def thread_counts(cores: int) -> list[int]:
    """What is worth trying on so many cores: powers of two, and all cores but one."""
    most = max(1, cores - 1)
    return sorted({1, most, *(2**k for k in range(1, most.bit_length()) if 2**k <= most)})


def confine(cores: Sequence[int]) -> None:
    """Have the calling thread, and those that it makes from now on, run on these cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


@contextmanager
def confined(cores: Sequence[int]) -> Iterator[None]:
    """Within, the calling thread and those that it makes run on these cores; ones made stay there."""
    if not cores:
        yield
        return
    before = available_cores()
    confine(cores)
    try:
        yield
    finally:
        confine(before)


def fastest_engine(
    make: Callable[[Placement], Made],
    cores: Sequence[int],
    wanted: Wanted | None = None,
    clock_s: Callable[[], float] = time.perf_counter,
) -> tuple[Made, Placement, dict[Placement, float]]:
    """Make the engine with the placement that is worth what it costs others.

    Numbers of threads are tried upwards until one is not worth it, then whether they have to spin, then, where there
    are more than two cores, whether it helps to keep them on the last ones.

    Args:
        make: makes an engine for a placement.
        cores: that there are.
        wanted: what is not to be measured; None: nothing.
        clock_s: present time, s.

    Returns:
        The engine, warm; its placement; and the median time of an inference, s, for each that was tried. Nothing is
        measured where there is no choice.
    """
    wanted = wanted or Wanted()
    counts = thread_counts(len(cores)) if wanted.threads is None else [wanted.threads]
    pins = wanted.cores is None and len(cores) > 2
    first = Placement(counts[0], wanted.cores or (), counts[0] > 1 if wanted.spin is None else wanted.spin)
    made = make(first)
    if len(counts) == 1 and not pins and (wanted.spin is not None or counts[0] == 1):
        with confined(first.cores):
            made.warm_up()
        return made, first, {}
    times_s = {first: _measured_s(made, first, clock_s)}
    taken = made, first

    def better(placement: Placement, worth: float) -> bool:
        """Try one, and take it if it is so many times as fast as what is taken."""
        nonlocal taken
        engine = make(placement)
        times_s[placement] = _measured_s(engine, placement, clock_s)
        if times_s[placement] * worth > times_s[taken[1]]:
            return False
        taken = engine, placement
        return True

    for count in counts[1:]:
        if not better(replace(first, threads=count, spin=wanted.spin is not False), WORTH):
            break
    if taken[1].threads > 1 and wanted.spin is None:
        better(replace(taken[1], spin=False), 1 / WORTH)
    if pins:
        last = tuple(cores[-taken[1].threads :])
        better(replace(taken[1], cores=last), WORTH)
    return *taken, times_s


def _measured_s(engine: Warm, placement: Placement, clock_s: Callable[[], float]) -> float:
    with confined(placement.cores):
        return call_s(engine, clock_s)


def call_s(engine: Warm, clock_s: Callable[[], float] = time.perf_counter) -> float:
    """Median time of a call, s, after one that pays for everything that is made on the way."""
    engine.warm_up()
    took = []
    for _ in range(CALLS):
        begin_s = clock_s()
        engine.warm_up()
        took.append(clock_s() - begin_s)
    return statistics.median(took)
