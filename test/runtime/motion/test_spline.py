"""Quintic paths: continuity, exact values at knots, and bounds that hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dp_ros.runtime.motion.spline import MotionState, QuinticPath, through_waypoints

MS = 1_000_000
T0 = 1_700_000_000 * 1_000_000_000
bounded = settings(max_examples=40, deadline=None, derandomize=True)
waypoints = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 12), st.just(3)), elements=st.floats(-100.0, 100.0, width=32)
)


def times(n: int, step_ns: int = 100 * MS) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return T0 + step_ns * np.arange(n, dtype=np.int64)


def test_a_minimum_jerk_motion_has_the_known_peaks() -> None:
    # x = 10 u^3 - 15 u^4 + 6 u^5 (Flash and Hogan 1985): v = 1.875 at the middle, a = 10 / sqrt(3), j = 60.
    p = np.array([[0.0], [1.0]])
    path = QuinticPath([T0, T0 + 1000 * MS], p, np.zeros_like(p), np.zeros_like(p))
    middle = path.state_at(T0 + 500 * MS)
    assert middle.position == pytest.approx([0.5])
    assert middle.velocity == pytest.approx([1.875])
    assert middle.acceleration == pytest.approx([0.0], abs=1e-12)
    bounds = path.bounds()
    assert 1.875 <= bounds.velocity[0] < 1.02 * 1.875
    assert 10 / np.sqrt(3) <= bounds.acceleration[0] < 1.05 * 10 / np.sqrt(3)
    assert bounds.jerk[0] == pytest.approx(60.0)
    assert bounds.low[0] == pytest.approx(0.0, abs=1e-12)
    assert bounds.high[0] == pytest.approx(1.0)


def test_waypoints_on_a_line_give_a_steady_motion() -> None:
    path = through_waypoints(times(5), 0.3 * np.arange(5.0)[:, None])
    for time_ns in range(T0, T0 + 400 * MS, 7 * MS):
        state = path.state_at(time_ns)
        assert state.position[0] == pytest.approx(3.0 * (time_ns - T0) / 1e9, abs=1e-12)
        assert state.velocity[0] == pytest.approx(3.0)


def test_the_natural_spline_through_a_single_step_has_the_known_slopes() -> None:
    # Knots 0, 0, 1, 1 one second apart: second derivatives 6 / 5 and -6 / 5 at the inner ones.
    path = through_waypoints(times(4, 1000 * MS), np.array([[0.0], [0.0], [1.0], [1.0]]))
    assert path.accelerations[:, 0].tolist() == pytest.approx([0.0, 2.0, -2.0, 0.0], abs=1e-12)
    assert path.velocities[1, 0] == pytest.approx(path.velocities[2, 0])


@bounded
@given(waypoints)
def test_a_path_goes_through_its_waypoints_and_its_derivatives_fit_together(values: np.ndarray) -> None:
    path = through_waypoints(times(len(values)), values)
    for i, row in enumerate(values):
        assert path.state_at(T0 + 100 * MS * i).position == pytest.approx(row)
    every = np.arange(T0, path.end_ns, MS)
    if not len(every):
        return
    p, v, a = path.states_at(every)
    bounds, h = path.bounds(), 1e-3
    slack = 1e-9 * (1 + np.abs(values).max())
    assert (np.abs(np.diff(p, axis=0) - (v[1:] + v[:-1]) / 2 * h) <= bounds.jerk * h**3 / 12 + slack).all()
    assert (np.abs(np.diff(v, axis=0) - (a[1:] + a[:-1]) / 2 * h) <= bounds.jerk * h**2 / 4 + slack).all()
    assert (np.abs(np.diff(a, axis=0)) <= bounds.jerk * h * (1 + 1e-9) + slack).all()


@bounded
@given(waypoints)
def test_bounds_are_never_less_than_what_is_reached(values: np.ndarray) -> None:
    path = through_waypoints(times(len(values)), values)
    p, v, a = path.states_at(np.arange(T0, path.end_ns + 1, 3 * MS))
    bounds = path.bounds()
    slack = 1e-9 * (1 + np.abs(values).max())
    assert (p >= bounds.low - slack).all()
    assert (p <= bounds.high + slack).all()
    assert (np.abs(v) <= bounds.velocity * (1 + 1e-9) + slack).all()
    assert (np.abs(a) <= bounds.acceleration * (1 + 1e-9) + slack).all()
    low, high = path.ranges()
    assert (low.min(axis=0) == bounds.low).all()
    assert (high.max(axis=0) == bounds.high).all()


@bounded
@given(waypoints, st.integers(0, 1500 * MS), st.integers(0, 1500 * MS))
def test_cutting_and_joining_changes_nothing(values: np.ndarray, first_ns: int, length_ns: int) -> None:
    path = through_waypoints(times(len(values)), values)
    scale = 1 + np.abs(values).max()
    end_ns = min(T0 + first_ns, path.end_ns)
    whole = path.cut(T0, end_ns).then(path.cut(end_ns, None))
    for time_ns in range(T0, path.end_ns, 17 * MS):
        assert np.abs(whole.state_at(time_ns).position - path.state_at(time_ns).position).max() < 1e-9 * scale
    assert whole.end_ns == path.end_ns


def test_one_time_and_many_times_give_the_same_states() -> None:
    path = through_waypoints(times(6), np.random.default_rng(0).normal(size=(6, 2)))
    every = np.arange(T0 - 50 * MS, T0 + 600 * MS, 11 * MS)
    p, v, a = path.states_at(every)
    for i, time_ns in enumerate(every.tolist()):
        if time_ns < T0:
            continue
        state = path.state_at(time_ns)
        assert state.position == pytest.approx(p[i], abs=1e-12)
        assert state.velocity == pytest.approx(v[i], abs=1e-9)
        assert state.acceleration == pytest.approx(a[i], abs=1e-7)


def test_after_the_last_knot_it_stands_still() -> None:
    path = QuinticPath.at_rest([1.0, 2.0], T0)
    state: MotionState = path.state_at(T0 + 10**12)
    assert state.position.tolist() == [1.0, 2.0]
    assert not state.velocity.any()
    assert path.bounds().jerk.tolist() == [0.0, 0.0]
