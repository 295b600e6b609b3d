"""Policy values and command values: joints, poses, grippers, relative and absolute, there and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dp_ros.runtime import rotation
from dp_ros.runtime.action_space import ActionSpace
from dp_ros.runtime.safety import BadAction
from dp_ros.task import TaskSpec, load_task
from dp_ros.task.action import ROTATION_NAMES

GRIPPER = {"name": "gripper", "close_above": 0.6, "open_below": 0.4, "open": 0.0, "closed": 0.8}
OPENING = {"name": "gripper", "close_below": 0.4, "open_above": 0.6, "open": 1.2, "closed": -0.1}
ROTATIONS = ("quaternion", "axis_angle", "6d")
POSE_FIELDS = [f"position.{a}" for a in "xyz"] + [f"orientation.{a}" for a in "xyzw"]


def task(action: dict[str, Any], observations: dict[str, Any]) -> TaskSpec:
    return TaskSpec.from_dict(
        {
            "name": "robot",
            "rate_hz": 10,
            "n_obs_steps": 2,
            "horizon": 16,
            "n_action_steps": 8,
            "observations": observations,
            "action": action,
        }
    )


def limits(n: int) -> dict[str, Any]:
    return {"position": {"min": [-9.0] * n, "max": [9.0] * n}}


def pose_space(representation: str, *, relative: bool = False, seen: str = "quaternion") -> ActionSpace:
    names = ["x", "y", "z", *ROTATION_NAMES[representation], "gripper"]
    size = 3 + rotation.SIZES[seen]
    return ActionSpace(
        task(
            {
                "topic": "/servo/pose",
                "type": "geometry_msgs/msg/PoseStamped",
                "output": "setpoint",
                "rate_hz": 100,
                "frame_id": "base",
                "names": names,
                "shape": [len(names)],
                "rotation": representation,
                "relative": relative,
                "state": "tool",
                "grippers": [{**GRIPPER, "topic": "/gripper/command"}],
                "limits": limits(8),
            },
            {
                "tool": {
                    "topic": "/tool",
                    "type": "geometry_msgs/msg/PoseStamped",
                    "fields": POSE_FIELDS,
                    "rotation": seen,
                    "shape": [size],
                    "max_age_s": 1.0,
                }
            },
        )
    )


def joint_space(
    *, relative: bool = False, gripper: dict[str, Any] | None = None, state: str | None = "joints"
) -> ActionSpace:
    return ActionSpace(
        task(
            {
                "topic": "/arm/commands",
                "type": "std_msgs/msg/Float64MultiArray",
                "output": "setpoint",
                "rate_hz": 100,
                "names": ["a", "gripper", "b"],
                "shape": [3],
                "relative": relative,
                "state": state,
                "grippers": [gripper or GRIPPER],
                "limits": limits(3),
            },
            {
                "joints": {
                    "topic": "/joint_states",
                    "type": "sensor_msgs/msg/JointState",
                    "fields": ["velocity", "position"],
                    "names": ["b", "c", "a"],
                    "shape": [6],
                    "max_age_s": 1.0,
                }
            },
        )
    )


TURN = arrays(np.float64, 3, elements=st.floats(-1.8, 1.8)).map(rotation.from_axis_angle)
PLACE = arrays(np.float64, 3, elements=st.floats(-2.0, 2.0))


@st.composite
def pose_commands(draw: st.DrawFn) -> np.ndarray:
    """A path of poses (n, 8) with gripper commands."""
    rows = draw(st.lists(st.tuples(PLACE, TURN, st.sampled_from([0.0, 0.8])), min_size=1, max_size=5))
    path = np.array([[*place, *turn, grip] for place, turn, grip in rows])
    path[:, 3:7] = rotation.align_sequence(path[:, 3:7])
    return path


def test_where_there_is_nothing_to_convert_values_go_through_as_they_are() -> None:
    space = ActionSpace(load_task("pusht_state"))
    values = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    commands = space.to_commands(values)
    assert commands.dtype == np.float64
    assert np.array_equal(commands, values)
    assert np.array_equal(space.to_policy(commands), values)


@pytest.mark.parametrize("representation", ROTATIONS)
@pytest.mark.parametrize("relative", [False, True])
@settings(max_examples=20)
@given(commands=pose_commands(), place=PLACE, turn=TURN)
def test_commands_survive_the_way_to_the_policy_and_back(
    representation: str, relative: bool, commands: np.ndarray, place: np.ndarray, turn: np.ndarray
) -> None:
    space = pose_space(representation, relative=relative)
    reference = space.measured(np.array([*place, *turn], np.float64))
    values = space.to_policy(commands, reference=reference)
    back = space.to_commands(values, reference=reference, previous=commands[0])
    assert np.allclose(back, commands, atol=1e-9)


@pytest.mark.parametrize("representation", ROTATIONS)
def test_relative_poses_count_in_the_frame_of_the_command(representation: str) -> None:
    space = pose_space(representation, relative=True)
    measured = rotation.from_axis_angle([np.pi / 2, 0.0, 0.0])
    turn = rotation.from_axis_angle([0.0, 0.0, np.pi / 2])
    reference = space.measured(np.array([1.0, 2.0, 3.0, *measured]))
    values = np.array([[0.1, 0.0, 0.0, *rotation.from_quaternion(turn, representation), 0.0]])
    command = space.to_commands(values, reference=reference)[0]
    assert command[:3] == pytest.approx([1.1, 2.0, 3.0])
    # The tool's z axis, which the measured state has along -y, turns about the frame's z to +x.
    assert rotation.rotate(command[3:7], [0.0, 0.0, 1.0]) == pytest.approx([1.0, 0.0, 0.0], abs=1e-12)


@pytest.mark.parametrize("seen", ROTATIONS)
def test_the_state_may_be_observed_in_another_representation_than_the_actions(seen: str) -> None:
    turn = rotation.from_axis_angle([0.3, -0.2, 0.9])
    sample = np.array([1.0, 2.0, 3.0, *rotation.from_quaternion(turn, seen)], np.float32)
    space = pose_space("6d", seen=seen)
    state = space.reference({"tool": np.stack([np.zeros_like(sample), sample])})
    assert state is not None
    assert state[:7] == pytest.approx([1.0, 2.0, 3.0, *turn], abs=1e-6)
    assert np.isnan(state[7])


def test_joints_of_the_state_are_found_by_name() -> None:
    state = joint_space().measured(np.arange(6.0))
    assert state.tolist()[::2] == [5.0, 3.0]
    assert np.isnan(state[1])
    with pytest.raises(ValueError, match=r"joints has shape \[2\], expected \[6\]"):
        joint_space().measured(np.zeros(2))


def test_relative_joints_are_added_and_grippers_are_not() -> None:
    space = joint_space(relative=True)
    reference = space.measured(np.arange(6.0))
    commands = space.to_commands(np.array([[0.5, 1.0, -0.5]]), reference=reference)
    assert commands.tolist() == [[5.5, 0.8, 2.5]]
    assert space.to_policy(commands, reference=reference).tolist() == [[0.5, 0.8, -0.5]]
    with pytest.raises(ValueError, match="need the measured state"):
        space.to_commands(np.zeros((1, 3)))


@pytest.mark.parametrize(
    ("values", "before", "sent"),
    [
        ([0.0, 0.5, 0.7, 0.5, 0.41, 0.39, 0.5], None, [0, 0, 1, 1, 1, 0, 0]),
        ([0.5, 0.5], 0.8, [1, 1]),
        ([0.5, 0.5], 0.0, [0, 0]),
        ([0.51, 0.45], None, [1, 1]),
        ([0.6, 0.4], 0.0, [0, 0]),
        ([0.6, 0.4], 0.8, [1, 1]),
    ],
)
def test_a_gripper_changes_only_beyond_its_thresholds(
    values: list[float], before: float | None, sent: list[int]
) -> None:
    given_ = np.zeros((len(values), 3))
    given_[:, 1] = values
    previous = None if before is None else np.array([0.0, before, 0.0])
    commands = joint_space().to_commands(given_, previous=previous)
    assert commands[:, 1].tolist() == [0.8 * s for s in sent]


def test_a_gripper_whose_value_is_its_opening_closes_below() -> None:
    given_ = np.zeros((6, 3))
    given_[:, 1] = [1.2, 0.5, 0.2, 0.5, 0.7, 0.5]
    commands = joint_space(gripper=OPENING).to_commands(given_)
    assert commands[:, 1].tolist() == [1.2, 1.2, -0.1, -0.1, 1.2, 1.2]


@pytest.mark.parametrize(
    ("gripper", "values"),
    [
        (GRIPPER, [0.0, 0.8]),
        ({**GRIPPER, "open": 0.085, "closed": 0.0}, [0.2, 0.8]),
        (OPENING, [1.2, -0.1]),
        ({**OPENING, "open": 1.0, "closed": 0.0, "open_above": 2.0, "close_below": 1.0}, [3.0, 0.0]),
    ],
)
@pytest.mark.parametrize("before", [0, 1])
def test_a_grippers_policy_value_lies_beyond_the_threshold_whatever_was_before(
    gripper: dict[str, Any], values: list[float], before: int
) -> None:
    space = joint_space(gripper=gripper)
    sent = np.zeros((2, 3))
    sent[:, 1] = [gripper["open"], gripper["closed"]]
    policy = space.to_policy(sent)
    assert policy[:, 1] == pytest.approx(values)
    for row in (0, 1):
        assert space.to_commands(policy[[row]], previous=sent[before]).tolist() == [sent[row].tolist()]


@settings(max_examples=20)
@given(turn=TURN, sign=st.sampled_from([1.0, -1.0]))
def test_quaternions_go_on_with_the_sign_of_what_is_commanded_before(turn: np.ndarray, sign: float) -> None:
    space = pose_space("axis_angle")
    previous = np.array([0.0, 0.0, 0.0, *(sign * turn), 0.0])
    values = np.zeros((3, 7))
    values[:, 3:6] = rotation.to_axis_angle(turn)
    commands = space.to_commands(values, previous=previous)
    assert np.allclose(commands[:, 3:7], sign * turn, atol=1e-9)


def test_recorded_values_become_relative_targets_that_lead_back_to_them() -> None:
    space = pose_space("6d", relative=True)
    rng = np.random.default_rng(0)
    turns = rotation.normalize(rng.normal(size=(4, 4)))
    recorded = np.concatenate(
        [rng.normal(size=(4, 3)), rotation.to_6d(turns), [[0.1], [0.9], [0.5], [0.2]]], 1
    )
    reference = space.measured(np.array([1.0, 2.0, 3.0, *rotation.normalize(rng.normal(size=4))]))
    targets = space.to_relative(recorded, reference)
    commands = space.to_commands(targets, reference=reference)
    assert np.allclose(commands[:, :3], recorded[:, :3])
    assert np.allclose(np.abs((commands[:, 3:7] * turns).sum(axis=1)), 1.0)
    assert targets[:, 9].tolist() == recorded[:, 9].tolist()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((2, 4)), r"shape \[2, 4\], expected \[n, 3\]"),
        (np.zeros(3), r"shape \[3\], expected \[n, 3\]"),
        (np.array([[0, 0, 0], [0, np.nan, 0.0]]), "action 1 of gripper is nan; nothing was sent"),
        (np.array([[0, 0, np.inf]]), "action 0 of b is inf"),
    ],
)
def test_values_that_must_not_reach_a_robot_are_refused(values: np.ndarray, words: str) -> None:
    with pytest.raises(BadAction, match=words):
        joint_space().to_commands(values)


def test_an_orientation_that_is_none_is_refused() -> None:
    with pytest.raises(BadAction, match="no rotation; nothing was sent"):
        pose_space("quaternion").to_commands(np.zeros((1, 8)))
    with pytest.raises(BadAction, match="parallel; nothing was sent"):
        pose_space("6d").to_commands(np.ones((1, 10)))


def test_a_task_without_a_state_has_no_reference() -> None:
    space = joint_space(state=None)
    assert space.reference({"joints": np.zeros((2, 6))}) is None
    with pytest.raises(ValueError, match="names no stream"):
        space.measured(np.zeros(6))
