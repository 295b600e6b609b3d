"""The smooth schedule: one motion through all chunks, within the limits, whatever comes and whenever."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dp_ros.runtime.motion.chunk import ActionChunk, ChunkSchedule, Seam
from dp_ros.runtime.motion.commanded import SHORTEST_NS
from dp_ros.runtime.motion.limits import MotionLimits
from dp_ros.runtime.motion.spline import MotionState, QuinticPath, TrajectoryPoints
from dp_ros.runtime.safety import SetpointGate, gate_points
from dp_ros.sim.trajectory_controller import Trajectory, TrajectoryController
from dp_ros.task import ActionSpec
from test.runtime.motion_specs import assert_smooth, joints, pose, sampled

MS = 1_000_000
DT = 100 * MS
T0 = 1_700_000_000 * 1_000_000_000
LIMITS = {"velocity": 2.0, "acceleration": 10.0, "jerk": 200.0}

bounded = settings(
    max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
#: Chunks: steps after the one before, values, how far off the grid, how long what runs is committed.
value = st.one_of(st.floats(-2.0, 2.0), st.sampled_from([-2.0, 2.0]))
chunks = st.lists(
    st.tuples(
        st.integers(-6, 12),
        st.lists(st.tuples(value, value), min_size=1, max_size=8),
        st.integers(0, 99),
        st.integers(-200, 900),
    ),
    min_size=1,
    max_size=4,
)


def chunk(values: object, start_ns: int = T0) -> ActionChunk:
    rows = np.asarray(values, dtype=np.float64)
    return ActionChunk(start_ns, DT, rows[:, None] if rows.ndim == 1 else rows, start_ns)


def rests_ns(points: TrajectoryPoints) -> int:
    """Since when it stands still."""
    return int(points.times_ns[np.flatnonzero(points.velocities.any(axis=1))[-1] + 1])


def spliced(action: ActionSpec, plan: list[tuple[int, list[tuple[float, float]], int, int]]) -> ChunkSchedule:
    schedule = ChunkSchedule(action)
    schedule.hold([0.5, -0.5], T0)
    start_ns = T0
    for steps, values, off_ms, committed_ms in plan:
        start_ns = max(start_ns + steps * DT + off_ms * MS, T0 + MS)
        not_before_ns = max(start_ns + committed_ms * MS, T0 + MS)
        before = schedule.state_at(not_before_ns)
        seam = schedule.splice(chunk(values, start_ns), not_before_ns=not_before_ns)
        jumps = np.concatenate([seam.position_jump, seam.velocity_jump, seam.acceleration_jump])
        assert np.abs(jumps).max() < 1e-9
        after = schedule.state_at(min(not_before_ns, seam.time_ns))
        assert before is not None
        if seam.time_ns == not_before_ns:
            assert after is not None
            assert after.position == pytest.approx(before.position, abs=1e-12)
    return schedule


@bounded
@given(chunks)
def test_whatever_chunks_come_the_motion_goes_on_within_the_limits_and_ends_at_rest(
    plan: list[tuple[int, list[tuple[float, float]], int, int]],
) -> None:
    action = joints(**LIMITS)
    schedule = spliced(action, plan)
    points = schedule.points(T0)
    assert points is not None
    end_ns = int(points.times_ns[-1])
    assert_smooth(action, *sampled(schedule, T0, min(end_ns + 50 * MS, T0 + 12_000 * MS)))
    last = schedule.state_at(end_ns + 1)
    assert last is not None
    assert not last.velocity.any()
    assert not last.acceleration.any()


@bounded
@given(chunks, st.integers(0, 3000))
def test_a_trajectory_of_it_is_accepted_and_executed_as_it_was_planned(
    plan: list[tuple[int, list[tuple[float, float]], int, int]], from_ms: int
) -> None:
    schedule = spliced(joints(**LIMITS), plan)
    from_ns = T0 + from_ms * MS + 7
    points = schedule.points(from_ns)
    assert points is not None
    assert points.accelerations is not None
    assert points.times_ns[0] == from_ns
    robot = TrajectoryController(["joint_0", "joint_1"])
    start = schedule.state_at(from_ns)
    assert start is not None
    robot.hold(start.position)
    message = Trajectory(
        from_ns,
        ["joint_0", "joint_1"],
        (points.times_ns - from_ns).tolist(),
        points.positions.tolist(),
        points.velocities.tolist(),
        points.accelerations.tolist(),
    )
    assert robot.accept(message, from_ns) is None
    robot.sample(from_ns)
    length_ns = int(points.times_ns[-1]) - from_ns
    for time_ns in (from_ns + k * length_ns // 100 for k in range(101)):
        commanded = schedule.state_at(time_ns)
        assert commanded is not None
        executed = robot.sample_state(time_ns)
        assert np.abs(executed.position - commanded.position).max() < 1e-9
        assert np.abs(executed.velocity - commanded.velocity).max() < 1e-7


@bounded
@given(chunks, st.integers(0, 3000))
def test_braking_stops_within_the_limits_and_no_later_than_planned(
    plan: list[tuple[int, list[tuple[float, float]], int, int]], at_ms: int
) -> None:
    action = joints(**LIMITS)
    schedule = spliced(action, plan)
    points = schedule.points(T0 + at_ms * MS)
    assert points is not None
    planned_ns = int(points.times_ns[-1])
    rest_ns = schedule.brake(T0 + at_ms * MS)
    assert rest_ns <= planned_ns
    assert_smooth(action, *sampled(schedule, T0 + max(at_ms - 50, 0) * MS, rest_ns + 50 * MS))
    last = schedule.state_at(rest_ns + 1)
    assert last is not None
    assert not last.velocity.any()
    assert schedule.remaining_s(T0 + at_ms * MS) == 0.0
    assert len(schedule.upcoming(T0 + at_ms * MS, 5)) == 0


@bounded
@given(chunks)
def test_the_setpoint_gate_lets_it_pass_as_it_is(
    plan: list[tuple[int, list[tuple[float, float]], int, int]],
) -> None:
    action = joints(**LIMITS)
    schedule, gate = spliced(action, plan), SetpointGate(action)
    gate.hold([0.5, -0.5], T0)
    for time_ns in range(T0 + 7 * MS, T0 + 2000 * MS, 7 * MS):
        commanded = schedule.state_at(time_ns)
        assert commanded is not None
        assert (gate.step(commanded, time_ns).position == commanded.position).all()
    assert not gate.counts


@bounded
@given(
    st.lists(
        st.tuples(st.floats(-4, 4), st.floats(-9, 9), st.floats(-40, 40), st.integers(2, 300)),
        min_size=2,
        max_size=8,
    )
)
def test_any_trajectory_that_passes_the_gate_keeps_the_limits_when_it_is_interpolated(
    rows: list[tuple[float, float, float, int]],
) -> None:
    action = joints(1, **LIMITS)
    wanted = np.array(rows)
    times = T0 + np.cumsum(wanted[:, 3]).astype(np.int64) * MS
    p, v, a = (wanted[:, [i]] for i in range(3))
    p[0], v[0], a[0] = np.clip(p[0], -1.0, 1.0), 0.0, 0.0
    points, _ = gate_points(action, TrajectoryPoints(times, p, v, a))
    assert (np.diff(points.times_ns) > 0).all()
    assert not points.velocities[-1].any()
    assert (points.positions[0] == p[0]).all()
    path = QuinticPath.from_points(points)
    every = np.arange(path.start_ns, min(path.end_ns, path.start_ns + 12_000 * MS), MS)
    assert_smooth(action, *path.states_at(every))


def test_a_trajectory_within_the_limits_passes_the_gate_as_it_is() -> None:
    action = joints(1, **LIMITS)
    schedule = ChunkSchedule(action)
    schedule.hold([0.0], T0)
    schedule.splice(chunk(0.1 * np.arange(8), T0 + DT))
    points = schedule.points(T0)
    assert points is not None
    passed, reasons = gate_points(action, points)
    assert passed is points
    assert not reasons


# --- known numbers ----------------------------------------------------------------------------------------


def test_a_steady_motion_is_followed_exactly_through_a_seam() -> None:
    schedule = ChunkSchedule(joints(1, **LIMITS))
    schedule.splice(chunk(0.05 * np.arange(16)))
    for k in range(3, 12):
        schedule.splice(chunk(0.05 * np.arange(k, k + 16), T0 + k * DT))
    for time_ns in range(T0 + 8 * DT, T0 + 25 * DT, 13 * MS):
        state = schedule.state_at(time_ns)
        assert state is not None
        assert state.position[0] == pytest.approx(0.5 * (time_ns - T0) / 1e9, abs=1e-9)
        assert state.velocity[0] == pytest.approx(0.5)
        assert state.acceleration[0] == pytest.approx(0.0, abs=1e-6)


def test_the_first_chunk_starts_from_the_hold_and_the_waypoints_after_the_blend_are_met_on_time() -> None:
    schedule = ChunkSchedule(joints(1, **LIMITS))
    schedule.hold([0.2], T0)
    seam = schedule.splice(chunk(0.5 * np.sin(0.2 * np.arange(16)), T0 + DT))
    assert schedule.commanded_at(T0 + DT - 1) == pytest.approx([0.2])
    assert 0.1 <= seam.blend_s <= 0.8
    assert not seam.limited
    for i in range(round(seam.blend_s * 10), 16):
        assert schedule.commanded_at(T0 + DT + i * DT) == pytest.approx([0.5 * np.sin(0.2 * i)], abs=1e-9)


def test_the_blend_is_a_minimum_jerk_motion_and_as_short_as_the_limits_allow() -> None:
    # From rest at 0 to rest at 1 in T: peaks 1.875 / T, 5.7735 / T^2, 60 / T^3 (Flash and Hogan 1985).
    schedule = ChunkSchedule(joints(1, velocity=1.95, acceleration=10.0, jerk=1000.0))
    schedule.hold([0.0], T0)
    seam = schedule.splice(chunk(np.ones(16), T0 + DT))
    assert seam.blend_s == pytest.approx(1.0)  # 1.875 / 0.98 / 1.95 = 0.981
    _, v, a = sampled(schedule, T0 + DT, T0 + 11 * DT)
    assert v.max() == pytest.approx(1.875, abs=1e-4)
    assert a.max() == pytest.approx(5.7735, abs=1e-3)
    tighter = ChunkSchedule(joints(1, velocity=1.9, acceleration=10.0, jerk=1000.0))
    tighter.hold([0.0], T0)
    assert tighter.splice(chunk(np.ones(16), T0 + DT)).blend_s == pytest.approx(1.1)


def test_the_seam_tells_what_an_outright_splice_would_have_jumped() -> None:
    schedule = ChunkSchedule(joints(1, **LIMITS))
    schedule.splice(chunk(0.05 * np.arange(16)))
    seam = schedule.splice(chunk(1.2 - 0.02 * np.arange(16), T0 + 8 * DT))
    assert seam.outright_position_jump[0] == pytest.approx(0.8, abs=0.01)
    assert seam.outright_velocity_jump[0] == pytest.approx(-0.7, abs=0.02)
    assert np.abs(seam.velocity_jump).max() < 1e-9


def test_actions_meant_for_before_what_is_committed_are_not_commanded() -> None:
    schedule = ChunkSchedule(joints(1, **LIMITS))
    schedule.splice(chunk(np.zeros(16)))
    seam = schedule.splice(chunk(np.full(16, 0.3), T0 + 2 * DT), not_before_ns=T0 + 5 * DT + 30 * MS)
    assert seam.time_ns == T0 + 5 * DT + 30 * MS
    assert schedule.commanded_at(seam.time_ns) == pytest.approx([0.0])
    assert schedule.commanded_at(T0 + 17 * DT) == pytest.approx([0.3])


def test_a_chunk_that_lies_before_what_is_committed_changes_nothing() -> None:
    schedule = ChunkSchedule(joints(1, **LIMITS))
    schedule.splice(chunk(0.05 * np.arange(16)))
    before = schedule.points(T0)
    seam = schedule.splice(chunk(np.ones(4), T0), not_before_ns=T0 + 10 * DT)
    assert not seam.spliced
    after = schedule.points(T0)
    assert before is not None
    assert after is not None
    assert (before.positions == after.positions).all()


def test_a_chunk_after_the_motion_has_come_to_rest_starts_from_there() -> None:
    schedule = ChunkSchedule(joints(1, **LIMITS))
    schedule.splice(chunk(np.zeros(4)))
    seam = schedule.splice(chunk(np.full(8, 0.1), T0 + 50 * DT))
    assert schedule.commanded_at(T0 + 50 * DT) == pytest.approx([0.0])
    assert seam.spliced
    assert schedule.commanded_at(T0 + 57 * DT) == pytest.approx([0.1])


def test_after_the_last_action_it_brakes_at_once_and_the_stop_does_not_count_as_remaining() -> None:
    schedule = ChunkSchedule(joints(1, **LIMITS))
    schedule.splice(chunk(0.1 * np.arange(8)))
    at_last = schedule.state_at(T0 + 7 * DT)
    assert at_last is not None
    assert at_last.velocity == pytest.approx([1.0])
    points = schedule.points(T0)
    assert points is not None
    rest_s = (rests_ns(points) - T0) / 1e9
    # A cubic fall of the velocity from 1: 1.5 / T <= 9.5 and 6 / T^2 <= 95.2.
    assert rest_s == pytest.approx(0.7 + np.sqrt(6 / (200 / 2.1)), abs=1e-6)
    assert points.positions[-1] == pytest.approx([0.7 + np.sqrt(6 / (200 / 2.1)) / 2])
    assert schedule.remaining_s(T0 + 5 * DT) == pytest.approx(0.3)
    assert schedule.remaining_s(T0 + 8 * DT) == 0.0


def test_near_the_end_of_a_joint_the_tail_stays_within_it() -> None:
    action = joints(1, position=1.0, **LIMITS)
    schedule = ChunkSchedule(action)
    schedule.splice(chunk(0.15 * np.arange(-1, 7)))
    points = schedule.points(T0)
    assert points is not None
    assert points.positions.max() <= 1.0
    assert_smooth(action, *sampled(schedule, T0, int(points.times_ns[-1])))


def test_upcoming_is_the_commanded_position_at_each_step_up_to_the_last_action() -> None:
    schedule = ChunkSchedule(joints(1, **LIMITS))
    schedule.splice(chunk(0.05 * np.arange(8)))
    upcoming = schedule.upcoming(T0 + 5 * DT, 10)
    assert upcoming[:, 0].tolist() == pytest.approx([0.25, 0.3, 0.35])
    assert len(schedule.upcoming(T0 + 2 * DT, 3)) == 3
    assert schedule.upcoming(T0 + 8 * DT, 3).shape == (0, 1)


def test_braking_along_the_path_covers_half_of_what_would_have_been_covered() -> None:
    schedule = ChunkSchedule(joints(2, **LIMITS))
    schedule.splice(chunk(np.stack([0.1 * np.arange(16), -0.05 * np.arange(16)], axis=1)))
    begin_ns = T0 + 10 * DT
    rest_ns = schedule.brake(begin_ns)
    where = schedule.commanded_at(rest_ns)
    assert where is not None
    travelled = where - [1.0, -0.5]
    assert travelled[0] == pytest.approx(0.5 * (rest_ns - begin_ns) / 1e9, rel=1e-6)
    assert travelled[1] == pytest.approx(-travelled[0] / 2)
    assert rest_ns - begin_ns < 300 * MS


def test_braking_stays_on_a_curved_path() -> None:
    braked, whole = ChunkSchedule(joints(2, **LIMITS)), ChunkSchedule(joints(2, **LIMITS))
    x = 0.15 * np.arange(20)
    for schedule in (braked, whole):
        schedule.splice(chunk(np.stack([0.5 * np.sin(x), 0.5 * np.cos(x)], axis=1)))
    begin_ns = T0 + 12 * DT + 50 * MS
    rest_ns = braked.brake(begin_ns)
    on_path = whole.commanded_at((begin_ns + rest_ns) // 2)
    assert on_path is not None
    assert braked.commanded_at(rest_ns) == pytest.approx(on_path, abs=1e-6)
    turned = [begin_ns + k * (rest_ns - begin_ns) // 19 for k in range(20)]
    radii = [np.linalg.norm(place) for t in turned if (place := braked.commanded_at(t)) is not None]
    assert radii == pytest.approx([0.5] * 20, abs=1e-4)


def test_at_full_speed_and_acceleration_braking_is_the_fastest_stop() -> None:
    action = joints(1, position=5.0, **LIMITS)
    schedule = ChunkSchedule(action)
    schedule.hold([-4.0], T0)
    schedule.splice(chunk(np.full(30, 4.0), T0 + DT))  # far away: followed as fast as the limits allow
    begin_ns = T0 + DT + 200 * MS
    before = schedule.state_at(begin_ns)
    assert before is not None
    assert before.acceleration[0] == pytest.approx(9.5)
    rest_ns = schedule.brake(begin_ns)
    # To let go of the acceleration, and to brake from 0.95 + 9.5^2 / (2 * 95.2) units/s, with jerk 200 / 2.1.
    assert 0.1 < (rest_ns - begin_ns) / 1e9 < 0.5
    assert_smooth(action, *sampled(schedule, T0, rest_ns + 50 * MS))


def test_points_can_end_early_with_a_brake() -> None:
    schedule = ChunkSchedule(joints(1, **LIMITS))
    schedule.splice(chunk(0.1 * np.arange(16)))
    points = schedule.points(T0 + DT, T0 + 10 * DT)
    assert points is not None
    assert T0 + 10 * DT < rests_ns(points) < T0 + 13 * DT
    assert points.times_ns[-1] >= rests_ns(points) + SHORTEST_NS, "a stop that is held up must still count"
    assert not points.velocities[-1].any()
    assert schedule.commanded_at(T0 + 15 * DT) == pytest.approx([1.5])


def test_standing_still_is_a_trajectory_that_is_not_over_when_it_arrives() -> None:
    schedule = ChunkSchedule(joints(1, **LIMITS))
    assert schedule.points(T0) is None
    schedule.hold([0.3], T0)
    points = schedule.points(T0 + 5 * DT)
    assert points is not None
    assert points.times_ns.tolist() == [T0 + 5 * DT, T0 + 5 * DT + SHORTEST_NS]
    assert points.positions.tolist() == [[0.3], [0.3]]


def test_before_anything_is_commanded_there_is_nothing() -> None:
    schedule = ChunkSchedule(joints(1, **LIMITS))
    assert schedule.state_at(T0) is None
    assert schedule.brake(T0) == T0
    assert schedule.remaining_s(T0) == 0.0
    schedule.hold([0.0], T0)
    assert schedule.state_at(T0 - 1) is None
    schedule.clear()
    assert schedule.commanded_at(T0) is None


def test_limits_that_a_task_leaves_out_are_derived_from_the_range() -> None:
    limits = MotionLimits.of(joints(1, position=1.0))
    assert limits.velocity.tolist() == [4.0]
    assert limits.acceleration.tolist() == [40.0]
    assert limits.jerk.tolist() == pytest.approx([800.0])


# --- grippers, orientations, velocities --------------------------------------------------------------------


def test_a_gripper_steps_at_its_time_and_is_never_blended() -> None:
    schedule = ChunkSchedule(pose())
    at = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    schedule.hold(at, T0)
    values = np.tile(at, (8, 1))
    values[3:, 7] = 1.0
    schedule.splice(chunk(values, T0 + DT))
    seen = [schedule.state_at(T0 + DT + k * 10 * MS) for k in range(80)]
    grip = [state.position[7] for state in seen if state is not None]
    assert set(grip) == {0.0, 1.0}
    assert grip.index(1.0) == 30
    assert all(state.velocity[7] == 0.0 for state in seen if state is not None)


def test_an_orientation_takes_the_short_way_at_unit_length_with_consistent_derivatives() -> None:
    schedule = ChunkSchedule(pose())
    at = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    schedule.hold(at, T0)
    angle = 0.05 * np.arange(12)
    values = np.tile(at, (12, 1))
    values[:, 5], values[:, 6] = np.sin(angle), np.cos(angle)
    values[1::2, 3:7] *= -1  # the same orientations
    schedule.splice(chunk(values, T0 + DT))
    p, v, a = sampled(schedule, T0, T0 + 12 * DT)
    assert np.abs(np.linalg.norm(p[:, 3:7], axis=1) - 1).max() < 1e-12
    assert np.abs(np.diff(p, axis=0)).max() < 2e-3
    assert np.abs((p[2:] - p[:-2]) / 2e-3 - v[1:-1])[:, 3:7].max() < 1e-4
    assert (
        np.abs((v[2:] - v[:-2]) / 2e-3 - a[1:-1])[:, 3:7].max() < MotionLimits.of(pose()).jerk[3] * 1e-3 / 2
    )  # a jump of the jerk


def test_a_velocity_command_ends_at_zero_and_not_at_its_last_value() -> None:
    names = ["vx", "vy", "vz", "wx", "wy", "wz"]
    twist = ActionSpec.model_validate(
        {
            "topic": "/twist",
            "type": "geometry_msgs/msg/TwistStamped",
            "output": "setpoint",
            "rate_hz": 100.0,
            "names": names,
            "shape": [6],
            "limits": {"position": {"min": [-1.0] * 6, "max": [1.0] * 6}},
        }
    )
    for braked in (False, True):
        schedule = ChunkSchedule(twist)
        schedule.hold(np.zeros(6), T0)
        schedule.splice(chunk(np.full((8, 6), 0.4), T0 + DT))
        end_ns = T0 + 30 * DT
        if braked:
            end_ns = schedule.brake(T0 + 7 * DT)
            assert end_ns < T0 + 12 * DT
        assert schedule.commanded_at(end_ns) == pytest.approx(np.zeros(6), abs=1e-12)
        at_action = schedule.commanded_at(T0 + 7 * DT)
        assert at_action == pytest.approx(np.full(6, 0.4))


# --- outright -----------------------------------------------------------------------------------------------


def test_outright_each_action_is_in_force_until_the_next_and_the_last_one_stays() -> None:
    schedule = ChunkSchedule(joints(1, **LIMITS), smooth=False)
    seam: Seam = schedule.splice(chunk(np.arange(4.0)))
    seam = schedule.splice(chunk([10.0, 11.0], T0 + 2 * DT))
    assert seam.outright_position_jump.tolist() == seam.position_jump.tolist() == [8.0]
    at = [schedule.commanded_at(T0 + k * DT // 2) for k in range(10)]
    assert [float(c[0]) for c in at if c is not None] == [0, 0, 1, 1, 10, 10, 11, 11, 11, 11]
    assert schedule.state_at(T0) is not None
    assert isinstance(schedule.state_at(T0), MotionState)


def test_outright_points_are_the_actions_with_velocities_and_end_at_rest() -> None:
    schedule = ChunkSchedule(joints(1, **LIMITS), smooth=False)
    schedule.splice(chunk(np.arange(4.0)))
    points = schedule.points(T0 + DT)
    assert points is not None
    assert points.positions[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert points.velocities[:, 0].tolist() == pytest.approx([10.0, 10.0, 0.0])
    assert points.accelerations is None
