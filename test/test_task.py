"""The task file: every mistake that a person can make is named, with file, key, given and allowed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dp_ros.paths import share_dir
from dp_ros.task import TaskError, TaskSpec, load_task


@pytest.fixture
def state() -> dict[str, Any]:
    return yaml.safe_load((share_dir() / "config/tasks/pusht_state.yaml").read_text())


@pytest.fixture
def image() -> dict[str, Any]:
    return yaml.safe_load((share_dir() / "config/tasks/pusht_image.yaml").read_text())


def test_the_shipped_state_task_is_what_the_paper_uses() -> None:
    task = load_task("pusht_state")
    assert (task.horizon, task.n_obs_steps, task.n_action_steps, task.dt_ns) == (16, 2, 8, 100_000_000)
    assert {key: spec.shape for key, spec in task.observations.items()} == {
        "keypoint": (18,),
        "agent_pos": (2,),
    }
    assert task.action.dim == 2
    assert task.anchor == "keypoint"


def test_the_shipped_image_task_anchors_its_grid_on_the_camera() -> None:
    task = load_task("pusht_image")
    assert task.anchor == "image"
    assert task.observations["image"].shape == (96, 96, 3)
    assert task.observations["image"].crop is None, "the T reaches the walls"


def test_what_is_recorded_with_labels_is_the_image_task_and_the_keypoints() -> None:
    labelled, image, state = (load_task(f"pusht_{name}") for name in ("image_labelled", "image", "state"))
    assert list(labelled.observations) == ["image", "keypoint", "agent_pos"]
    assert labelled.observations == {**state.observations, **image.observations}
    about = {"name", "description", "observations"}
    assert labelled.model_dump(exclude=about) == image.model_dump(exclude=about)


def test_a_task_survives_the_way_into_a_manifest_and_back() -> None:
    task = load_task("pusht_image")
    again = TaskSpec.from_dict(task.model_dump(mode="json"))
    assert again.model_dump() == task.model_dump()
    assert again.digest() == task.digest()


def test_the_digest_ignores_the_description_and_nothing_else(state: dict[str, Any]) -> None:
    task = TaskSpec.from_dict(state)
    assert TaskSpec.from_dict({**state, "description": "other words"}).digest() == task.digest()
    assert TaskSpec.from_dict({**state, "rate_hz": 20}).digest() != task.digest()


Change = Callable[[dict[str, Any]], Any]
GRIPPER = {"name": "agent_y", "close_above": 0.6, "open_below": 0.4, "open": 0.0, "closed": 1.0}


def test_keys_that_came_later_do_not_change_the_digest_of_an_older_task(state: dict[str, Any]) -> None:
    for key in ("acceleration", "jerk"):
        del state["action"]["limits"][key]
    task = TaskSpec.from_dict(state)
    assert task.digest() == "962fe2bcbd4a2d45", "recordings and models name their task by it"
    state["action"].update(latency_s=0.0, grippers=[], relative=False)
    assert TaskSpec.from_dict(state).digest() == task.digest()
    state["action"].update(latency_s=0.1)
    assert TaskSpec.from_dict(state).digest() != task.digest()


POSE_FIELDS = [f"position.{a}" for a in "xyz"] + [f"orientation.{a}" for a in "xyzw"]


def arm() -> dict[str, Any]:
    """An arm that is commanded poses with a 6-D orientation, and a gripper on a topic of its own."""
    names = ["x", "y", "z", "r1", "r2", "r3", "r4", "r5", "r6", "gripper"]
    low, high = [-1.0] * 7 + [0.0], [1.0] * 7 + [0.8]
    pose = {
        "topic": "/tool",
        "type": "geometry_msgs/msg/PoseStamped",
        "fields": POSE_FIELDS,
        "max_age_s": 0.1,
    }
    return {
        "name": "arm",
        "rate_hz": 10,
        "n_obs_steps": 2,
        "horizon": 16,
        "n_action_steps": 8,
        "observations": {"tool": {**pose, "rotation": "6d", "shape": [9], "alignment": "interpolate"}},
        "action": {
            "topic": "/servo/pose",
            "type": "geometry_msgs/msg/PoseStamped",
            "output": "setpoint",
            "rate_hz": 100,
            "rotation": "6d",
            "relative": True,
            "state": "tool",
            "names": names,
            "shape": [10],
            "grippers": [{**GRIPPER, "name": "gripper", "topic": "/gripper/commands"}],
            "limits": {
                "position": {"min": low, "max": high},
                "keep_out": [{"names": ["x", "z"], "min": [0.2, -0.1], "max": [0.4, 0.1]}],
            },
        },
    }


def test_an_orientation_is_commanded_as_a_quaternion_whatever_the_policy_predicts() -> None:
    action = TaskSpec.from_dict(arm()).action
    assert action.dim == 10
    assert action.command_names == ["x", "y", "z", "qx", "qy", "qz", "qw", "gripper"]
    assert action.quaternion_indices == (3, 4, 5, 6)
    assert action.gripper_indices == (7,)
    assert not action.is_velocity


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t["observations"]["tool"].update(shape=[7]), ["tool.shape", "[7]", "[9]"]),
        (lambda t: t["action"].update(names=t["action"]["names"][::-1]), ["action.names", "'r1', 'r2'"]),
        (lambda t: t["action"].update(rotation="quaternion"), ["action.names", "'qx', 'qy'"]),
        (lambda t: t["action"]["grippers"][0].pop("topic"), ["grippers", "a topic of its own"]),
        (
            lambda t: t["action"]["limits"]["position"].update(min=[0.0]),
            ["8 value(s)", "qx, qy, qz, qw, gripper"],
        ),
        (
            lambda t: t["action"].update(type="geometry_msgs/msg/TwistStamped"),
            ["action.rotation", "no orientation"],
        ),
        (lambda t: t["observations"]["tool"].update(fields=["position.x"], shape=[6]), ["tool.rotation"]),
    ],
)
def test_a_mistake_in_a_pose_task_is_named(change: Change, words: list[str]) -> None:
    wrong = arm()
    change(wrong)
    with pytest.raises(TaskError) as error:
        TaskSpec.from_dict(wrong)
    for word in words:
        assert word in str(error.value)


STATE_MISTAKES: list[tuple[Change, list[str]]] = [
    (lambda t: t["observations"]["keypoint"].pop("topic"), ["observations.keypoint.topic", "is missing"]),
    (
        lambda t: t["observations"]["keypoint"].update(topic="not a topic"),
        ["keypoint.topic", "'not a topic'"],
    ),
    (
        lambda t: t["observations"]["keypoint"].update(shape=[17]),
        ["keypoint.shape", "[17]", "multiple of the 2"],
    ),
    (lambda t: t["observations"]["agent_pos"].update(shape=[3]), ["agent_pos.shape", "[3]", "[2]"]),
    (lambda t: t["observations"]["agent_pos"].update(shape=[2, 1]), ["agent_pos.shape", "[2, 1]", "[n]"]),
    (lambda t: t["observations"]["agent_pos"].update(shape="two"), ["agent_pos.shape", "'two'"]),
    (
        lambda t: t["observations"]["agent_pos"].update(fields=["positon"]),
        ["agent_pos.fields", "positon", "position, velocity, effort", "did you mean position?"],
    ),
    (lambda t: t["observations"]["agent_pos"].update(fields=[]), ["agent_pos.fields", "got nothing"]),
    (lambda t: t["observations"]["agent_pos"].update(names=[]), ["agent_pos.names", "joint names"]),
    (
        lambda t: t["observations"]["agent_pos"].update(names=["a", "a"]),
        ["agent_pos.names", "a is there more"],
    ),
    (lambda t: t["observations"]["keypoint"].update(names=["a"]), ["keypoint.names", "has no joint names"]),
    (lambda t: t["observations"]["agent_pos"].update(crop=[3, 3]), ["agent_pos.crop", "is not an image"]),
    (
        lambda t: t["observations"]["agent_pos"].update(type="sensor_msgs/JointState"),
        ["agent_pos.type", "did you mean sensor_msgs/msg/JointState?"],
    ),
    (
        lambda t: t["observations"]["agent_pos"].update(type="std_msgs/msg/Float64MultiArray"),
        ["agent_pos.type", "header stamp"],
    ),
    (
        lambda t: t["observations"]["agent_pos"].update(max_age=1),
        ["agent_pos.max_age", "did you mean max_age_s?"],
    ),
    (lambda t: t["observations"]["agent_pos"].update(max_age_s=0), ["agent_pos.max_age_s", "greater than 0"]),
    (lambda t: t["observations"]["agent_pos"].update(latency_s=-1), ["agent_pos.latency_s", "-1"]),
    (lambda t: t["observations"]["agent_pos"].update(latency_s=float("nan")), ["latency_s", "finite"]),
    (
        lambda t: t["observations"]["agent_pos"].update(alignment="last"),
        ["agent_pos.alignment", "'asof'", "'last'"],
    ),
    (lambda t: t.update(horizon=8), ["horizon", "got 8", "at least n_obs_steps + n_action_steps - 1 = 9"]),
    (lambda t: t.update(rate_hz=0), ["rate_hz", "got 0"]),
    (lambda t: t.update(rate_hz="fast"), ["rate_hz", "'fast'", "number"]),
    (lambda t: t.update(horzion=16), ["horzion", "unknown key", "did you mean horizon?"]),
    (lambda t: t.update(observations={}), ["observations", "at least 1"]),
    (lambda t: t.update(observations=3), ["observations", "got 3"]),
    (
        lambda t: t["observations"].update({"Bad Name": t["observations"]["keypoint"]}),
        ["Bad Name", "lower-case"],
    ),
    (lambda t: t["observations"].update(action=t["observations"]["keypoint"]), ["observations.action"]),
    (lambda t: t.pop("action"), ["action", "is missing"]),
    (lambda t: t["action"].update(names=["x"]), ["action.shape", "[2]", "[1]"]),
    (
        lambda t: t["action"].update(output="stream"),
        ["action.output", "'trajectory'", "'setpoint'", "'stream'"],
    ),
    (
        lambda t: t["action"].update(output="setpoint"),
        ["action.type", "Float64MultiArray", "for output setpoint, or output: trajectory, which takes"],
    ),
    (
        lambda t: t["action"].update(output="setpoint", type="sensor_msgs/msg/JointStates"),
        ["action.type", "did you mean sensor_msgs/msg/JointState?"],
    ),
    (
        lambda t: t["action"].update(type="Float64MultiArray"),
        ["for output trajectory, or output: setpoint, which takes std_msgs/msg/Float64MultiArray"],
    ),
    (lambda t: t["action"].update(rate_hz=100), ["action.rate_hz", "100", "a trajectory has points"]),
    (lambda t: t["action"].update(command="velocity"), ["action.command", "position: trajectory_msgs"]),
    (lambda t: t["action"].update(frame_id="base"), ["action.frame_id", "commands no frame"]),
    (lambda t: t["action"].update(rotation="6d"), ["action.rotation", "no orientation"]),
    (lambda t: t["action"].update(relative=True), ["action.relative", "state: the stream"]),
    (lambda t: t["action"].update(state="agent"), ["action.state", "did you mean agent_pos?"]),
    (lambda t: t["action"].update(state="keypoint"), ["action.state", "JointState", "agent_x, agent_y"]),
    (lambda t: t["action"].update(latency_s=-0.1), ["action.latency_s", "-0.1"]),
    (lambda t: t["action"].update(grippers=[{**GRIPPER, "name": "hand"}]), ["grippers", "'hand'", "agent_x"]),
    (
        lambda t: t["action"].update(grippers=[{**GRIPPER, "close_above": 0.1}]),
        ["grippers", "open_below below"],
    ),
    (
        lambda t: t["action"].update(grippers=[{**GRIPPER, "close_below": 0.1}]),
        ["grippers", "close_below and open_above, for agent_y"],
    ),
    (lambda t: t["action"]["limits"].update(jerk=[1.0]), ["action.limits.jerk", "2 value(s)"]),
    (lambda t: t["action"]["limits"].update(tracking_error=[9, 9]), ["limits.tracking_error", "state:"]),
    (
        lambda t: (
            t["action"].update(ARRAY_OF_VELOCITIES, state="agent_pos"),
            t["action"]["limits"].update(tracking_error=[9, 9]),
        ),
        ["limits.tracking_error: got [9.0, 9.0], expected nothing: of velocities it is not checked"],
    ),
    (
        lambda t: t["action"]["limits"].update(keep_out=[{"names": ["z"], "min": [0], "max": [1]}]),
        ["limits.keep_out.names", "'z'", "agent_x"],
    ),
    (
        lambda t: t["action"]["limits"].update(keep_out=[{"names": ["agent_x"], "min": [1], "max": [0]}]),
        ["limits.keep_out", "min below max"],
    ),
    (lambda t: t["observations"]["agent_pos"].update(angles=["elbow"]), ["agent_pos.angles", "'elbow'"]),
    (lambda t: t["observations"]["agent_pos"].update(rotation="6d"), ["agent_pos.rotation", "PoseStamped"]),
    (lambda t: t["action"].pop("limits"), ["action.limits", "is missing"]),
    (
        lambda t: t["action"]["limits"]["position"].update(min=[600.0, 0.0]),
        ["action.limits.position", "600", "512", "min below max for agent_x"],
    ),
    (
        lambda t: t["action"]["limits"]["position"].update(max=[1.0]),
        ["action.limits.position.max", "2 value(s)"],
    ),
    (lambda t: t["action"]["limits"].update(velocity=[0.0, 1.0]), ["action.limits.velocity", "above 0"]),
]


@pytest.mark.parametrize(("change", "words"), STATE_MISTAKES)
def test_a_mistake_is_named_with_file_key_given_and_allowed(
    state: dict[str, Any], change: Change, words: list[str]
) -> None:
    wrong = copy.deepcopy(state)
    change(wrong)
    with pytest.raises(TaskError) as error:
        TaskSpec.from_dict(wrong, source="robot.yaml")
    assert str(error.value).startswith("robot.yaml: ")
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "given", ["trajectory_msgs/msg/JointTrajectory", "control_msgs/msg/JointTrajectory", "gripper"]
)
def test_no_type_is_suggested_that_is_not_meant(state: dict[str, Any], given: str) -> None:
    state["action"].update(output="setpoint", type=given)
    with pytest.raises(TaskError) as error:
        TaskSpec.from_dict(state, source="robot.yaml")
    assert "did you mean" not in str(error.value)


IMAGE_MISTAKES: list[tuple[dict[str, Any], list[str]]] = [
    ({"encoding": "rgb"}, ["image.encoding", "'rgb'", "rgb8"]),
    ({"encoding": None}, ["image.encoding", "got nothing", "rgb8"]),
    ({"encoding": "mono8"}, ["image.shape", "1 channel(s)", "mono8"]),
    ({"shape": [96, 96]}, ["image.shape", "[96, 96]", "[height, width, channels]"]),
    ({"resize": [48, 48]}, ["image.resize", "[48, 48]", "[96, 96]"]),
    ({"crop": [100, 84]}, ["image.crop", "[100, 84]", "at most [96, 96]"]),
    ({"alignment": "interpolate"}, ["image.alignment", "asof or nearest"]),
    ({"fields": ["position"]}, ["image.fields", "image stream"]),
]


@pytest.mark.parametrize(("change", "words"), IMAGE_MISTAKES)
def test_a_mistake_in_an_image_stream_is_named(
    image: dict[str, Any], change: dict[str, Any], words: list[str]
) -> None:
    image["observations"]["image"].update(change)
    with pytest.raises(TaskError) as error:
        TaskSpec.from_dict(image, source="robot.yaml")
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", ["not YAML"]),
        ("name: x\nname: y\n", ["not YAML", "'name'", "twice"]),
        ("- 3\n", ["[3]", "mapping"]),
        ("", ["None", "mapping"]),
    ],
)
def test_a_file_that_is_no_task_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text(text)
    with pytest.raises(TaskError) as error:
        load_task(path)
    assert str(path) in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_missing_file_lists_the_tasks_there_are() -> None:
    with pytest.raises(TaskError, match=r"nowhere.yaml.*pusht_image, pusht_image_labelled, pusht_state"):
        load_task("nowhere.yaml")


def test_all_mistakes_of_a_file_are_told_at_once(state: dict[str, Any]) -> None:
    state["rate_hz"] = "fast"
    state["action"].pop("topic")
    with pytest.raises(TaskError) as error:
        TaskSpec.from_dict(state)
    assert "rate_hz" in str(error.value)
    assert "action.topic" in str(error.value)


def test_a_model_runs_a_task_with_other_topics_but_not_with_other_shapes(state: dict[str, Any]) -> None:
    made_for = TaskSpec.from_dict(state)
    robot = copy.deepcopy(state)
    robot["observations"]["keypoint"]["topic"] = "/camera/keypoints"
    robot["action"]["limits"]["position"]["max"] = [400.0, 400.0]
    TaskSpec.from_dict(robot).require_same_policy(made_for)
    robot["n_action_steps"] = 4
    with pytest.raises(TaskError, match=r"n_action_steps is 4, the model was made for 8"):
        TaskSpec.from_dict(robot).require_same_policy(made_for)


def two_joints(**action: Any) -> dict[str, Any]:
    """A task of two joints, positions and velocities observed, positions commanded as a trajectory."""
    joints = {"type": "sensor_msgs/msg/JointState", "fields": ["position", "velocity"], "names": ["a", "b"]}
    tip = {"type": "geometry_msgs/msg/PointStamped", "fields": ["x", "y"], "shape": [2]}
    return {
        "name": "arm",
        "rate_hz": 10,
        "n_obs_steps": 2,
        "horizon": 16,
        "n_action_steps": 8,
        "observations": {
            "joints": {"topic": "/joint_states", "shape": [4], "max_age_s": 0.2, **joints},
            "tip": {"topic": "/tip", "max_age_s": 0.2, **tip},
        },
        "action": {
            "topic": "/commands",
            "type": "trajectory_msgs/msg/JointTrajectory",
            "output": "trajectory",
            "names": ["a", "b"],
            "shape": [2],
            "limits": {"position": {"min": [-1.0, -1.0], "max": [1.0, 1.0]}},
            **action,
        },
    }


ARRAY_OF_POSITIONS = {"type": "std_msgs/msg/Float64MultiArray", "output": "setpoint", "rate_hz": 50}
ARRAY_OF_VELOCITIES = {**ARRAY_OF_POSITIONS, "command": "velocity"}


@pytest.mark.parametrize(
    ("key", "part", "value", "words"),
    [
        (
            "joints",
            "names",
            ["b", "a"],
            r"observations.joints.names is \['b', 'a'\], the model was made for \['a', 'b'\]",
        ),
        (
            "joints",
            "fields",
            ["velocity", "position"],
            r"observations.joints.fields is \['velocity', 'position'\]",
        ),
        (
            "tip",
            "fields",
            ["y", "x"],
            r"observations.tip.fields is \['y', 'x'\], the model was made for \['x', 'y'\]",
        ),
    ],
)
def test_a_model_runs_no_task_in_which_a_value_is_another(
    key: str, part: str, value: Any, words: str
) -> None:
    made_for, robot = TaskSpec.from_dict(two_joints()), two_joints()
    robot["observations"][key][part] = value
    with pytest.raises(TaskError, match=words):
        TaskSpec.from_dict(robot).require_same_policy(made_for)


def test_a_model_of_positions_commands_no_velocities() -> None:
    trajectory, positions, velocities = (
        TaskSpec.from_dict(two_joints(**action)) for action in ({}, ARRAY_OF_POSITIONS, ARRAY_OF_VELOCITIES)
    )
    positions.require_same_policy(trajectory)
    trajectory.require_same_policy(positions)
    for ours, theirs in ((velocities, trajectory), (velocities, positions), (positions, velocities)):
        with pytest.raises(
            TaskError, match=r"action.command is '(velocity|position)', the model was made for"
        ):
            ours.require_same_policy(theirs)


def test_what_the_values_of_an_imported_model_are_is_told_by_the_task_that_was_filled_in() -> None:
    """But for its actions' names, which `dp-ros import --task` gives."""
    robot = TaskSpec.from_dict(two_joints(**ARRAY_OF_VELOCITIES))
    derived = two_joints(**ARRAY_OF_POSITIONS, topic="/fill_in/action")
    derived["observations"]["joints"].update(topic="/fill_in/joints", fields=["position"], names=list("wxyz"))
    derived["observations"]["tip"].update(
        topic="/fill_in/tip", type="sensor_msgs/msg/JointState", fields=["position"], names=["tip_0", "tip_1"]
    )
    robot.require_same_policy(TaskSpec.from_dict(derived))
    derived["action"]["names"] = ["action_0", "action_1"]
    with pytest.raises(TaskError, match=r"action.names is \['a', 'b'\]"):
        robot.require_same_policy(TaskSpec.from_dict(derived))
    derived["action"]["names"] = ["a", "b"]
    derived["observations"]["tip"] = two_joints()["observations"]["tip"] | {"fields": ["y", "x"]}
    with pytest.raises(TaskError, match=r"observations.tip.fields"):
        robot.require_same_policy(TaskSpec.from_dict(derived))
