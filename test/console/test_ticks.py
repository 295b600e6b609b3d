"""How evenly a loop runs."""

from __future__ import annotations

from dp_ros.console.ticks import TickGaps

MS = 1_000_000


def test_the_longest_gap_of_the_last_second_counts() -> None:
    gaps = TickGaps()
    assert gaps.longest_ms() is None
    for ms in (0, 50, 130, 180):
        gaps.ticked(ms * MS)
    assert gaps.longest_ms() == 80.0
    for ms in range(230, 1200, 50):
        gaps.ticked(ms * MS)
    assert gaps.longest_ms() == 50.0


def test_a_pause_between_goals_is_no_gap_and_a_clock_set_back_begins_anew() -> None:
    gaps = TickGaps()
    gaps.ticked(0)
    gaps.rest()
    gaps.ticked(5000 * MS)
    assert gaps.longest_ms() is None
    gaps.ticked(5050 * MS)
    assert gaps.longest_ms() == 50.0
    gaps.ticked(100 * MS)
    assert gaps.longest_ms() is None
