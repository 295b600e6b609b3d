"""Stops that are always possible, near the end of a range above all, and planning that takes a bounded effort."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dp_ros.runtime.motion import planning
from dp_ros.runtime.motion.axis_limiter import AxisLimiter, Excess
from dp_ros.runtime.motion.chunk import ActionChunk, ChunkSchedule
from dp_ros.runtime.motion.limiter import HARDER, MOST_TICKS, MotionLimiter
from dp_ros.runtime.motion.limits import MotionLimits
from dp_ros.runtime.motion.planning import BRACKETS, HALVINGS, LATER_TICKS
from dp_ros.runtime.motion.spline import MotionState, QuinticPath, TrajectoryPoints
from dp_ros.runtime.motion.stopping import stopping_ranges
from dp_ros.runtime.safety import gate_points
from dp_ros.task import ActionSpec
from test.runtime.motion_specs import assert_smooth, joints, sampled

MS = 1_000_000
DT = 100 * MS
T0 = 1_700_000_000 * 1_000_000_000
LIMITS = {"velocity": 2.0, "acceleration": 10.0, "jerk": 200.0}
#: Of the fault matrix: much jerk, so that ticks decide how hard is braked.
QUICK = {"velocity": 3.0, "acceleration": 20.0, "jerk": 2000.0}
END = 0.8

bounded = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
#: Mostly at, near or far beyond the ends of the range.
edge = st.one_of(
    st.sampled_from([END, -END, 100.0, -100.0, END - 1e-3, 0.0]), st.floats(-1.2 * END, 1.2 * END)
)
edges = st.lists(
    st.tuples(
        st.integers(1, 6), st.lists(st.tuples(edge, edge), min_size=1, max_size=10), st.integers(0, 99)
    ),
    min_size=1,
    max_size=3,
)
limits_of = st.sampled_from([LIMITS, QUICK, {}])


def commanded(
    action: ActionSpec, plan: list[tuple[int, list[tuple[float, float]], int]]
) -> tuple[ChunkSchedule, int]:
    """A schedule in which chunks follow one another, each clipped to the range; and the last seam."""
    schedule, start_ns = ChunkSchedule(action), T0
    schedule.hold([0.0, 0.5 * END], T0)
    for steps, values, off_ms in plan:
        start_ns += steps * DT
        inside = np.clip(np.array(values), -END, END)
        schedule.splice(ActionChunk(start_ns, DT, inside, start_ns), not_before_ns=start_ns + off_ms * MS)
    return schedule, start_ns


@bounded
@given(edges, st.integers(-300, 900), limits_of)
def test_a_brake_near_the_end_of_a_range_at_any_speed_stays_within_it(
    plan: list[tuple[int, list[tuple[float, float]], int]], at_ms: int, limits: dict[str, Any]
) -> None:
    action = joints(position=END, **limits)
    schedule, seam_ns = commanded(action, plan)
    begin_ns = max(seam_ns + at_ms * MS + 123_457, T0)
    rest_ns = schedule.brake(begin_ns)
    assert_smooth(action, *sampled(schedule, max(begin_ns - 50 * MS, T0), rest_ns + 20 * MS))
    points = schedule.points(begin_ns)
    assert points is not None
    passed, reasons = gate_points(action, points)
    assert passed is points, reasons


@bounded
@given(edges, limits_of)
def test_chunks_far_out_keep_the_limits_and_pass_the_gate_as_they_are(
    plan: list[tuple[int, list[tuple[float, float]], int]], limits: dict[str, Any]
) -> None:
    action = joints(position=END, **limits)
    schedule, seam_ns = commanded(action, plan)
    points = schedule.points(T0)
    assert points is not None
    assert_smooth(action, *sampled(schedule, T0, min(int(points.times_ns[-1]), T0 + 6000 * MS)))
    passed, reasons = gate_points(action, points)
    assert passed is points, reasons


@bounded
@given(edges, limits_of)
def test_what_is_scheduled_can_be_stopped_at_every_tick(
    plan: list[tuple[int, list[tuple[float, float]], int]], limits: dict[str, Any]
) -> None:
    action = joints(position=END, **limits)
    schedule, _ = commanded(action, plan)
    p, v, a = (part[:3000] for part in sampled(schedule, T0, T0 + 3000 * MS))
    low, high = stopping_ranges(p, v, a, MotionLimits.of(action))
    # Between two ticks of the plan a stop may have to wait for the next one.
    assert np.maximum(high - END, -END - low).max() < 1e-3
    assert (np.maximum(high - END, -END - low) < 1e-9).all(axis=1).mean() > 0.9


# --- the fastest stop -------------------------------------------------------------------------------------

state = st.tuples(st.floats(-0.7, 0.7), st.floats(-3.0, 3.0), st.floats(-25.0, 25.0))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(state, min_size=1, max_size=4))
def test_where_the_fastest_stop_leads_is_the_same_for_arrays_and_is_reached_by_it(
    states: list[tuple[float, float, float]],
) -> None:
    action = joints(len(states), position=END, **QUICK)
    limits, values = MotionLimits.of(action), np.array(states)
    low, high = stopping_ranges(values[None, :, 0], values[None, :, 1], values[None, :, 2], limits)
    axis = AxisLimiter(-END, END, 3.0, 20.0, 2000.0)
    for i, one in enumerate(states):
        assert (low[0, i], high[0, i]) == pytest.approx(axis.stopping_range(one), abs=1e-12)
        outside = low[0, i] < -END - 2e-9 or high[0, i] > END + 2e-9
        assert (axis.keeps(one) is Excess.POSITION) == outside
    path = MotionLimiter(action, limits).stopped(MotionState(*values.T.copy()), T0)
    assert len(path.times_ns) <= 3 * len(states) + 1
    p, v, _ = path.states_at(np.arange(T0, path.end_ns + MS, MS // 4))
    assert (p >= low - 1e-6).all()
    assert (p <= high + 1e-6).all()
    assert not v[-1].any()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(state, st.floats(0.0, 0.2))
def test_what_is_left_of_a_stop_is_a_stop(start: tuple[float, float, float], after_s: float) -> None:
    axis = AxisLimiter(-END, END, 3.0, 20.0, 2000.0)
    low, high = axis.stopping_range(start)
    then_low, then_high = axis.stopping_range(axis.heading(start, 0.0, after_s))
    assert then_low >= low - 1e-9
    assert then_high <= high + 1e-9


# --- the end of the range wins ------------------------------------------------------------------------------


def racing(distance: float, speed: float) -> TrajectoryPoints:
    """A trajectory that begins this far from the end of its range at a speed, and goes on beyond it."""
    p = np.array([[END - distance], [END + 1.0]])
    return TrajectoryPoints(np.array([T0, T0 + 500 * MS]), p, np.array([[speed], [0.0]]), np.zeros((2, 1)))


@pytest.mark.parametrize("speed", [0.3, 1.0, 2.9])
def test_a_motion_that_has_room_to_stop_stops_with_the_acceleration_that_is_allowed(speed: float) -> None:
    action = joints(1, position=END, **QUICK)
    room = 1.15 * (speed**2 / 2 / 19.0 + speed * 19.0 / 2 / 950.0)
    points, _ = gate_points(action, racing(room, speed))
    path = QuinticPath.from_points(points)
    assert_smooth(action, *path.states_at(np.arange(path.start_ns, path.end_ns, MS)))


@pytest.mark.parametrize(("speed", "share"), [(1.0, 0.8), (2.9, 0.5), (2.9, 0.2)])
def test_a_motion_without_room_to_stop_brakes_harder_and_stops_before_the_end(
    speed: float, share: float
) -> None:
    action = joints(1, position=END, **QUICK)
    points, reasons = gate_points(action, racing(share * speed**2 / 2 / 20.0, speed))
    path = QuinticPath.from_points(points)
    p, v, a = path.states_at(np.arange(path.start_ns, path.end_ns + MS, MS))
    assert p.max() <= END + 1e-4
    assert 20.0 < np.abs(a).max() <= 20.0 * HARDER[-1]
    assert np.abs(v).max() <= 3.0
    assert reasons


# --- effort -----------------------------------------------------------------------------------------------


class Counted:
    """Counts calls of methods while it is entered."""

    def __init__(self, patch: pytest.MonkeyPatch, *methods: tuple[Any, str]) -> None:
        self.calls = dict.fromkeys((name for _, name in methods), 0)
        for owner, name in methods:
            patch.setattr(owner, name, self._counting(name, getattr(owner, name)))

    def _counting(self, name: str, method: Any) -> Any:
        def counting(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            return method(*args, **kwargs)

        return counting


@pytest.fixture(params=[(2, 51), (7, 51), (7, 16)], ids=str)
def far_out(request: pytest.FixtureRequest) -> Iterator[tuple[ActionSpec, list[np.ndarray]]]:
    """An arm and chunks of 51 or 16 actions that it cannot follow."""
    dim, n = request.param
    rng = np.random.default_rng(5)
    wave = np.sin(4 * 0.1 * np.arange(n)[:, None] + rng.uniform(0, 6, dim))
    yield (
        joints(dim, position=END, **QUICK),
        [
            rng.uniform(-END, END, (n, dim)),
            np.clip(END * (1 + 0.3 * wave), -END, END),
            np.tile(rng.choice([-END, END], dim), (n, 1)),
        ],
    )


def test_a_chunk_that_cannot_be_followed_takes_a_bounded_effort(
    far_out: tuple[ActionSpec, list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    action, rows = far_out
    for values in rows:
        schedule = ChunkSchedule(action)
        schedule.hold(np.zeros(values.shape[1]), T0)
        with monkeypatch.context() as patch:
            counted = Counted(
                patch, (AxisLimiter, "towards"), (AxisLimiter, "exceeded"), (QuinticPath, "bounds")
            )
            schedule.splice(ActionChunk(T0 + DT, DT, values, T0))
        assert counted.calls["exceeded"] <= 2 * MOST_TICKS
        assert counted.calls["towards"] <= MOST_TICKS + values.shape[1]
        # Ends that double, the last two, and halving between them; and the way to rest.
        assert counted.calls["bounds"] <= 2 * np.log2(len(values)) + 3 + planning.LONGEST_SETTLE


@pytest.mark.parametrize("at_ms", [150, 250, 400, 900])
def test_a_brake_takes_a_bounded_effort(
    far_out: tuple[ActionSpec, list[np.ndarray]], at_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    action, rows = far_out
    for values in rows:
        schedule = ChunkSchedule(action)
        schedule.hold(np.zeros(values.shape[1]), T0)
        schedule.splice(ActionChunk(T0 + DT, DT, values, T0))
        with monkeypatch.context() as patch:
            counted = Counted(patch, (QuinticPath, "bounds"), (AxisLimiter, "exceeded"))
            schedule.brake(T0 + at_ms * MS)
        most = BRACKETS + HALVINGS + planning.LONGEST_SETTLE + 1 + 3 * (LATER_TICKS + 1)
        assert counted.calls["bounds"] <= most
        assert not counted.calls["exceeded"]


def test_at_the_very_end_of_a_range_a_chunk_is_blended_into_as_anywhere_else() -> None:
    schedule = ChunkSchedule(joints(1, position=END, **QUICK))
    schedule.hold([0.5], T0)
    seam = schedule.splice(ActionChunk(T0 + DT, DT, np.full((16, 1), END), T0))
    assert not seam.limited
    assert schedule.commanded_at(T0 + 20 * DT) == pytest.approx([END], abs=1e-4)


@pytest.mark.parametrize(("short_of_end", "stoppable"), [(0.0, False), (0.02, True)])
def test_a_motion_that_turns_at_the_end_of_its_range_needs_room_to_let_go_of_its_acceleration(
    short_of_end: float, stoppable: bool
) -> None:
    action = joints(1, position=END, **LIMITS)
    limiter = MotionLimiter(action, MotionLimits.of(action).planning(0.005))
    rate, t = np.sqrt(9.0 / 0.3), 0.05 * np.arange(24)
    wave, slope = np.cos(rate * t)[:, None], np.sin(rate * t)[:, None]
    p = END - 1e-5 - short_of_end - 0.3 * (1 + wave)
    path = QuinticPath(T0 + np.rint(t * 1e9).astype(np.int64), p, 0.3 * rate * slope, 9.0 * wave)
    assert limiter.limits.hold(path.bounds(), np.array([0])), "the motion itself keeps the limits"
    assert limiter.stoppable(path, 5 * MS) == stoppable
