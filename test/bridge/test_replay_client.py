"""A replay heeds the emergency stop, whoever pressed it and when."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402
from std_msgs.msg import Bool  # noqa: E402
from trajectory_msgs.msg import JointTrajectory  # noqa: E402

from dp_ros.bridge.client import RosClient  # noqa: E402
from dp_ros.bridge.qos import reliable_qos  # noqa: E402
from dp_ros.bridge.replay_client import replay_episode  # noqa: E402
from dp_ros.errors import UserError  # noqa: E402
from dp_ros.msg import PolicyStatus  # noqa: E402
from dp_ros.runtime.replay import EpisodeReplay  # noqa: E402
from dp_ros.task import load_task  # noqa: E402

TASK = load_task("pusht_state")
NAMES = TASK.action.command_names


class Robot:
    """A robot that goes where it is told, and a policy that only says whether it is stopped."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("robot", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.at, self.commands, self.stopped = [256.0, 256.0], 0, False
        self.joints = self.node.create_publisher(JointState, "/pusht/joint_states", reliable_qos())
        self.status = self.node.create_publisher(PolicyStatus, "/policy/status", reliable_qos())
        self.button = self.node.create_publisher(Bool, "/policy/emergency_stop", reliable_qos())
        topic = TASK.action.topic
        self.node.create_subscription(JointTrajectory, topic, self._commanded, reliable_qos())
        self.node.create_timer(0.02, self._say)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()

    def _commanded(self, message: Any) -> None:
        self.commands += 1
        positions = dict(zip(message.joint_names, message.points[0].positions, strict=True))
        self.at = [positions[name] for name in NAMES]

    def _say(self) -> None:
        joints = JointState(name=NAMES, position=self.at, velocity=[0.0] * len(NAMES))
        joints.header.stamp = self.node.get_clock().now().to_msg()
        self.joints.publish(joints)
        self.status.publish(PolicyStatus(emergency_stop=self.stopped))

    def close(self) -> None:
        self.executor.shutdown()
        self.thread.join()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def robot(ros_domain: int) -> Iterator[Robot]:
    made = Robot()
    yield made
    made.close()


def replay(robot: Robot, press: Any = lambda: None) -> str:
    """Replay towards a far corner; `press` is called once the robot moves. Returns why it ended."""
    commands = np.linspace([256.0, 256.0], [400.0, 400.0], 60)

    def report(replay: EpisodeReplay) -> None:
        if robot.commands > 3:
            press()

    with RosClient("replay") as client, pytest.raises(UserError) as caught:
        replay_episode(
            client, TASK, commands, speed=1.0, approach=0.2, interrupted=threading.Event(), report=report
        )
    return str(caught.value)


def test_a_stop_that_is_latched_lets_nothing_begin(robot: Robot) -> None:
    robot.stopped = True
    assert "nothing was moved: the emergency stop is latched" in replay(robot)
    assert robot.commands == 0


@pytest.mark.parametrize("how", ["the service alone", "the topic"])
def test_a_stop_ends_a_replay(robot: Robot, how: str) -> None:
    def press() -> None:
        if how == "the topic":
            robot.button.publish(Bool(data=True))
        else:
            robot.stopped = True

    assert "the emergency stop" in replay(robot, press)
    assert robot.commands > 3 and max(robot.at) < 400.0
