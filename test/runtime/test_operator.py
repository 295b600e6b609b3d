"""What a person commands, tick by tick, against the limits of a task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_ros.runtime import rotation
from dp_ros.runtime.motion.limits import MotionLimits
from dp_ros.runtime.operator import OperatorMotion, drive_names, measured_position, state_stream
from dp_ros.task import TaskSpec, load_task

TICK_NS = 50_000_000
TICK_S = TICK_NS / 1e9
PUSHT = load_task("pusht_state")
START = np.array([100.0, 100.0])


def made(task: TaskSpec = PUSHT, **options: Any) -> OperatorMotion:
    return OperatorMotion(task, tick_s=TICK_S, **options)


def run(motion: OperatorMotion, ticks: int, first: int = 0, **wish: Any) -> list[Any]:
    """Ticks with the same wish repeated."""
    states = []
    for k in range(first, first + ticks):
        now_ns = k * TICK_NS
        for name, values in wish.items():
            getattr(motion, name)(values, now_ns)
        states.append(motion.tick(now_ns, START))
    return states


def setpoint_task(**action: Any) -> TaskSpec:
    changes = {"type": "std_msgs/msg/Float64MultiArray", "output": "setpoint", "rate_hz": 20.0, **action}
    task = PUSHT.model_dump()
    return TaskSpec.from_dict({**task, "action": {**task["action"], **changes}})


POSE_NAMES = ["x", "y", "z", "qx", "qy", "qz", "qw"]


def pose_task() -> TaskSpec:
    bounds = {"min": [-1.0] * 3 + [-1.1] * 4, "max": [1.0] * 3 + [1.1] * 4}
    limits = {"position": bounds, "velocity": [0.5] * 3 + [1.0] * 4, "acceleration": None, "jerk": None}
    return setpoint_task(
        type="geometry_msgs/msg/PoseStamped", frame_id="base", names=POSE_NAMES, shape=[7], limits=limits
    )


def test_the_pointer_is_reached_at_the_operators_speed_and_kept() -> None:
    states = run(made(speed=[200.0, 200.0]), 60, place=[300.0, 100.0])
    steps = np.diff([state.position[0] for state in states])
    assert steps.max() == pytest.approx(200.0 * TICK_S, rel=0.03)
    assert steps.max() <= 200.0 * TICK_S
    assert states[-1].position.tolist() == pytest.approx([300.0, 100.0], abs=0.5)
    assert np.abs(states[-1].velocity).max() < 1.0


def test_a_motion_begins_where_the_robot_is() -> None:
    first = run(made(speed=[200.0, 200.0]), 1, place=[300.0, 100.0])[0]
    assert np.abs(first.position - START).max() <= 200.0 * TICK_S


def test_without_a_known_state_nothing_is_commanded_and_the_reason_is_said() -> None:
    motion = made()
    motion.place([300.0, 100.0], 0)
    assert motion.tick(0, None) is None
    assert "where the robot is, is not known" in motion.problem
    assert motion.tick(TICK_NS, START) is not None
    assert motion.problem == ""


@pytest.mark.parametrize("way", ["let go", "silent"])
def test_a_device_that_is_let_go_or_falls_silent_stops_the_motion_and_then_all_commands(way: str) -> None:
    motion = made(speed=[200.0, 200.0], timeout_s=0.2, hold_s=1.0)
    run(motion, 20, drive=[1.0, 0.0])
    if way == "let go":
        motion.let_go()
    after = [motion.tick(k * TICK_NS, START) for k in range(20, 60)]
    moving = [state is not None and np.abs(state.velocity).max() > 1e-6 for state in after]
    assert not any(moving[4 + 4 :])  # the time-out, and a few ticks to stop
    assert moving[0] == (way == "silent") or way == "let go"
    resting = [state for state in after if state is not None]
    assert 16 <= len(resting) <= 24  # for about hold_s
    assert after[-1] is None and not motion.is_commanding
    assert resting[-1].position.tolist() == resting[-5].position.tolist()


def test_a_new_hold_goes_on_from_where_it_stopped_and_later_from_where_the_robot_is() -> None:
    motion = made(speed=[200.0, 200.0], hold_s=0.5)
    held = run(motion, 20, drive=[1.0, 0.0])[-1].position
    motion.let_go()
    run(motion, 5, first=20)
    again = run(motion, 1, first=25, drive=[0.0, 0.0])[0].position
    assert again[0] > held[0]
    motion.let_go()
    assert run(motion, 40, first=26)[-1] is None
    fresh = run(motion, 1, first=70, drive=[0.0, 0.0])[0].position
    assert fresh.tolist() == START.tolist()


def test_a_wish_from_the_future_counts_as_no_wish() -> None:
    """After the clock was set back nobody is holding the device yet."""
    motion = made()
    motion.place([300.0, 100.0], 10 * TICK_NS)
    assert motion.tick(0, START) is None


@settings(max_examples=60, deadline=None)
@given(
    wishes=st.lists(
        st.one_of(
            st.none(),
            st.tuples(st.just("place"), st.lists(st.floats(-2000, 2000), min_size=2, max_size=2)),
            st.tuples(st.just("drive"), st.lists(st.floats(-3, 3), min_size=2, max_size=2)),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_whatever_the_hand_does_limits_are_kept(wishes: list[Any]) -> None:
    motion, limits = made(speed=[300.0, 150.0], hold_s=5.0), MotionLimits.of(PUSHT.action)
    before = None
    for k, wish in enumerate(wishes):
        if wish is None:
            motion.let_go()
        else:
            getattr(motion, wish[0])(wish[1], k * TICK_NS)
        state = motion.tick(k * TICK_NS, START)
        if state is None:
            continue
        assert (state.position >= limits.low).all() and (state.position <= limits.high).all()
        assert (np.abs(state.velocity) <= [300.0, 150.0]).all()
        assert (np.abs(state.acceleration) <= limits.acceleration).all()
        if before is not None:
            assert (np.abs(state.position - before) <= np.array([300.0, 150.0]) * TICK_S + 1e-9).all()
        points = motion.trajectory(k * TICK_NS)
        assert points.times_ns[0] == (k + 1) * TICK_NS
        assert (np.diff(points.times_ns) > 0).all()
        assert not points.velocities[-1].any()
        assert (points.positions >= limits.low - 1e-6).all() and (
            points.positions <= limits.high + 1e-6
        ).all()
        before = state.position


def test_velocities_are_driven_and_brought_to_zero() -> None:
    task = setpoint_task(command="velocity", limits={"position": {"min": [-50.0] * 2, "max": [50.0] * 2}})
    motion = made(task, speed=[40.0, 20.0])
    with pytest.raises(ValueError, match="commands velocities"):
        motion.place([1.0, 1.0], 0)
    state = run(motion, 30, drive=[1.0, -1.0])[-1]
    assert state.position.tolist() == pytest.approx([40.0, -20.0], abs=0.1)
    motion.let_go()
    assert np.abs(run(motion, 20, first=30)[-1].position).max() < 1e-6


def test_a_pose_is_driven_by_turns_about_the_axes_and_stays_a_rotation() -> None:
    task = pose_task()
    assert drive_names(task.action) == ["x", "y", "z", "rx", "ry", "rz"]
    motion = made(task, speed=[0.1, 0.1, 0.1, 0.5, 0.5, 0.5])
    start = np.array([0.0, 0, 0, 0, 0, 0, 1.0])
    for k in range(40):
        motion.drive([0, 0, 1, 0, 0, 1], k * TICK_NS)
        state = motion.tick(k * TICK_NS, start)
    assert state is not None
    assert state.position[2] == pytest.approx(0.1 * 40 * TICK_S, rel=0.1)
    assert np.linalg.norm(state.position[3:]) == pytest.approx(1.0, abs=0.01)
    angle = rotation.to_axis_angle(rotation.normalize(state.position[3:]))
    assert angle[2] == pytest.approx(0.5 * 40 * TICK_S, rel=0.1)


def test_a_gripper_is_opened_and_closed_and_never_in_between() -> None:
    gripper = {"name": "agent_y", "close_above": 0.6, "open_below": 0.4, "open": 10.0, "closed": 400.0}
    task = setpoint_task(grippers=[gripper])
    motion = made(task, speed=[100.0, 1.0])
    measured = np.array([100.0, np.nan])
    values = []
    for k, rate in enumerate([0, 1, 0, 0.3, -1, 0]):
        motion.drive([0.0, rate], k * TICK_NS)
        state = motion.tick(k * TICK_NS, measured)
        assert state is not None
        values.append(state.position[1])
    assert values == [10.0, 400.0, 400.0, 400.0, 10.0, 10.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.place([1.0], 0), "got 1 values, expected 2, one for each of agent_x, agent_y"),
        (lambda m: m.drive([1.0, np.nan], 0), "expected finite numbers"),
        (lambda m: made(speed=[1.0]), "expected 2 values above 0"),
        (lambda m: made(speed=[1.0, 0.0]), "expected 2 values above 0"),
        (lambda m: m.trajectory(0), "nothing is commanded"),
    ],
)
def test_what_makes_no_sense_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(made())


def test_the_state_is_found_by_joint_names_where_the_task_does_not_name_it() -> None:
    key = state_stream(PUSHT)
    assert key == "agent_pos"
    assert measured_position(PUSHT, key, np.array([3.0, 4.0])).tolist() == [3.0, 4.0]
    arm = load_task("ur5e_two_realsense")
    assert state_stream(arm) == arm.action.state
