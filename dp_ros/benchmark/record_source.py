"""The robot of the recorder's benchmark: three cameras, joint states and an operator, each message numbered.

A process of its own: `python -m dp_ros.benchmark.record_source TASK`. It publishes once everybody listens, until a line
comes in, and prints what it sent; for a line `count` it prints how much that is so far, and goes on. A picture carries
its number in its first four bytes, a joint state in its first position. Easy to get wrong: stamps are multiples of the
period, as those of synchronised cameras are, so that each picture belongs to one row of the recording.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import cv2
import numpy as np
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from dp_ros.bridge.clock import to_stamp
from dp_ros.bridge.codecs import encode_image
from dp_ros.bridge.outputs import encode_trajectory
from dp_ros.bridge.qos import reliable_qos
from dp_ros.runtime.motion.chunk import ActionChunk
from dp_ros.task import TaskSpec, load_task

JOINT_HZ = 500
#: A command stands for so long, so that one that comes late on a busy machine is not over already.
STAND_NS = 1_000_000_000
_PICTURES = 8


def pictures(height: int, width: int) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Pictures as a camera gives them: smooth, with the noise of a sensor."""
    draw = np.random.default_rng(0)
    rough = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
    smooth = cv2.normalize(cv2.GaussianBlur(rough, (61, 61), 0), None, 10, 245, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    noisy = smooth.astype(np.float64) + draw.normal(0.0, 2.0, (_PICTURES, *smooth.shape))
    return list(np.clip(noisy, 0, 255).astype(np.uint8))


def publish(task: TaskSpec) -> dict[str, Any]:
    """Publish until told to stop; returns what was sent, and how late the latest was."""
    node = rclpy.create_node("source")
    cameras = {key: spec for key, spec in task.observations.items() if spec.is_image}
    joints = next(spec for spec in task.observations.values() if not spec.is_image)
    camera_pubs = {
        key: node.create_publisher(Image, spec.topic, qos_profile_sensor_data)
        for key, spec in cameras.items()
    }
    joint_pub = node.create_publisher(JointState, joints.topic, qos_profile_sensor_data)
    command_pub = node.create_publisher(JointTrajectory, task.action.topic, reliable_qos())
    height, width = next(iter(cameras.values())).shape[:2]
    messages = [encode_image(picture, 0, "camera") for picture in pictures(height, width)]
    joint_message = JointState(name=joints.names, position=[0.0] * len(joints.names))
    while not all(p.get_subscription_count() for p in (*camera_pubs.values(), joint_pub, command_pub)):
        time.sleep(0.05)
    stop = threading.Event()
    frames = joint_count = 0

    def answer() -> None:
        for line in sys.stdin:
            if line.strip() != "count":
                break
            print(json.dumps({"frames": frames, "joints": joint_count}), flush=True)
        stop.set()

    threading.Thread(target=answer, daemon=True).start()
    dt_ns = task.dt_ns
    begin_ns = (time.time_ns() // dt_ns + 30) * dt_ns
    latest_s = 0.0
    while not stop.is_set():
        frame_ns, joint_ns = begin_ns + frames * dt_ns, begin_ns + joint_count * 10**9 // JOINT_HZ
        due_ns = min(frame_ns, joint_ns)
        wait_s = (due_ns - time.time_ns()) / 1e9
        if wait_s > 0:
            time.sleep(wait_s)
        latest_s = max(latest_s, (time.time_ns() - due_ns) / 1e9)
        if joint_ns <= frame_ns:
            joint_message.position[0] = float(joint_count)
            joint_message.header.stamp = to_stamp(joint_ns)
            joint_pub.publish(joint_message)
            joint_count += 1
            continue
        number = np.frombuffer(np.uint32(frames).tobytes(), np.uint8).tolist()
        for offset, publisher in enumerate(camera_pubs.values()):
            message = messages[(frames + offset) % _PICTURES]
            for k, byte in enumerate(number):
                message.data[k] = byte
            message.header.stamp = to_stamp(frame_ns)
            publisher.publish(message)
        position = 0.3 * np.sin(frames / 40 + np.arange(task.action.dim))
        stand = ActionChunk(frame_ns + dt_ns, STAND_NS, np.stack([position, position]), frame_ns)
        command_pub.publish(encode_trajectory(stand, task.action.names))
        frames += 1
    time.sleep(1.0)  # what was sent last is delivered by this process
    node.destroy_node()
    return {"frames": frames, "joints": joint_count, "latest_ms": 1e3 * latest_s}


if __name__ == "__main__":
    rclpy.init(args=[])
    print(json.dumps(publish(load_task(sys.argv[1]))), flush=True)
    rclpy.shutdown()
