"""The setpoint gate: whatever is asked for and whenever, what leaves keeps every limit from tick to tick."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dp_ros.runtime.motion.limiter import Reason
from dp_ros.runtime.motion.limits import MotionLimits
from dp_ros.runtime.motion.spline import MotionState
from dp_ros.runtime.safety import BadAction, SetpointGate
from dp_ros.task import ActionSpec
from test.runtime.motion_specs import divided_differences, joints, pose

MS = 1_000_000
T0 = 1_700_000_000 * 1_000_000_000
LIMITS = {"velocity": 2.0, "acceleration": 10.0, "jerk": 200.0}
BOX = {"names": ["joint_0", "joint_1"], "min": [0.5, -0.5], "max": [1.0, 0.5]}

bounded = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
number = st.one_of(
    st.floats(-3.0, 3.0), st.sampled_from([float("nan"), float("inf"), -1e300, 1e6, 0.0, 2.0, -2.0])
)
#: Anything, or to stand still somewhere: beyond the ends, and in, behind and beside the box.
still = st.tuples(st.sampled_from([0.0, 0.7, 1.3, 3.0, -3.0]), st.sampled_from([0.0, 0.3, -3.0, 0.6])).map(
    lambda place: (place, (0.0, 0.0), (0.0, 0.0))
)
request = st.one_of(still, st.tuples(*[st.tuples(number, number)] * 3))
ticks = st.lists(
    st.tuples(
        st.one_of(st.integers(100_000, 30 * MS), st.sampled_from([-5, 0, 1, 2 * MS, 400 * MS])), request
    ),
    min_size=1,
    max_size=25,
)


def state(p: object, v: object = 0.0, a: object = 0.0) -> MotionState:
    parts = [np.broadcast_to(np.asarray(part, dtype=np.float64), (2,)).copy() for part in (p, v, a)]
    return MotionState(*parts)


def run(
    gate: SetpointGate, requests: list[tuple[int, MotionState]]
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], list[MotionState]]:
    """Times and setpoints, without those that repeat the one before."""
    times, out = [], []
    last: MotionState | None = gate.state
    for time_ns, wanted in requests:
        now = gate.step(wanted, time_ns)
        if now is not last:
            times.append(time_ns)
            out.append(now)
        last = now
    return np.array(times, dtype=np.int64), out


def assert_within_limits(action: ActionSpec, times: object, states: list[MotionState]) -> None:
    limits = MotionLimits.of(action)
    p = np.array([s.position for s in states])
    v = np.array([s.velocity for s in states])
    a = np.array([s.acceleration for s in states])
    edge = 1e-9 * (limits.high - limits.low)
    assert (p >= limits.low - edge).all()
    assert (p <= limits.high + edge).all()
    shortest_s = np.diff(times).min() / 1e9 if len(states) > 1 else 1.0  # type: ignore[arg-type]
    rounding = 1e-14  # of a position near 1
    chains = ((p, 0), (v, 1), (a, 2))
    bounds = (None, limits.velocity, limits.acceleration, limits.jerk)
    for values, first in chains:
        for order in range(4 - first):
            bound = bounds[first + order]
            if bound is None or len(states) <= order:
                continue
            found = np.abs(divided_differences(times, values, order))  # type: ignore[arg-type]
            assert (found <= bound * (1 + 1e-5) + 8 * rounding / shortest_s**order).all(), (first, order)


@bounded
@given(ticks)
def test_no_difference_from_tick_to_tick_exceeds_a_limit(
    steps: list[tuple[int, tuple[tuple[float, float], ...]]],
) -> None:
    action = joints(**LIMITS)
    gate = SetpointGate(action)
    gate.hold([0.0, 1.5], T0)
    requests, time_ns = [(T0 + 5 * MS, state([0.0, 1.5]))], T0 + 5 * MS
    for wait_ns, (p, v, a) in steps:
        # Each request for many ticks, so that motions gather way.
        for _ in range(30):
            time_ns += wait_ns
            requests.append((time_ns, state(p, v, a)))
    times, states = run(gate, requests)
    assert_within_limits(action, times, states)
    assert all(np.isfinite(s.position).all() for s in states)


@bounded
@given(ticks)
def test_no_setpoint_and_no_way_between_two_enters_a_box(
    steps: list[tuple[int, tuple[tuple[float, float], ...]]],
) -> None:
    action = joints(**LIMITS, keep_out=[BOX])
    gate = SetpointGate(action)
    gate.hold([0.0, 0.0], T0)
    requests, time_ns = [], T0
    for wait_ns, (p, v, a) in steps:
        for _ in range(30):
            time_ns += wait_ns
            requests.append((time_ns, state(p, v, a)))
    times, states = run(gate, requests)
    if len(states):
        assert_within_limits(action, times, states)
    places = [np.zeros(2), *(s.position for s in states)]
    for before, after in pairwise(places):
        for share in np.linspace(0.0, 1.0, 6):
            x, y = before + share * (after - before)
            assert not (0.5 + 1e-9 < x < 1.0 - 1e-9 and -0.5 + 1e-9 < y < 0.5 - 1e-9)


@bounded
@given(
    amplitude=st.floats(0.05, 1.0),
    share=st.floats(0.1, 0.999),
    phase=st.floats(0.0, 6.0),
    waits=st.lists(st.integers(200_000, 40 * MS), min_size=5, max_size=60),
)
def test_a_request_within_the_limits_leaves_as_it_came(
    amplitude: float, share: float, phase: float, waits: list[int]
) -> None:
    # The fastest sine that keeps all three limits, and some slower ones.
    rate = share * min(2.0 / amplitude, (10.0 / amplitude) ** (1 / 2), (200.0 / amplitude) ** (1 / 3))
    gate = SetpointGate(joints(**LIMITS))

    def wanted(time_ns: int) -> MotionState:
        x = rate * (time_ns - T0) / 1e9 + phase
        return state(amplitude * np.sin(x), amplitude * rate * np.cos(x), -amplitude * rate**2 * np.sin(x))

    gate._state, gate._time_ns = wanted(T0), T0
    time_ns = T0
    for wait_ns in waits:
        time_ns += wait_ns
        request = wanted(time_ns)
        out = gate.step(request, time_ns)
        assert (out.position == request.position).all()
        assert (out.velocity == request.velocity).all()
        assert (out.acceleration == request.acceleration).all()
    assert not gate.counts


@pytest.mark.parametrize("tick_ms", [1, 2, 10, 40])
def test_a_jump_is_caught_up_with_in_the_shortest_time_without_passing_it(tick_ms: int) -> None:
    gate = SetpointGate(joints(**LIMITS))
    gate.hold([-0.5, -0.5], T0)
    requests = [(T0 + k * tick_ms * MS, state(0.5)) for k in range(1, 1200 // tick_ms)]
    times, states = run(gate, requests)
    places = np.array([s.position[0] for s in states])
    assert places.max() <= 0.5 + 1e-12
    assert (np.diff(places) >= -1e-12).all()
    assert places[-1] == 0.5
    arrived_s = (times[np.argmax(places == 0.5)] - T0) / 1e9
    # 1 unit at 2 units/s, plus 2 / 10 to gain and lose that speed, plus 10 / 200 to gain and lose acceleration.
    assert 0.75 <= arrived_s <= 0.75 + 0.02 + tick_ms / 1e3


@pytest.mark.parametrize("tick_ms", [2, 10])
def test_a_moving_target_is_caught_up_with_and_then_followed_exactly(tick_ms: int) -> None:
    gate = SetpointGate(joints(**LIMITS))
    gate.hold([-1.0, -1.0], T0)
    late = 0
    for k in range(1, 3000 // tick_ms):
        x = 2.0 * k * tick_ms / 1e3
        request = state(0.6 * np.sin(x), 1.2 * np.cos(x), -2.4 * np.sin(x))
        out = gate.step(request, T0 + k * tick_ms * MS)
        if (out.position != request.position).any():
            late = k
    assert late * tick_ms < 1500


def test_a_request_beyond_the_end_of_a_joint_stops_there_softly() -> None:
    action = joints(**LIMITS)
    gate = SetpointGate(action)
    gate.hold([1.0, 1.0], T0)
    times, states = run(gate, [(T0 + k * 4 * MS, state(7.0)) for k in range(1, 400)])
    assert_within_limits(action, times, states)
    assert states[-1].position == pytest.approx([2.0, 2.0], abs=1e-6)
    assert np.abs(states[-1].velocity).max() < 1e-4
    assert gate.counts[Reason.POSITION_LIMIT] == 399


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (state(2.5), Reason.POSITION_LIMIT),
        (state(0.5), Reason.VELOCITY_LIMIT),
        (state(0.01), Reason.ACCELERATION_LIMIT),
        (state(0.00005, 0.01, 1.0), Reason.JERK_LIMIT),
        (state(float("nan")), Reason.NOT_FINITE),
        (state(0.0, float("inf")), Reason.NOT_FINITE),
    ],
)
def test_each_limit_has_its_reason_and_its_count(wanted: MotionState, reason: Reason) -> None:
    gate = SetpointGate(joints(**LIMITS))
    gate.hold([0.0, 0.0], T0)
    gate.step(wanted, T0 + 10 * MS)
    assert gate.reasons == {reason}
    assert gate.counts == {reason: 1}
    gate.step(gate.state or state(0.0), T0 + 10 * MS)
    assert gate.counts == {reason: 1}


def test_not_a_number_brakes_and_what_comes_after_it_is_taken_up_again() -> None:
    gate = SetpointGate(joints(**LIMITS))
    gate.hold([0.0, 0.0], T0)
    time_ns = T0
    for _ in range(100):
        time_ns += 5 * MS
        gate.step(state(1.0), time_ns)
    speed = gate.state.velocity[0] if gate.state else 0.0
    assert speed > 1.0
    for _ in range(80):
        time_ns += 5 * MS
        out = gate.step(state(float("nan")), time_ns)
    assert (out.velocity == 0).all()
    assert gate.counts[Reason.NOT_FINITE] == 80
    for _ in range(300):
        time_ns += 5 * MS
        out = gate.step(state(1.0), time_ns)
    assert (out.position == 1.0).all()


def test_after_a_long_pause_the_motion_brakes_before_it_goes_on() -> None:
    gate = SetpointGate(joints(**LIMITS))
    gate.hold([-1.0, -1.0], T0)
    for k in range(1, 60):
        out = gate.step(state(1.0), T0 + k * 5 * MS)
    moving = out.position[0]
    assert out.velocity[0] > 1.5
    out = gate.step(state(1.0), T0 + 3_000 * MS)
    assert out.position[0] - moving < 0.5  # 2^2 / (2 * 10), and what letting go of the acceleration adds
    assert (out.velocity == 0).all()


def test_times_that_repeat_or_go_back_give_the_last_setpoint_again() -> None:
    gate = SetpointGate(joints(**LIMITS))
    gate.hold([0.0, 0.0], T0)
    out = gate.step(state(1.0), T0 + 10 * MS)
    for time_ns in (T0 + 10 * MS, T0, T0 + 10 * MS + 50_000):
        assert gate.step(state(-1.0), time_ns) is out


def test_without_a_hold_the_first_setpoint_stands_still_within_its_range() -> None:
    gate = SetpointGate(joints(**LIMITS))
    with pytest.raises(BadAction, match="first setpoint"):
        gate.step(state(float("nan")), T0)
    out = gate.step(state(5.0, 1.0, 1.0), T0)
    assert out.position.tolist() == [2.0, 2.0]
    assert not out.velocity.any()


def test_a_setpoint_of_the_wrong_width_never_passes() -> None:
    with pytest.raises(BadAction, match=r"\[3\]"):
        SetpointGate(joints(**LIMITS)).step(MotionState.at_rest(np.zeros(3)), T0)


def test_from_outside_its_range_a_joint_goes_back_in() -> None:
    gate = SetpointGate(joints(**LIMITS))
    gate.hold([2.2, 0.0], T0)
    for k in range(1, 400):
        out = gate.step(state([1.5, 0.0]), T0 + k * 5 * MS)
        assert out.position[0] <= 2.2 + 1e-12
    assert out.position[0] == 1.5


def test_a_box_is_slid_along_and_the_reason_told() -> None:
    gate = SetpointGate(joints(**LIMITS, keep_out=[BOX]))
    gate.hold([0.0, 0.0], T0)
    for k in range(1, 400):
        out = gate.step(state([0.7, 1.0]), T0 + k * 5 * MS)
    assert gate.counts[Reason.KEEP_OUT] > 0
    assert out.position.tolist() == [0.7, 1.0]


def test_a_target_in_a_box_is_approached_up_to_its_face() -> None:
    gate = SetpointGate(joints(**LIMITS, keep_out=[BOX]))
    gate.hold([0.0, 0.0], T0)
    for k in range(1, 400):
        out = gate.step(state([0.7, 0.0]), T0 + k * 5 * MS)
    assert 0.499 < out.position[0] <= 0.5
    assert Reason.KEEP_OUT in gate.reasons


def test_from_inside_a_box_nothing_moves() -> None:
    gate = SetpointGate(joints(**LIMITS, keep_out=[BOX]))
    gate.hold([0.7, 0.0], T0)
    for k in range(1, 50):
        out = gate.step(state([0.0, 0.0]), T0 + k * 5 * MS)
    assert out.position.tolist() == [0.7, 0.0]


def test_a_gripper_changes_at_once_and_only_within_its_range() -> None:
    gate = SetpointGate(pose())
    at = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    gate.hold(at, T0)
    wanted = at.copy()
    wanted[7] = 1.0
    assert gate.step(MotionState.at_rest(wanted), T0 + 10 * MS).position[7] == 1.0
    wanted[7] = 3.0
    assert gate.step(MotionState.at_rest(wanted), T0 + 20 * MS).position[7] == 1.0
    assert gate.counts == {Reason.POSITION_LIMIT: 1}
