"""Trajectories are executed as a joint_trajectory_controller of ROS 2 Jazzy does it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dp_ros.sim.trajectory_controller import Trajectory, TrajectoryController

S = 1_000_000_000
T0 = 10 * S


def controller() -> TrajectoryController:
    robot = TrajectoryController(["x", "y"])
    robot.hold([0.0, 0.0])
    return robot


def straight(stamp_ns: int = T0) -> Trajectory:
    return Trajectory(stamp_ns, ["x", "y"], [0, S, 2 * S], [[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])


def test_at_a_points_time_it_is_exactly_at_that_point() -> None:
    robot = controller()
    assert robot.accept(straight(), T0) is None
    assert [robot.sample(T0 + k * S).tolist() for k in range(3)] == [[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]


def test_it_interpolates_between_points_and_holds_the_last() -> None:
    robot = controller()
    robot.accept(straight(), T0)
    assert robot.sample(T0 + S // 4).tolist() == [1.25, 2.5]
    assert robot.sample(T0 + 100 * S).tolist() == [3.0, 6.0]


def test_with_velocities_the_segment_is_cubic_and_meets_both_ends() -> None:
    robot = controller()
    trajectory = Trajectory(T0, ["x", "y"], [0, S], [[0.0, 0.0], [1.0, 1.0]], [[0.0, 2.0], [0.0, 0.0]])
    assert robot.accept(trajectory, T0) is None
    middle = robot.sample(T0 + S // 2)
    assert middle.tolist() == pytest.approx([0.5, 0.75])
    fast = [robot.sample(T0 + ns)[1] for ns in (0, 1_000_000)]
    assert (fast[1] - fast[0]) / 1e-3 == pytest.approx(2.0, rel=0.01)


def test_before_the_first_point_it_runs_there_from_what_was_commanded() -> None:
    robot = controller()
    robot.accept(straight(T0 + S), T0)
    assert [robot.sample(T0 + k * S // 2).tolist() for k in range(3)] == [[0.0, 0.0], [0.5, 1.0], [1.0, 2.0]]


def test_a_stamp_of_zero_means_now() -> None:
    robot = controller()
    robot.accept(straight(0), T0)
    assert robot.sample(T0 + 5).tolist() == [1.0, 2.0]
    assert robot.sample(T0 + 5 + S).tolist() == [2.0, 4.0]


def test_a_new_trajectory_replaces_the_old_one_outright() -> None:
    robot = controller()
    robot.accept(straight(), T0)
    robot.sample(T0)
    robot.accept(Trajectory(T0 + S, ["x", "y"], [0], [[9.0, 9.0]]), T0 + S // 2)
    assert robot.sample(T0 + S).tolist() == [9.0, 9.0]
    assert robot.sample(T0 + 2 * S).tolist() == [9.0, 9.0]


def test_joints_may_come_in_any_order() -> None:
    robot = controller()
    robot.accept(Trajectory(T0, ["y", "x"], [0], [[2.0, 1.0]]), T0)
    assert robot.sample(T0).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": ["x", "z"]}, "joint names are"),
        ({"names": ["x"]}, "joint names are"),
        ({"times_ns": [0, S, S]}, "must increase"),
        ({"times_ns": [-1, S, 2 * S]}, "must increase"),
        ({"times_ns": [], "positions": []}, "no points"),
        ({"positions": [[1.0, 2.0], [2.0], [3.0, 6.0]]}, "point 1 has 1 positions"),
        ({"positions": [[1.0, 2.0], [2.0, float("nan")], [3.0, 6.0]]}, "not finite"),
        ({"velocities": [[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]]}, "must be zero"),
        ({"stamp_ns": T0 - 3 * S}, "ended 1.000 s ago"),
    ],
)
def test_what_the_controller_would_reject_is_rejected_with_the_reason(
    change: dict[str, object], words: str
) -> None:
    robot = controller()
    robot.accept(straight(), T0)
    problem = robot.accept(replace(straight(), **change), T0)
    assert problem is not None
    assert words in problem
    assert robot.sample(T0 + S).tolist() == [2.0, 4.0], "the trajectory in force stays in force"


def test_a_stamped_trajectory_that_ends_now_is_still_taken() -> None:
    robot = controller()
    assert robot.accept(straight(T0 - 2 * S), T0) is None
    assert np.array_equal(robot.sample(T0), [3.0, 6.0])
