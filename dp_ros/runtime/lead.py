"""How far ahead of now a change of what is commanded has to lie, so that it is sent before its time comes.

Planning a change, passing it through the gates and sending it take time, and what has begun when it arrives is a
jump: until then the robot goes on as it was told before. How long the next one takes is not known, so the longest of
the last ones counts. Easy to get wrong: a stall of the machine would push changes away for as long, hence the bound.
"""

from __future__ import annotations

from collections import deque

#: Changes that are remembered, of each kind.
RECENT = 8
#: The longest time that is waited for, seconds: later changes, and above all later stops, would be worse than a jump.
LONGEST_S = 0.3


class Lead:
    """Measures how long changes take.

    Args:
        margin_s: for the way to the robot, on top.
        first_s: how long a change is thought to take before one was measured.
    """

    def __init__(self, margin_s: float, first_s: float) -> None:
        self._margin_ns, first_ns = round(margin_s * 1e9), round(first_s * 1e9)
        self._chunks, self._stops = deque([first_ns], RECENT), deque([first_ns], RECENT)

    def took(self, duration_ns: int, *, stop: bool) -> None:
        """A new chunk, or a stop, took this long from the time it was planned for to the message sent."""
        (self._stops if stop else self._chunks).append(min(duration_ns, round(LONGEST_S * 1e9)))

    @property
    def margin_ns(self) -> int:
        """For the way to the robot."""
        return self._margin_ns

    @property
    def chunk_ns(self) -> int:
        """How much later than now a new chunk may take over."""
        return self._margin_ns + max(self._chunks)

    @property
    def stop_ns(self) -> int:
        """How much later than now a stop may begin."""
        return self._margin_ns + max(self._stops)
