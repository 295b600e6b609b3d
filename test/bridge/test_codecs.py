"""Messages to arrays and back: by name, in the task's order, or refused with what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from geometry_msgs.msg import Pose, PoseArray, PoseStamped, TwistStamped
from sensor_msgs.msg import JointState

from dp_ros.bridge.clock import to_duration, to_ns, to_stamp
from dp_ros.bridge.codecs import (
    CodecProblem,
    decode,
    encode_image,
    message_class,
)
from dp_ros.errors import UserError
from dp_ros.task import ObservationSpec


def spec(**values: Any) -> ObservationSpec:
    return ObservationSpec.model_validate({"topic": "/t", "max_age_s": 1.0, **values})


JOINTS = spec(type="sensor_msgs/msg/JointState", fields=["position", "velocity"], names=["b", "a"], shape=[4])


def test_joints_are_looked_up_by_name() -> None:
    message = JointState(name=["a", "x", "b"], position=[1.0, 9.0, 2.0], velocity=[3.0, 9.0, 4.0])
    assert decode(message, JOINTS).tolist() == [2.0, 1.0, 4.0, 3.0]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            JointState(name=["a"], position=[1.0], velocity=[1.0]),
            r"/t has joints \['a'\], the task also names \['b'\]",
        ),
        (JointState(name=["a", "b"], position=[1.0, 2.0]), "0 velocity value.s. for 2 joints"),
    ],
)
def test_a_joint_state_without_what_the_task_names_is_refused(message: Any, words: str) -> None:
    with pytest.raises(CodecProblem, match=words):
        decode(message, JOINTS)


def test_fields_are_taken_in_the_order_of_the_task() -> None:
    message = PoseStamped()
    message.pose.position.x, message.pose.orientation.w = 1.5, 0.5
    pose = spec(type="geometry_msgs/msg/PoseStamped", fields=["orientation.w", "position.x"], shape=[2])
    assert decode(message, pose).tolist() == [0.5, 1.5]
    twist = spec(type="geometry_msgs/msg/TwistStamped", fields=["angular.z"], shape=[1])
    assert decode(TwistStamped(), twist).tolist() == [0.0]


def test_poses_are_flattened_one_after_the_other_and_their_number_is_checked() -> None:
    points = spec(type="geometry_msgs/msg/PoseArray", fields=["position.x", "position.y"], shape=[4])
    message = PoseArray(poses=[Pose(), Pose()])
    message.poses[1].position.y = 3.0
    assert decode(message, points).tolist() == [0.0, 0.0, 0.0, 3.0]
    with pytest.raises(CodecProblem, match="/t has 1 poses, the task says 2"):
        decode(PoseArray(poses=[Pose()]), points)


POSE = [f"position.{a}" for a in "xyz"] + [f"orientation.{a}" for a in "xyzw"]


@pytest.mark.parametrize(
    ("representation", "turned"),
    [
        ("quaternion", [1.0, 0.0, 0.0, 0.0]),
        ("axis_angle", [np.pi, 0.0, 0.0]),
        ("6d", [1.0, 0.0, 0.0, 0.0, -1.0, 0.0]),
    ],
)
def test_an_orientation_comes_in_the_representation_that_the_policy_sees(
    representation: str, turned: list[float]
) -> None:
    stream = spec(
        type="geometry_msgs/msg/PoseStamped", fields=POSE, rotation=representation, shape=[3 + len(turned)]
    )
    message = PoseStamped()
    message.pose.position.z, message.pose.orientation.w = 0.5, 0.0
    message.pose.orientation.x = 2.0  # half a turn about x, not normalised
    np.testing.assert_allclose(decode(message, stream), [0, 0, 0.5, *turned], atol=1e-6)


def test_of_the_two_signs_of_a_quaternion_the_one_with_positive_w_is_taken() -> None:
    stream = spec(type="geometry_msgs/msg/PoseStamped", fields=POSE, shape=[7])
    one, other = PoseStamped(), PoseStamped()
    one.pose.orientation.z, one.pose.orientation.w = 0.6, 0.8
    other.pose.orientation.z, other.pose.orientation.w = -0.6, -0.8
    assert decode(one, stream).tolist() == decode(other, stream).tolist()


def test_an_orientation_of_length_zero_is_refused() -> None:
    stream = spec(type="geometry_msgs/msg/PoseStamped", fields=POSE, shape=[7])
    message = PoseStamped()
    message.pose.orientation.w = 0.0
    with pytest.raises(CodecProblem, match="/t: a quaternion of length 0 is no rotation"):
        decode(message, stream)


def test_a_picture_of_another_size_is_refused_with_the_remedy_or_scaled_where_the_task_says() -> None:
    picture = encode_image(np.full((48, 64, 3), 9, np.uint8), 5, "camera")
    fixed = spec(type="sensor_msgs/msg/Image", encoding="rgb8", shape=[96, 96, 3])
    with pytest.raises(CodecProblem, match=r"publishes 48x64, the task says 96x96; set resize: \[96, 96\]"):
        decode(picture, fixed)
    scaled = fixed.model_copy(update={"resize": (96, 96)})
    assert decode(picture, scaled).shape == (96, 96, 3)


def test_an_image_survives_the_way_into_a_message_and_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    message = encode_image(pixels, 1_500_000_000, "camera")
    assert to_ns(message.header.stamp) == 1_500_000_000
    shape = spec(type="sensor_msgs/msg/Image", encoding="rgb8", shape=[8, 9, 3])
    assert np.array_equal(decode(message, shape), pixels)


@pytest.mark.parametrize("time_ns", [0, 1, 999_999_999, 1_000_000_000, 1_795_385_039_076_023_084])
def test_stamps_keep_every_nanosecond(time_ns: int) -> None:
    assert to_ns(to_stamp(time_ns)) == time_ns
    assert to_ns(to_duration(time_ns)) == time_ns


def test_a_message_type_that_is_not_installed_is_named() -> None:
    with pytest.raises(UserError, match="message type no_such_msgs/msg/Thing is not installed"):
        message_class("no_such_msgs/msg/Thing")
