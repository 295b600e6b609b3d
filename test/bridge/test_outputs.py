"""Commands as ROS messages: what goes over the wire, and what stops a robot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from std_msgs.msg import Float64MultiArray

from dp_ros.bridge.client import RosClient
from dp_ros.bridge.clock import to_ns
from dp_ros.bridge.codecs import decode_trajectory, message_class
from dp_ros.bridge.outputs import encode_command, encode_points, encode_trajectory, make_output
from dp_ros.bridge.qos import reliable_qos
from dp_ros.runtime.motion.chunk import ActionChunk
from dp_ros.runtime.motion.spline import MotionState, TrajectoryPoints
from dp_ros.runtime.safety import BadAction
from dp_ros.sim.trajectory_controller import TrajectoryController
from dp_ros.task import ActionSpec
from dp_ros.task.action import ARRAY, JOINT_STATE, POSE, TRAJECTORY, TWIST, TWIST_NAMES

S = 1_000_000_000
POSE_NAMES = ["x", "y", "z", "qx", "qy", "qz", "qw"]
GRIPPER = {"name": "g", "close_above": 0.6, "open_below": 0.4, "open": 0.0, "closed": 0.8}


def spec(type_name: str, names: list[str], **values: Any) -> ActionSpec:
    kind = {"output": "trajectory"} if type_name == TRAJECTORY else {"output": "setpoint", "rate_hz": 100}
    limits = {"position": {"min": [-9.0] * len(names), "max": [9.0] * len(names)}}
    return ActionSpec.model_validate(
        {"topic": "/command", "type": type_name, "names": names, "shape": [len(names)], "limits": limits}
        | kind
        | values
    )


def motion(position: list[float], velocity: list[float]) -> MotionState:
    return MotionState(np.array(position), np.array(velocity), np.zeros(len(position)))


class Wire:
    """A publisher under test and a robot that hears it."""

    def __init__(self, client: RosClient, action: ActionSpec) -> None:
        self._client = client
        self.heard: list[Any] = []
        self.gripped: list[float] = []
        self.output: Any = make_output(client.node, action)
        node, qos = client.node, reliable_qos()
        node.create_subscription(message_class(action.type), action.topic, self.heard.append, qos)
        node.create_subscription(Float64MultiArray, "/gripper", lambda m: self.gripped.append(m.data[0]), qos)
        client.wait(self._matched, "the match of the endpoints")

    def _matched(self) -> bool:
        publishers = [self.output._publisher, *self.output.grippers._publishers.values()]
        return all(publisher.get_subscription_count() == 1 for publisher in publishers)

    def hear(self, n: int) -> Any:
        """The n-th message, once it is here."""
        self._client.wait(lambda: len(self.heard) >= n, f"message {n}")
        return self.heard[n - 1]

    def grip(self, n: int) -> list[float]:
        self._client.wait(lambda: len(self.gripped) >= n, f"gripper command {n}")
        return self.gripped


@pytest.fixture
def client(ros_domain: int) -> Iterator[RosClient]:
    with RosClient("robot") as ros:
        yield ros


def test_positions_go_to_a_command_controller_and_the_last_one_holds(client: RosClient) -> None:
    wire = Wire(client, spec(ARRAY, ["a", "b"]))
    wire.output.stop(S)
    for k in (1, 2):
        wire.output.publish(motion([k * 1.0, k * 2.0], [5.0, 5.0]), k * S)
        assert list(wire.hear(k).data) == [k * 1.0, k * 2.0]
    wire.output.stop(3 * S)
    assert list(wire.hear(3).data) == [2.0, 4.0]
    wire.output.stop(4 * S)
    wire.output.publish(motion([9.0, 9.0], [0.0, 0.0]), 5 * S)
    assert list(wire.hear(4).data) == [9.0, 9.0], "a stop without a setpoint before it sends nothing"


def test_velocities_are_the_policys_values_and_stop_at_zero_but_for_the_gripper(client: RosClient) -> None:
    wire = Wire(client, spec(ARRAY, ["a", "g"], command="velocity", grippers=[GRIPPER]))
    wire.output.publish(motion([0.5, 0.8], [7.0, 0.0]), S)
    assert list(wire.hear(1).data) == [0.5, 0.8]
    wire.output.stop(2 * S)
    assert list(wire.hear(2).data) == [0.0, 0.8]


def test_joint_states_carry_positions_with_their_velocities(client: RosClient) -> None:
    wire = Wire(client, spec(JOINT_STATE, ["a", "b"]))
    wire.output.publish(motion([1.0, 2.0], [3.0, 4.0]), 12 * S + 5)
    message = wire.hear(1)
    assert to_ns(message.header.stamp) == 12 * S + 5
    assert [list(message.name), list(message.position), list(message.velocity)] == [
        ["a", "b"],
        [1.0, 2.0],
        [3.0, 4.0],
    ]
    wire.output.stop(13 * S)
    assert [list(wire.hear(2).position), list(wire.heard[1].velocity)] == [[1.0, 2.0], [0.0, 0.0]]


def test_joint_states_that_command_velocities_have_no_positions(client: RosClient) -> None:
    wire = Wire(client, spec(JOINT_STATE, ["a", "b"], command="velocity"))
    wire.output.publish(motion([1.0, 2.0], [3.0, 4.0]), S)
    assert [list(wire.hear(1).position), list(wire.heard[0].velocity)] == [[], [1.0, 2.0]]


def test_a_pose_has_a_unit_quaternion_and_its_gripper_a_topic_of_its_own(client: RosClient) -> None:
    action = spec(
        POSE,
        [*POSE_NAMES, "g"],
        frame_id="base",
        grippers=[{**GRIPPER, "topic": "/gripper"}],
    )
    wire = Wire(client, action)
    wire.output.publish(motion([1.0, 2.0, 3.0, 0.0, 0.0, 0.6, 0.6, 0.8], [0.0] * 8), S)
    message = wire.hear(1)
    place, turn = message.pose.position, message.pose.orientation
    assert (message.header.frame_id, place.x, place.y, place.z) == ("base", 1.0, 2.0, 3.0)
    assert [turn.x, turn.y, turn.z, turn.w] == pytest.approx([0.0, 0.0, 0.5**0.5, 0.5**0.5])
    assert wire.grip(1) == [0.8]
    same = motion([0.0] * 6 + [1.0, 0.8], [0.0] * 8)
    wire.output.publish(same, S + S // 2)
    wire.output.publish(same, 2 * S)
    assert wire.grip(2) == [0.8, 0.8], "an unchanged command is repeated once a second"
    wire.output.stop(3 * S)
    assert wire.hear(4).pose.orientation.w == 1.0
    with pytest.raises(BadAction, match="orientation has length 0"):
        wire.output.publish(motion([0.0] * 8, [0.0] * 8), 4 * S)


def test_a_twist_stops_at_zero(client: RosClient) -> None:
    wire = Wire(client, spec(TWIST, list(TWIST_NAMES), frame_id="tool"))
    wire.output.publish(motion([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.0] * 6), S)
    twist = wire.hear(1).twist
    assert [twist.linear.x, twist.linear.z, twist.angular.x, twist.angular.z] == [0.1, 0.3, 0.4, 0.6]
    wire.output.stop(2 * S)
    twist = wire.hear(2).twist
    assert [twist.linear.x, twist.linear.z, twist.angular.x, twist.angular.z] == [0.0, 0.0, 0.0, 0.0]


#: A motion of two joints and a gripper that ends at rest.
POINTS = TrajectoryPoints(
    np.array([10 * S, 10 * S + S // 2, 11 * S]),
    np.array([[0.0, 1.0, 0.0], [0.3, 0.9, 0.8], [0.5, 0.8, 0.8]]),
    np.array([[0.6, 0.0, 0.0], [0.4, -0.2, 0.0], [0.0, 0.0, 0.0]]),
    np.array([[0.1, 0.0, 0.0], [-1.0, 0.2, 0.0], [0.0, 0.0, 0.0]]),
)


def test_a_trajectory_over_the_wire_is_taken_and_executed_point_for_point(client: RosClient) -> None:
    wire = Wire(client, spec(TRAJECTORY, ["a", "b", "g"], grippers=[{**GRIPPER, "topic": "/gripper"}]))
    robot = TrajectoryController(["b", "a"])
    robot.hold([1.0, 0.0])
    wire.output.publish(POINTS, stamp_ns=10 * S - 7)
    assert robot.accept(decode_trajectory(wire.hear(1)), 10 * S - 5) is None
    robot.sample(10 * S - 5)
    for i, time_ns in enumerate(POINTS.times_ns.tolist()):
        state = robot.sample_state(time_ns)
        assert state.position.tolist() == POINTS.positions[i, 1::-1].tolist()
        assert np.allclose(state.velocity, POINTS.velocities[i, 1::-1], atol=1e-12)
        assert POINTS.accelerations is not None
        assert np.allclose(state.acceleration, POINTS.accelerations[i, 1::-1], atol=1e-9)
    wire.output.grippers.publish(POINTS.positions[1], 10 * S)
    assert wire.grip(1) == [0.8]
    wire.output.stop(np.array([0.25, 0.5, 0.0]))
    assert robot.accept(decode_trajectory(wire.hear(2)), 99 * S) is None, "a stop is never too late"
    assert robot.sample(99 * S).tolist() == [0.5, 0.25]
    assert len(wire.gripped) == 1


def test_points_before_the_stamp_are_refused() -> None:
    with pytest.raises(ValueError, match="lies 1 ns before"):
        encode_points(POINTS, ["a", "b"], [0, 1], stamp_ns=10 * S + 1)


def test_a_motion_without_accelerations_is_sent_without_them() -> None:
    plain = TrajectoryPoints(POINTS.times_ns, POINTS.positions, POINTS.velocities, None)
    message = encode_points(plain, ["b"], [1])
    assert [list(point.accelerations) for point in message.points] == [[], [], []]
    assert [list(point.velocities) for point in message.points] == [[0.0], [-0.2], [0.0]]


def test_a_chunk_becomes_a_trajectory_with_velocities_that_ends_at_rest() -> None:
    values = np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]])
    chunk = ActionChunk(3_000_000_000, 100_000_000, values, 3_000_000_000)
    plain = decode_trajectory(encode_trajectory(chunk, ["a", "b"]))
    assert plain.stamp_ns == 3_000_000_000
    assert list(plain.times_ns) == [0, 100_000_000, 200_000_000]
    assert np.array_equal(plain.positions, values)
    assert np.allclose(plain.velocities, [[10, 20], [10, 20], [0, 0]])


def test_a_trajectory_stamped_earlier_keeps_each_actions_time() -> None:
    chunk = ActionChunk(3_000_000_000, 100_000_000, np.zeros((2, 1)), 3_000_000_000)
    plain = decode_trajectory(encode_trajectory(chunk, ["a"], stamp_ns=2_950_000_000))
    assert [plain.stamp_ns + t for t in plain.times_ns] == [3_000_000_000, 3_100_000_000]


def test_a_command_is_a_trajectory_of_one_point() -> None:
    plain = decode_trajectory(encode_command(np.array([1.0, 2.0]), 7, ["a", "b"]))
    assert (plain.stamp_ns, list(plain.times_ns), plain.positions) == (7, [0], [[1.0, 2.0]])
