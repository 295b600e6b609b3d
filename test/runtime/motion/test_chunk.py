"""Chunks in time: late actions are dropped and never shifted, velocities end at zero."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_ros.runtime.motion.chunk import ActionChunk, ChunkSchedule
from test.runtime.motion_specs import joints

DT = 100_000_000
T0 = 10_000_000_000


def chunk(start_ns: int = T0, n: int = 8, first: float = 0.0) -> ActionChunk:
    values = (first + np.arange(n, dtype=np.float64))[:, np.newaxis]
    return ActionChunk(start_ns, DT, values, start_ns)


def test_an_action_due_now_is_not_late() -> None:
    assert chunk().without_late(T0).dropped == 0
    assert chunk().without_late(T0 + 1).dropped == 1


@given(st.integers(-5 * DT, 15 * DT))
def test_what_is_kept_keeps_its_time(offset_ns: int) -> None:
    whole, kept = chunk(), chunk().without_late(T0 + offset_ns)
    assert kept.dropped + len(kept.values) == len(whole.values)
    for i, value in enumerate(kept.values[:, 0]):
        assert kept.start_ns + i * DT == T0 + int(value) * DT
        assert kept.start_ns + i * DT >= T0 + offset_ns
    if kept.dropped:
        assert T0 + (kept.dropped - 1) * DT < T0 + offset_ns


def test_velocities_follow_the_positions_and_end_at_zero() -> None:
    velocities = chunk(n=4).velocities()[:, 0]
    assert velocities.tolist() == pytest.approx([10.0, 10.0, 10.0, 0.0])
    assert chunk(n=1).velocities().tolist() == [[0.0]]


def test_the_newest_chunk_is_in_force_from_its_first_action_on() -> None:
    schedule = ChunkSchedule(joints(1), smooth=False)
    assert schedule.commanded_at(T0) is None
    schedule.splice(chunk(T0, first=0))
    schedule.splice(chunk(T0 + 3 * DT, first=100))
    assert schedule.commanded_at(T0 - 1) is None
    commanded = [schedule.commanded_at(T0 + k * DT) for k in range(13)]
    assert [float(c[0]) for c in commanded if c is not None] == [0, 1, 2, *range(100, 108), 107, 107]
    assert schedule.remaining_s(T0 + 10 * DT) == pytest.approx(0.1)


def test_an_empty_chunk_cannot_be_commanded() -> None:
    with pytest.raises(ValueError, match="empty"):
        ChunkSchedule(joints(1)).splice(chunk(n=0))
