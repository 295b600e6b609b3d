"""Latencies measured live: a robot of known latency moves on the wall clock, `dp-ros calibrate latency` listens.

The robot's samples are a function of their stamps, so a busy machine makes them fewer but not later.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from dp_ros.bridge.client import RosClient
from dp_ros.bridge.clock import to_stamp
from dp_ros.bridge.codecs import encode_image
from dp_ros.bridge.outputs import encode_trajectory
from dp_ros.bridge.qos import reliable_qos
from dp_ros.calibration.motion_recording import MotionRecording
from dp_ros.paths import share_dir
from dp_ros.runtime.motion.chunk import ActionChunk
from dp_ros.task import load_task
from test.calibration.motion import Motion
from test.calibration.scenes import fixed_camera

pytestmark = pytest.mark.timeout(240)
NAMES = ["agent_x", "agent_y"]
STEP_NS = 50_000_000
ROBOT_S, CAMERA_S = 0.16, 0.07


class MovingRobot:
    """Commands half a second ahead at 10 Hz, joint states at 100 Hz, pictures at 20 Hz."""

    def __init__(self, client: RosClient) -> None:
        self._node = client.node
        self._motion = Motion("free", dim=2, seed=7)
        self._begin_ns = self._now_ns()
        qos = reliable_qos()
        self._commands = self._node.create_publisher(JointTrajectory, "/pusht/joint_trajectory", qos)
        self._joints = self._node.create_publisher(JointState, "/pusht/joint_states", qos)
        self._images = self._node.create_publisher(Image, "/pusht/image", qos)
        for period_s, publish in ((0.1, self._command), (0.01, self._measure), (0.05, self._picture)):
            self._node.create_timer(period_s, publish)

    def _now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds

    def _at(self, time_ns: int, latency_s: float = 0.0) -> np.ndarray:
        return self._motion.at(np.array([(time_ns - self._begin_ns) / 1e9 - latency_s]))[0]

    def _command(self) -> None:
        start_ns = self._now_ns() + STEP_NS
        values = np.stack([256 + 110 * self._at(start_ns + i * STEP_NS) for i in range(20)])
        self._commands.publish(encode_trajectory(ActionChunk(start_ns, STEP_NS, values, start_ns), NAMES))

    def _measure(self) -> None:
        now_ns = self._now_ns()
        message = JointState(name=NAMES, position=(256 + 110 * self._at(now_ns, ROBOT_S)).tolist())
        message.header.stamp = to_stamp(now_ns)
        self._joints.publish(message)

    def _picture(self) -> None:
        now_ns = self._now_ns()
        grey = fixed_camera(0.6 * self._at(now_ns, ROBOT_S + CAMERA_S)[np.newaxis])[0]
        pixels = np.repeat(grey[:, :48, np.newaxis], 3, axis=2).repeat(2, axis=0).repeat(2, axis=1)
        self._images.publish(encode_image(np.ascontiguousarray(pixels), now_ns, "camera"))


def test_the_latencies_of_a_moving_robot_are_measured_live(ros_domain: int, tmp_path: Path) -> None:
    task_file = tmp_path / "robot.yaml"
    shutil.copy(share_dir() / "config" / "tasks" / "pusht_image.yaml", task_file)
    command = [sys.executable, "-m", "dp_ros.cli.main", "calibrate", "latency", "action", "image"]
    command += ["--task", str(task_file), "--record", "11", "--out", str(tmp_path / "motion.npz")]
    with RosClient("robot") as client:
        MovingRobot(client)
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            client.wait(lambda: process.poll() is not None, "the end of the calibration", 200.0)
        finally:
            process.kill()
            output = process.communicate()[0].decode()
    assert process.returncode == 0, output
    task = load_task(task_file)
    assert task.action.latency_s == pytest.approx(ROBOT_S, abs=0.01), output
    assert task.observations["image"].latency_s == pytest.approx(CAMERA_S, abs=0.01), output
    streams = MotionRecording.load(tmp_path / "motion.npz").streams
    assert len(streams["agent_pos"].stamps_ns) > 200  # of 1100: its full rate, not that of the task
    assert streams["image"].values.shape[1:] == (48, 48)
    assert (tmp_path / "out" / "calibration" / "image.png").is_file()
