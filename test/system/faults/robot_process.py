"""The robot of the fault tests as a process: camera, joint states, a trajectory controller, and a clock if asked.

The only mock of these tests. It reads faults from its standard input, one JSON object a line, and answers each
with the times at which it took effect. Easy to get wrong: it can be stopped or killed at any line, so it keeps
nothing that a test needs.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from dp_ros.bridge.clock import to_stamp
from dp_ros.bridge.codecs import decode_trajectory, encode_image
from dp_ros.bridge.qos import reliable_qos
from dp_ros.sim.trajectory_controller import TrajectoryController

from .model import JOINTS, Mood, picture

#: What can be asked for, and how it is when all is well.
WELL: dict[str, Any] = {
    "camera": "well",  # stopped | frozen
    "camera_size": None,  # [height, width]
    "camera_stamp_s": 0.0,  # added to stamps; a list: taken in turn
    "joints": "well",  # stopped | nan
    "joints_stamp_s": 0.0,
    "mood": "WELL",  # of the model, see model.Mood
    "motors": "well",  # stuck: the robot stays where it is, whatever its controller wants
    "controller": "well",  # silent: nobody listens to trajectories
    "interpolates_from": "desired",  # measured: as a stock controller does; changed where the robot stands
    "clock": "well",  # stopped
}
JOINTS_S, CAMERA_S, CLOCK_S = 0.02, 0.05, 0.01


class Robot:
    """Streams and motion of the robot.

    Args:
        clock_s: None: the wall clock; else publish /clock from this time on.
    """

    def __init__(self, clock_s: float | None) -> None:
        self.node = rclpy.create_node("robot")
        qos = reliable_qos()
        self._camera_pub = self.node.create_publisher(Image, "/robot/camera", qos)
        self._joints_pub = self.node.create_publisher(JointState, "/robot/joint_states", qos)
        self._clock_pub = self.node.create_publisher(Clock, "/clock", qos) if clock_s is not None else None
        self._listener: Any = None
        self._controller = TrajectoryController(JOINTS)
        self._position = np.zeros(2)
        self._frozen: Any = None
        self._published = 0
        self._faults = dict(WELL)
        self._started_ns = time.time_ns()
        self._offset_ns = 0 if clock_s is None else round(clock_s * 1e9) - self._started_ns
        self._stopped_ns: int | None = None
        self.set({})

    def now_ns(self) -> int:
        """ROS time."""
        return self._stopped_ns if self._stopped_ns is not None else time.time_ns() + self._offset_ns

    def set(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Change what is wrong; `clock_jump_s` sets the clock forward or back. Returns the answer."""
        now_ns, wall_ns = self.now_ns(), time.time_ns()
        jump_ns = round(wanted.pop("clock_jump_s", 0.0) * 1e9)
        unknown = set(wanted) - set(WELL)
        assert not unknown, f"unknown faults {unknown}"
        before = self._faults["interpolates_from"]
        self._faults.update(wanted)
        if self._faults["interpolates_from"] != before:
            desired = self._faults["interpolates_from"] == "desired"
            self._controller = TrajectoryController(JOINTS, interpolate_from_desired_state=desired)
            self._controller.hold(self._position)
        if self._faults["clock"] == "stopped":
            self._stopped_ns = now_ns
        elif self._stopped_ns is not None:
            self._offset_ns, self._stopped_ns = now_ns - wall_ns, None
        self._offset_ns += jump_ns
        if self._faults["camera"] == "frozen":
            self._frozen = self._picture() if self._frozen is None else self._frozen
        else:
            self._frozen = None
        if self._faults["controller"] == "well" and self._listener is None:
            self._listener = self.node.create_subscription(
                JointTrajectory, "/robot/joint_trajectory", self._receive, reliable_qos()
            )
        elif self._faults["controller"] == "silent" and self._listener is not None:
            self.node.destroy_subscription(self._listener)
            self._listener = None
            self._controller.hold(self._position)  # one that has died moves nothing
        return {
            "wall_ns": wall_ns,
            "before_ns": now_ns,
            "started_ns": self._started_ns,
            "offset_ns": self._offset_ns,
            "stopped_ns": self._stopped_ns,
            "position": self._controller.sample(now_ns).tolist(),
        }

    def move(self) -> None:
        """Follow the trajectory."""
        wanted = self._controller.sample(self.now_ns())
        if self._faults["motors"] == "well":
            self._position = wanted

    def publish_clock(self) -> None:
        """Send /clock, unless it stands still."""
        if self._clock_pub is not None and self._stopped_ns is None:
            self._clock_pub.publish(Clock(clock=to_stamp(self.now_ns())))

    def publish_joints(self) -> None:
        """Send where the robot is."""
        self.move()
        if self._faults["joints"] == "stopped" or self._stopped_ns is not None:
            return
        position = self._position.tolist()
        if self._faults["joints"] == "nan":
            position[0] = float("nan")
        message = JointState(name=JOINTS, position=position)
        message.header.stamp = to_stamp(self._stamp_ns("joints_stamp_s"))
        self._joints_pub.publish(message)

    def publish_camera(self) -> None:
        """Send a picture."""
        if self._faults["camera"] == "stopped" or self._stopped_ns is not None:
            return
        pixels = self._picture() if self._frozen is None else self._frozen
        if self._faults["camera_size"] is not None:
            pixels = np.zeros((*self._faults["camera_size"], 3), np.uint8)
        self._camera_pub.publish(encode_image(pixels, self._stamp_ns("camera_stamp_s"), "camera"))

    def _picture(self) -> Any:
        return picture(self.now_ns() / 1e9, Mood[self._faults["mood"]])

    def _stamp_ns(self, key: str) -> int:
        added = self._faults[key]
        if isinstance(added, list):
            self._published += 1
            added = added[self._published % len(added)]
        return max(self.now_ns() + round(added * 1e9), 0)

    def _receive(self, message: Any) -> None:
        self._controller.measure(self._position)
        self._controller.accept(decode_trajectory(message), self.now_ns())


def main(clock_s: float | None) -> None:
    """Run until standard input closes."""
    rclpy.init()
    robot = Robot(clock_s)
    executor = SingleThreadedExecutor()
    executor.add_node(robot.node)
    lines: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)  # whoever started this has gone

    threading.Thread(target=read, daemon=True).start()
    jobs = {robot.publish_clock: CLOCK_S, robot.publish_joints: JOINTS_S, robot.publish_camera: CAMERA_S}
    due_s = dict.fromkeys(jobs, time.monotonic())
    while True:
        for job, period_s in jobs.items():
            if time.monotonic() >= due_s[job]:
                job()
                due_s[job] = max(due_s[job] + period_s, time.monotonic())
        with contextlib.suppress(Empty):
            print(json.dumps(robot.set(json.loads(lines.get_nowait()))), flush=True)
        executor.spin_once(timeout_sec=max(min(due_s.values()) - time.monotonic(), 0.0))


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else None)
