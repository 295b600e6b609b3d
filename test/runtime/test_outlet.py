"""What is let out here is let out the same by another outlet that takes it over."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from dp_ros.runtime.motion.chunk import ActionChunk, ChunkSchedule
from dp_ros.runtime.outlet import AFTER_REST_NS, Handover, Outlet
from test.runtime.setpoint_action import action

MS = 1_000_000
DT = 100 * MS


def chunk(start_ns: int, begin: float, speed: float = 0.5) -> ActionChunk:
    steps = begin + speed * 0.1 * np.arange(16)
    return ActionChunk(start_ns, DT, np.stack([steps, -steps], axis=1), start_ns)


class Pair:
    """An outlet, and one elsewhere that is told of each change as another process would be."""

    def __init__(self) -> None:
        self.schedule = ChunkSchedule(action())
        self.here = Outlet(action(), self.schedule)
        self.there = Outlet(action(), ChunkSchedule(action()))
        self.told = 0
        self.here.on_change = self._tell

    def _tell(self) -> None:
        self.told += 1
        self.there.take(pickle.loads(pickle.dumps(self.here.hand_over())))

    def command(self, given: ActionChunk) -> None:
        self.schedule.splice(given)
        self.here.open(given.start_ns)

    def same(self, from_ms: int, to_ms: int) -> list[float]:
        """Setpoints of the first joint from both, every 10 ms, which have to be the same."""
        found = []
        for time_ns in range(from_ms * MS, to_ms * MS, 10 * MS):
            a, b = self.here.setpoint(time_ns), self.there.setpoint(time_ns)
            assert (a is None) == (b is None), time_ns
            if a is not None and b is not None:
                assert np.array_equal(a.position, b.position), time_ns
                assert np.array_equal(a.velocity, b.velocity), time_ns
                found.append(float(b.position[0]))
        return found


def test_a_motion_a_seam_and_a_brake_are_the_same_elsewhere() -> None:
    pair = Pair()
    assert not pair.same(0, 1000), "nothing is commanded"
    pair.command(chunk(1000 * MS, 0.0))
    moved = pair.same(900, 1600)
    assert moved[-1] > moved[0]
    pair.command(chunk(1600 * MS, 0.4, speed=-0.5))
    assert pair.same(1600, 1900)
    rest_ns = pair.here.brake(1900 * MS, end=True)
    assert pair.same(1900, 4000)
    assert pair.there.setpoint(rest_ns + AFTER_REST_NS + 1) is None
    assert pair.there.rest_in_s(rest_ns) == AFTER_REST_NS / 1e9


def test_the_gate_goes_on_within_an_opening() -> None:
    pair = Pair()
    pair.command(chunk(1000 * MS, 0.0, speed=0.0))
    pair.same(1000, 1500)
    port = pair.there._port
    pair.command(chunk(1500 * MS, 0.0, speed=0.1))
    assert port is not None
    assert pair.there._port is not None
    assert pair.there._port.gate is port.gate


def test_a_second_opening_is_another_one_even_where_the_closing_between_was_not_heard_of() -> None:
    pair = Pair()
    pair.command(chunk(1000 * MS, 0.0))
    pair.same(1000, 1500)
    pair.here.on_change = lambda: None
    pair.here.close()
    pair.schedule.clear()
    pair.here.on_change = pair._tell
    pair.command(chunk(3000 * MS, 2.0))
    assert pair.same(2900, 3300)[0] == 2.0


def test_closing_stops_the_other_one_at_once() -> None:
    pair = Pair()
    pair.command(chunk(1000 * MS, 0.0))
    assert pair.same(1000, 1100)
    pair.here.close()
    assert pair.here.hand_over() == Handover(0)
    assert pair.there.setpoint(1110 * MS) is None
    assert not pair.there.is_open


def test_a_jump_of_the_clock_shifts_both() -> None:
    pair = Pair()
    pair.command(chunk(1000 * MS, 0.0))
    before = pair.same(1000, 1300)[-1]
    pair.here.shift(3_600_000 * MS)
    after = pair.same(3_601_300, 3_601_400)
    assert 0.0 < after[0] - before < 0.02


def test_what_the_gate_elsewhere_did_is_counted_here_and_outlives_the_opening() -> None:
    pair = Pair()
    pair.command(chunk(1000 * MS, 0.0))
    pair.here.heard({"VELOCITY_LIMIT": 3}, ["VELOCITY_LIMIT"])
    assert pair.here.limiting == {"VELOCITY_LIMIT"}
    pair.here.close()
    assert pair.here.counts() == {"VELOCITY_LIMIT": 3}
    assert not pair.here.limiting
    pair.here.heard({"VELOCITY_LIMIT": 4}, [])
    assert pair.here.counts() == {"VELOCITY_LIMIT": 4}


def test_a_jump_of_the_clock_during_the_last_brake_does_not_cut_it_short() -> None:
    for jump_ms in (60_000, -60_000):
        pair = Pair()
        pair.command(chunk(1000 * MS, 0.0))
        pair.same(1000, 1500)
        rest_ns = pair.here.brake(1500 * MS, end=True)
        brake_s = pytest.approx((rest_ns - 1500 * MS) / 1e9)
        assert 0.05 < pair.here.moves_for_s(1500 * MS) == brake_s
        pair.here.shift(jump_ms * MS)
        assert pair.here.moves_for_s((1500 + jump_ms) * MS) == brake_s
        end_ms = (rest_ns + AFTER_REST_NS) // MS + jump_ms
        brake = pair.same(1500 + jump_ms, end_ms)
        assert len(brake) > 25 and brake[-1] == brake[-10], "it comes to rest"
        assert pair.here.moves_for_s(rest_ns + jump_ms * MS) == 0.0
        assert not pair.same(end_ms + 1, end_ms + 1000)
