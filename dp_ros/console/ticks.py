"""How evenly a loop that speaks on every tick runs, from the stamps of what it says.

Easy to get wrong: between goals the loop speaks seldom and on purpose, so those pauses must not count.
"""

from __future__ import annotations

from collections import deque

#: Gaps of so much time are looked at, ns.
_WINDOW_NS = 1_000_000_000


class TickGaps:
    """The longest time between two ticks of the last second."""

    def __init__(self) -> None:
        self._last_ns: int | None = None
        self._gaps: deque[tuple[int, int]] = deque()  # stamp at its end, gap

    def ticked(self, stamp_ns: int) -> None:
        """The loop ran then; a stamp before the last one begins anew, as a clock that was set back does."""
        if self._last_ns is not None and stamp_ns < self._last_ns:
            self.rest()
        if self._last_ns is not None:
            self._gaps.append((stamp_ns, stamp_ns - self._last_ns))
        self._last_ns = stamp_ns
        while self._gaps and self._gaps[0][0] < stamp_ns - _WINDOW_NS:
            self._gaps.popleft()

    def rest(self) -> None:
        """The loop does not run now."""
        self._last_ns = None
        self._gaps.clear()

    def longest_ms(self) -> float | None:
        """Longest gap, ms; None if there was none."""
        return max((gap for _, gap in self._gaps), default=0) / 1e6 if self._gaps else None
