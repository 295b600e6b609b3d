"""Trajectories are executed as a joint_trajectory_controller of ROS 2 Jazzy does it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dp_ros.sim.trajectory_controller import DesiredState, Trajectory, TrajectoryController

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
        ({"names": []}, "joint names are"),
        ({"names": ["x", "x"]}, "joint names are"),
        ({"times_ns": [], "positions": []}, "no points"),
        ({"positions": [[1.0, 2.0]]}, "3 times and 1 positions"),
        ({"positions": [[1.0, 2.0], [2.0], [3.0, 6.0]]}, "point 1 has 1 positions"),
        ({"positions": [[1.0, 2.0], [2.0, float("nan")], [3.0, 6.0]]}, "not finite"),
        ({"velocities": [[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]]}, "must be zero"),
        ({"velocities": [[0.0, 0.0], [0.0, 0.0], [0.0, -1.2e-7]]}, "must be zero"),
        ({"velocities": [[], [0.0], []]}, "point 1 has 1 velocities"),
        ({"velocities": [[0.0, 0.0]]}, "3 times and 1 velocities"),
        ({"velocities": [[], [np.inf, 0.0], []]}, "point 1 has velocities that are not finite"),
        ({"accelerations": [[], [1.0, 0.0], []]}, "point 1 has accelerations but no velocities"),
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


def test_objections_come_in_the_order_of_the_controllers_checks() -> None:
    wrong = Trajectory(T0 - 9 * S, ["x"], [0, 0], [[1.0], [1.0]], [[0.0, 0.0], [1.0, 0.0]])
    words = []
    for change in ({}, {"names": ["x", "y"]}, {"velocities": []}, {"stamp_ns": 0}, {"times_ns": [0, 1]}):
        wrong = replace(wrong, **change)
        words.append(controller().accept(wrong, T0))
    expected = ["joint names are", "must be zero", "ended", "must increase", "point 0 has 1 positions"]
    assert [e for e, w in zip(expected, words, strict=True) if e in str(w)] == expected


def test_an_empty_trajectory_is_refused_and_stops_nothing() -> None:
    robot = controller()
    robot.accept(straight(), T0)
    robot.sample(T0)
    assert robot.accept(Trajectory(0, ["x", "y"], [], []), T0 + 1) == "it has no points"
    assert robot.sample(T0 + S).tolist() == [2.0, 4.0]


def test_an_end_velocity_within_the_epsilon_of_a_float_counts_as_zero() -> None:
    assert controller().accept(replace(straight(), velocities=[[], [], [1.1e-7, 0.0]]), T0) is None


def segment(degree: int, seed: int) -> tuple[Trajectory, np.ndarray]:
    """One segment of 0.4 s with the values of random polynomials (degree + 1, 2) at both ends."""
    polynomial = np.random.default_rng(seed).normal(size=(degree + 1, 2))
    at = [[derivative(polynomial, order, t).tolist() for t in (0.0, 0.4)] for order in range(3)]
    trajectory = Trajectory(T0, ["x", "y"], [0, 4 * S // 10], at[0], at[1], at[2] if degree == 5 else ())
    return replace(trajectory, velocities=[at[1][0], at[1][1]]), polynomial


def derivative(polynomial: np.ndarray, order: int, t: float) -> np.ndarray:
    for _ in range(order):
        polynomial = np.arange(1, len(polynomial))[:, np.newaxis] * polynomial[1:]
    return sum(c * t**k for k, c in enumerate(polynomial))


@pytest.mark.parametrize("degree", [3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_a_segment_is_the_polynomial_that_its_ends_determine(degree: int, seed: int) -> None:
    trajectory, polynomial = segment(degree, seed)
    # At rest at the end, as the controller demands: a second segment leads there.
    rest = [derivative(polynomial, 0, 0.4).tolist()]
    still = [[0.0, 0.0]]
    trajectory = replace(
        trajectory,
        times_ns=[*trajectory.times_ns, S],
        positions=[*trajectory.positions, *rest],
        velocities=[*trajectory.velocities, *still],
        accelerations=[*trajectory.accelerations, *still] if degree == 5 else (),
    )
    robot = controller()
    assert robot.accept(trajectory, T0) is None
    for t in (0.0, 0.05, 0.1, 0.27, 0.39999):
        state = robot.sample_state(T0 + round(t * S))
        for order, values in enumerate((state.position, state.velocity, state.acceleration)):
            assert np.allclose(values, derivative(polynomial, order, t), atol=1e-7)


def straight_to(position: float, velocities: bool, accelerations: bool) -> Trajectory:
    """One point a second from now, of a robot that moves at 2 units/s."""
    still = [[0.0, 0.0]]
    return Trajectory(
        T0 + 2 * S,
        ["x", "y"],
        [0],
        [[position, position]],
        still if velocities else (),
        still if accelerations else (),
    )


def moving() -> TrajectoryController:
    robot = controller()
    robot.accept(Trajectory(T0, ["x", "y"], [0, 4 * S], [[0.0, 0.0], [8.0, 8.0]]), T0)
    robot.sample(T0)
    return robot


@pytest.mark.parametrize(
    ("fields", "velocity"),
    [((False, False), 8.0), ((True, False), 2.0), ((True, True), 2.0)],
)
def test_the_way_to_the_first_point_has_the_degree_of_that_point(
    fields: tuple[bool, bool], velocity: float
) -> None:
    robot = moving()
    assert robot.accept(straight_to(10.0, *fields), T0 + S) is None
    state = robot.sample_state(T0 + S)
    assert state.position.tolist() == [2.0, 2.0]
    assert robot.sample_state(T0 + S + 1).velocity == pytest.approx([velocity] * 2, rel=1e-6)
    end = robot.sample_state(T0 + 2 * S)
    assert end.position.tolist() == [10.0, 10.0]
    assert end.velocity.tolist() == [0.0, 0.0]


def test_a_stock_controller_starts_from_the_measured_state_and_so_jumps_back_to_it() -> None:
    robot = TrajectoryController(["x", "y"], interpolate_from_desired_state=False)
    robot.accept(Trajectory(T0, ["x", "y"], [0, 4 * S], [[0.0, 0.0], [8.0, 8.0]]), T0)
    robot.sample(T0)
    robot.measure([1.5, 1.5], [1.0, 1.0])
    robot.accept(straight_to(10.0, True, False), T0 + S)
    state = robot.sample_state(T0 + S)
    assert (state.position.tolist(), state.velocity.tolist()) == ([1.5, 1.5], [1.0, 1.0])
    assert robot.sample(T0 + 2 * S).tolist() == [10.0, 10.0]


def test_a_trajectory_that_began_in_the_past_is_entered_in_the_middle_without_a_ramp() -> None:
    robot = controller()
    robot.accept(straight(T0 - S), T0)
    assert robot.sample(T0 + S // 2).tolist() == [2.5, 5.0]


def test_with_partial_goals_allowed_the_joints_left_out_stay_where_they_are_commanded() -> None:
    partial = Trajectory(T0, ["y"], [0, S], [[2.0], [4.0]], [[0.0], [0.0]])
    assert "joint names are" in str(controller().accept(partial, T0))
    robot = TrajectoryController(["x", "y"], allow_partial_joints_goal=True)
    robot.hold([7.0, 0.0])
    assert robot.accept(partial, T0) is None
    assert robot.sample(T0 + S // 2).tolist() == [7.0, 3.0]
    assert "joint names are" in str(robot.accept(replace(partial, names=["z"]), T0))


def test_once_a_trajectory_has_played_out_it_stands_still_at_its_end() -> None:
    robot = controller()
    robot.accept(straight(), T0)
    state = robot.sample_state(T0 + 3 * S)
    assert isinstance(state, DesiredState)
    assert [a.tolist() for a in (state.position, state.velocity, state.acceleration)] == [
        [3.0, 6.0],
        [0.0, 0.0],
        [0.0, 0.0],
    ]


def test_what_a_sample_gives_away_does_not_change_the_trajectory() -> None:
    robot = controller()
    robot.accept(straight(), T0)
    robot.sample(T0)[:] = 99.0
    assert robot.sample(T0).tolist() == [1.0, 2.0]
