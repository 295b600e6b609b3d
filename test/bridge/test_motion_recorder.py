"""What was commanded when, of command messages as they came."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")

from geometry_msgs.msg import PoseStamped, TwistStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from dp_ros.bridge.clock import to_stamp
from dp_ros.bridge.motion_recorder import COMMAND_STEP_NS, commanded_samples
from dp_ros.bridge.outputs import encode_command
from dp_ros.errors import UserError
from dp_ros.paths import share_dir
from dp_ros.task import ActionSpec, TaskSpec

S = 1_000_000_000
NAMES = ["agent_x", "agent_y"]


def action(**changes: Any) -> ActionSpec:
    data = yaml.safe_load((share_dir() / "config/tasks/pusht_state.yaml").read_text())
    data = copy.deepcopy(data)
    data["action"].update(changes)
    return TaskSpec.from_dict(data).action


def test_trajectories_are_what_a_controller_makes_of_them() -> None:
    """Ten goals a second, each to be reached, at rest, 0.1 s after it was sent."""
    received = [
        (10 * S + k * S // 10, encode_command(np.array([k, 2.0 * k]), 10 * S + (k + 1) * S // 10, NAMES))
        for k in range(20)
    ]
    samples = commanded_samples(action(), received)
    assert np.diff(samples.stamps_ns).tolist() == [COMMAND_STEP_NS] * (len(samples.stamps_ns) - 1)
    steps = (samples.stamps_ns - 10 * S) / (S // 10)
    at_goal = steps == np.round(steps)
    assert samples.values[at_goal, 0] == pytest.approx(np.clip(steps[at_goal] - 1, 0, None), abs=1e-9)
    half_way = steps - np.floor(steps) == 0.5
    assert samples.values[half_way, 1] == pytest.approx(2 * np.clip(steps[half_way] - 1, 0, None), abs=1e-9)
    assert samples.names == ("agent_x", "agent_y")


def test_a_trajectory_that_a_controller_refuses_commands_nothing() -> None:
    refused = [(10 * S + k, encode_command(np.zeros(2), 9 * S, NAMES)) for k in range(2)]
    with pytest.raises(UserError, match=r"no trajectory could be executed.*ended"):
        commanded_samples(action(), refused)


def test_an_array_counts_from_its_arrival_and_one_of_another_size_not_at_all() -> None:
    spec = action(output="setpoint", type="std_msgs/msg/Float64MultiArray", rate_hz=100)
    messages = [
        Float64MultiArray(data=[1.0, 2.0]),
        Float64MultiArray(data=[1.0]),
        Float64MultiArray(data=[3.0, 4.0]),
    ]
    samples = commanded_samples(spec, list(zip([5, 6, 7], messages, strict=True)))
    assert samples.stamps_ns.tolist() == [5, 7]
    assert samples.values.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(UserError, match="2 values for agent_x, agent_y"):
        commanded_samples(spec, [(6, messages[1])])


def test_joint_states_are_looked_up_by_name_at_their_stamps() -> None:
    message = JointState(
        name=["other", "agent_y", "agent_x"], position=[9.0, 2.0, 1.0], velocity=[8.0, 4.0, 3.0]
    )
    message.header.stamp = to_stamp(3 * S)
    for command, row in (("position", [1.0, 2.0]), ("velocity", [3.0, 4.0])):
        spec = action(output="setpoint", type="sensor_msgs/msg/JointState", rate_hz=100, command=command)
        samples = commanded_samples(spec, [(4 * S, message)])
        assert samples.stamps_ns.tolist() == [3 * S]
        assert samples.values.tolist() == [row]


def test_poses_and_twists_are_taken_in_the_order_of_their_fields() -> None:
    pose = PoseStamped()
    pose.pose.position.y, pose.pose.orientation.w = 2.0, 1.0
    limits = {"position": {"min": [-9.0] * 7, "max": [9.0] * 7}}
    names = ["x", "y", "z", "qx", "qy", "qz", "qw"]
    spec = action(
        output="setpoint",
        type="geometry_msgs/msg/PoseStamped",
        rate_hz=50,
        names=names,
        shape=[7],
        limits=limits,
    )
    assert commanded_samples(spec, [(7, pose)]).values.tolist() == [[0, 2, 0, 0, 0, 0, 1]]
    twist = TwistStamped()
    twist.twist.angular.z = 0.5
    limits = {"position": {"min": [-9.0] * 6, "max": [9.0] * 6}}
    names = ["vx", "vy", "vz", "wx", "wy", "wz"]
    spec = action(
        output="setpoint",
        type="geometry_msgs/msg/TwistStamped",
        rate_hz=50,
        names=names,
        shape=[6],
        limits=limits,
    )
    assert commanded_samples(spec, [(7, twist)]).values.tolist() == [[0, 0, 0, 0, 0, 0.5]]
