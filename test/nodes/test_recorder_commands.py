"""The recorder in this process, in real time, with the kinds of commands that are not trajectories, and takeovers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

rclpy = pytest.importorskip("rclpy")

from geometry_msgs.msg import Pose, PoseArray, TwistStamped  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402
from std_msgs.msg import Float64MultiArray  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402
from trajectory_msgs.msg import JointTrajectory  # noqa: E402

from dp_ros.bridge.clock import to_stamp  # noqa: E402
from dp_ros.bridge.outputs import encode_command  # noqa: E402
from dp_ros.bridge.qos import latched_qos, reliable_qos  # noqa: E402
from dp_ros.data.replay_buffer import ReplayBuffer  # noqa: E402
from dp_ros.errors import UserError  # noqa: E402
from dp_ros.msg import Takeover  # noqa: E402
from dp_ros.nodes.recorder_node import RecorderNode  # noqa: E402
from dp_ros.paths import share_dir  # noqa: E402

NAMES = ["agent_x", "agent_y"]
PERIOD_S = 0.05


def task_file(folder: Path, **action: Any) -> Path:
    task = yaml.safe_load((share_dir() / "config/tasks/pusht_state.yaml").read_text())
    task["action"] |= {"output": "setpoint", "rate_hz": 20, **action} if action else {}
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(task))
    return path


class Stage:
    """A recorder, a robot that publishes at 20 Hz, and whoever commands it at every one of its periods."""

    def __init__(self, task: Path, out: Path, *parameters: str) -> None:
        words = [f"task:={task}", f"out:={out}", *parameters]
        rclpy.init(args=["--ros-args", *(word for pair in words for word in ("-p", pair))])
        self.recorder = RecorderNode()
        self.node = rclpy.create_node("stage", use_global_arguments=False)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.recorder)
        self.executor.add_node(self.node)
        self.keypoints = self.publisher(PoseArray, "/pusht/keypoints")
        self.joints = self.publisher(JointState, "/pusht/joint_states")
        self.command: Callable[[int], None] = lambda now_ns: None
        self.next_s = time.monotonic()

    def publisher(self, kind: Any, topic: str, qos: Any = None) -> Any:
        return self.node.create_publisher(kind, topic, qos or reliable_qos())

    def until(self, condition: Callable[[], Any], what: str, limit_s: float = 15.0) -> None:
        end_s = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end_s, f"waited in vain for {what}: {self.recorder._message}"
            if time.monotonic() >= self.next_s:
                self.next_s = max(self.next_s + PERIOD_S, time.monotonic())
                now_ns = self.node.get_clock().now().nanoseconds
                joints = JointState(name=NAMES, position=[1.0, 2.0])
                keypoints = PoseArray(poses=[Pose() for _ in range(9)])
                joints.header.stamp = keypoints.header.stamp = to_stamp(now_ns)
                self.joints.publish(joints)
                self.keypoints.publish(keypoints)
                self.command(now_ns)
            self.executor.spin_once(timeout_sec=0.005)

    def call(self, name: str) -> Any:
        client = self.node.create_client(Trigger, f"/recorder/{name}")
        self.until(client.service_is_ready, f"service {name}")
        future = client.call_async(Trigger.Request())
        self.until(future.done, name)
        return future.result()

    def start(self) -> None:
        self.until(lambda: not self.recorder._commands.unconnected(), "the operator's connection")
        self.until(lambda: self.call("start").success, "the start")

    def rows(self, n: int) -> None:
        self.until(lambda: self.recorder._rows.n_rows >= n or not self.recorder._recording, f"{n} rows")

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *of_error: Any) -> None:
        self.executor.remove_node(self.recorder)
        self.recorder.destroy_node()
        self.node.destroy_node()
        self.executor.shutdown()
        rclpy.shutdown()


def test_setpoints_without_stamps_and_a_gripper_are_recorded(ros_domain: int, tmp_path: Path) -> None:
    gripper = {
        "name": "hand",
        "topic": "/hand",
        "close_above": 0.6,
        "open_below": 0.4,
        "open": 0,
        "closed": 1,
    }
    task = task_file(
        tmp_path,
        type="std_msgs/msg/Float64MultiArray",
        names=["agent_x", "hand", "agent_y"],
        shape=[3],
        grippers=[gripper],
        limits={"position": {"min": [0, 0, 0], "max": [512, 1, 512]}},
    )
    with Stage(task, tmp_path / "x.zarr") as stage:
        setpoints = stage.publisher(Float64MultiArray, "/pusht/joint_trajectory")
        assert "/hand" in stage.recorder._commands.unconnected()
        hand = stage.publisher(Float64MultiArray, "/hand")
        stage.start()
        stage.command = lambda now_ns: setpoints.publish(Float64MultiArray(data=[3.0, 4.0]))
        stage.until(lambda: not stage.recorder._rows.commands.is_empty, "the first setpoint")
        assert stage.call("save").message == "no steps to save: nothing was commanded on /hand"
        hand.publish(Float64MultiArray(data=[1.0]))  # once
        stage.rows(6)
        assert stage.call("save").success
    episode = ReplayBuffer.open(tmp_path / "x.zarr").episode(0)
    assert len(episode["action"]) >= 6
    assert (episode["action"] == [3.0, 1.0, 4.0]).all()
    np.testing.assert_allclose(np.diff(episode["timestamp"]), 0.1)


def test_setpoints_with_stamps_count_from_their_stamps(ros_domain: int, tmp_path: Path) -> None:
    names = ["vx", "vy", "vz", "wx", "wy", "wz"]
    limits = {"position": {"min": [-1.0] * 6, "max": [1.0] * 6}}
    task = task_file(
        tmp_path,
        type="geometry_msgs/msg/TwistStamped",
        names=names,
        shape=[6],
        limits=limits,
        frame_id="tool",
    )
    begin_ns = 0

    with Stage(task, tmp_path / "x.zarr") as stage:
        twists = stage.publisher(TwistStamped, "/pusht/joint_trajectory")

        def command(now_ns: int) -> None:
            """Commands that were given 50 ms before they are sent, and say when."""
            nonlocal begin_ns
            begin_ns = begin_ns or now_ns
            message = TwistStamped()
            message.header.stamp, message.header.frame_id = to_stamp(now_ns - 50_000_000), "tool"
            message.twist.linear.x = (now_ns - begin_ns) / 1e9
            message.twist.angular.z = -0.5
            twists.publish(message)

        stage.start()
        stage.command = command
        stage.rows(6)
        first_ns = stage.recorder._rows.first_ns
        assert stage.call("save").success
        stage.start()
        stage.command = lambda now_ns: twists.publish(TwistStamped())
        # Stamped zero: counts from its arrival.
        stage.until(lambda: stage.recorder._rows.n_rows >= 2, "rows of commands without a stamp")
        wrong = TwistStamped()
        wrong.header.frame_id = "base"
        stage.command = lambda now_ns: twists.publish(wrong)
        stage.until(lambda: not stage.recorder._recording, "the end")
        assert "is in frame base, the task says tool" in stage.recorder._message
    episode = ReplayBuffer.open(tmp_path / "x.zarr").episode(0)
    assert first_ns is not None
    given_s = (first_ns - begin_ns) / 1e9 + episode["timestamp"] + 0.05  # what had been given by then
    late_s = given_s - episode["action"][:, 0]
    assert (late_s > -1e-6).all() and (late_s < 0.3).all()
    assert (episode["action"][:, 5] == -0.5).all()


def test_a_run_is_recorded_with_the_steps_that_an_operator_took_over(ros_domain: int, tmp_path: Path) -> None:
    with Stage(task_file(tmp_path), tmp_path / "x.zarr", "takeover_topic:=/policy/takeover") as stage:
        policy = stage.publisher(JointTrajectory, "/pusht/joint_trajectory")
        operator = stage.publisher(JointTrajectory, "/policy/operator")
        takeover = stage.publisher(Takeover, "/policy/takeover", latched_qos())
        commands = {policy: 10.0, operator: 20.0}

        def by(publisher: Any) -> Callable[[int], None]:
            value = np.full(2, commands[publisher])
            return lambda now_ns: publisher.publish(encode_command(value, now_ns + 20_000_000, NAMES))

        def say(active: bool) -> None:
            message = Takeover(active=active, topic="/policy/operator")
            message.header.stamp = to_stamp(stage.node.get_clock().now().nanoseconds)
            takeover.publish(message)

        stage.until(
            lambda: takeover.get_subscription_count() and operator.get_subscription_count(), "the ends"
        )
        stage.start()
        stage.command = by(policy)
        stage.rows(3)
        stage.command = by(operator)
        stage.until(lambda: not stage.recorder._rows.operator.is_empty, "the operator's first command")
        say(True)
        stage.rows(7)
        say(False)
        stage.command = by(policy)
        stage.rows(11)
        saved = stage.call("save")
        assert saved.success, saved.message
    episode = ReplayBuffer.open(tmp_path / "x.zarr").episode(0)
    flags, actions = episode["takeover"].tolist(), episode["action"][:, 0].tolist()
    assert flags == sorted(flags[: flags.index(1)]) + [1] * flags.count(1) + [0] * (
        len(flags) - flags.index(1) - flags.count(1)
    )
    assert 2 <= flags.count(1) and flags[-1] == 0
    assert all(action == 20.0 for flag, action in zip(flags, actions, strict=True) if flag)
    assert actions[0] == 10.0 and actions[-1] == 10.0


def test_in_lockstep_setpoints_cannot_be_recorded(ros_domain: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lockstep records trajectories without takeovers"):
        try:
            Stage(task_file(tmp_path), tmp_path / "x.zarr", "lockstep:=true", "takeover_topic:=/t")
        finally:
            rclpy.shutdown()
