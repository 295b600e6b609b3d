"""Ways of doing the same thing, timed in turns: other work on the machine falls on all of them.

Easy to get wrong: a machine is rarely quiet for long, so what is compared is each turn's ratio, not the best times.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

_FEWEST_TURNS = 3


def in_turns(
    ways: Mapping[str, Callable[[int], object]], seconds: float, *, steps: int, warmup: int
) -> dict[str, list[float]]:
    """Time each way in turns, for about so many seconds and at least three turns.

    Args:
        ways: each is called with the number of a step; all get the same numbers.
        seconds: about how long in all.
        steps: of a turn.
        warmup: steps of each way that are not timed.

    Returns:
        Seconds of each turn of each way.
    """
    for take in ways.values():
        for step in range(warmup):
            take(step)
    times: dict[str, list[float]] = {way: [] for way in ways}
    turn, step, began = 0, warmup, time.perf_counter()
    while turn < _FEWEST_TURNS or time.perf_counter() - began < seconds:
        for way in list(ways) if turn % 2 else list(ways)[::-1]:
            start = time.perf_counter()
            for k in range(steps):
                ways[way](step + k)
            times[way].append(time.perf_counter() - start)
        turn, step = turn + 1, step + steps
    return times


def median_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Median over the turns of one way's time over another's."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))
