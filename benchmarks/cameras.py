"""Counts what a policy node loses of two 640x480 cameras at 30 Hz and joint states at 500 Hz, and what it costs.

    python benchmarks/cameras.py [--seconds 30] [--compressed] [--full-size] [--json out.json]

Real processes: one publishes the streams of config/tasks/ur5e_two_realsense.yaml (rgb8 noise, best effort, from
memory), the other is a policy node that runs a goal with a model that always says the same, so that what is
measured is the way in. Prints frames sent, received and lost for each stream, and the node's processor time.
The policy scales pictures to the task's 240x320 unless `--full-size`. Whatever else runs on the machine shows
in the figures: the load is printed with them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import qos_profile_sensor_data
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import CompressedImage, Image, JointState
from trajectory_msgs.msg import JointTrajectory

from dp_ros import bringup
from dp_ros.benchmark.machine import busy_cores, load_average, processor_s
from dp_ros.bridge.client import RosClient
from dp_ros.bridge.clock import to_ns, to_stamp
from dp_ros.bridge.codecs import encode_image
from dp_ros.bridge.qos import reliable_qos
from dp_ros.bridge.run_client import run_policy
from dp_ros.dds import profile_variables
from dp_ros.paths import share_dir
from dp_ros.processes import running
from dp_ros.task import load_task
from test.system.constant_model import make_constant_model

CAMERA_HZ, JOINT_HZ = 30, 500
POSITION = 0.5
COMPRESSED = "sensor_msgs/msg/CompressedImage"


def write_task(folder: Path, *, compressed: bool, full_size: bool) -> Path:
    """The shipped UR5e task, changed as the command line says."""
    data = yaml.safe_load((share_dir() / "config/tasks/ur5e_two_realsense.yaml").read_text())
    for stream in data["observations"].values():
        if "encoding" in stream:
            stream.update({"type": COMPRESSED} if compressed else {})
            stream.update({"shape": [480, 640, 3], "resize": [480, 640]} if full_size else {})
    path = folder / "cameras.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def generate(task_file: str) -> None:
    """The robot's process: publishes once everybody listens, until a line comes in, then prints what it sent."""
    task = load_task(task_file)
    rclpy.init(args=[])
    node = rclpy.create_node("robot")
    node.create_subscription(JointTrajectory, task.action.topic, lambda _: None, reliable_qos())
    pictures = np.random.default_rng(0).integers(0, 256, (4, 480, 640, 3), dtype=np.uint8)
    streams: dict[str, tuple[float, Callable[[int, int], None]]] = {}
    publishers = []
    for key, spec in task.observations.items():
        kind = {"sensor_msgs/msg/Image": Image, COMPRESSED: CompressedImage}.get(spec.type, JointState)
        publisher = node.create_publisher(kind, spec.topic, qos_profile_sensor_data)
        publishers.append(publisher)
        if kind is JointState:
            send = _joint_sender(publisher, list(spec.names))
        else:
            send = _picture_sender(publisher, pictures, compressed=kind is CompressedImage)
        streams[key] = (JOINT_HZ if kind is JointState else CAMERA_HZ, send)
    while not all(publisher.get_subscription_count() for publisher in publishers):
        time.sleep(0.05)
    time.sleep(1.0)  # the listener's side of the connection
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    begin_s, sent, latest_s = time.monotonic(), dict.fromkeys(streams, 0), 0.0
    due_s = dict.fromkeys(streams, begin_s)
    while not stop.is_set():
        for key, (hz, send) in streams.items():
            now_s = time.monotonic()
            if now_s >= due_s[key]:
                latest_s = max(latest_s, now_s - due_s[key])
                send(sent[key], time.time_ns())
                sent[key] += 1
                # A camera that was held up goes on; it does not send what it missed all at once.
                due_s[key] += 1 / hz
                if hz == CAMERA_HZ:
                    due_s[key] = max(due_s[key], now_s + 0.5 / hz)
        time.sleep(max(min(due_s.values()) - time.monotonic(), 0.0))
    elapsed_s = time.monotonic() - begin_s
    print(json.dumps({"sent": sent, "elapsed_s": elapsed_s, "latest_ms": 1e3 * latest_s}), flush=True)
    time.sleep(2.0)  # what was sent last is delivered by this process


def _joint_sender(publisher: Any, names: list[str]) -> Callable[[int, int], None]:
    message = JointState(name=names, position=[POSITION] * len(names))

    def send(_: int, now_ns: int) -> None:
        message.header.stamp = to_stamp(now_ns)
        publisher.publish(message)

    return send


def _picture_sender(publisher: Any, pictures: Any, *, compressed: bool) -> Callable[[int, int], None]:
    if compressed:
        # Noise cannot be compressed: a smooth picture gives a JPEG of a usual size.
        smooth = [cv2.GaussianBlur(picture, (31, 31), 0) for picture in pictures]
        messages = [
            CompressedImage(format="jpeg", data=cv2.imencode(".jpg", picture)[1].tobytes())
            for picture in smooth
        ]
    else:
        messages = [encode_image(picture, 0, "camera") for picture in pictures]

    def send(count: int, now_ns: int) -> None:
        message = messages[count % len(messages)]
        message.header.stamp = to_stamp(now_ns)
        publisher.publish(message)

    return send


class Watcher(RosClient):
    """Follows the policy node's /diagnostics."""

    def __init__(self) -> None:
        super().__init__("cameras_benchmark")
        self.streams: dict[str, dict[str, str]] = {}
        self.stamp_ns = 0

    def __enter__(self) -> Watcher:
        super().__enter__()
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._receive, reliable_qos())
        return self

    def _receive(self, message: Any) -> None:
        self.stamp_ns = to_ns(message.header.stamp)
        for status in message.status:
            if ": stream " in status.name:
                key = status.name.split(": stream ")[1]
                self.streams[key] = {pair.key: pair.value for pair in status.values}

    def wait_until_settled(self) -> None:
        """Wait for diagnostics that are made a second from now, when everything sent has arrived."""
        settled_ns = time.time_ns() + 1_000_000_000
        self.wait(lambda: self.stamp_ns >= settled_ns, "the policy node's diagnostics")


def measure(seconds: float, *, compressed: bool, full_size: bool) -> dict[str, Any]:
    """Run generator and policy node; returns the figures."""
    with tempfile.TemporaryDirectory() as name:
        task_file = write_task(Path(name), compressed=compressed, full_size=full_size)
        task = load_task(task_file)
        model = make_constant_model(Path(name) / "constant", task, POSITION)
        generator = subprocess.Popen(
            [sys.executable, __file__, "--generate", str(task_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **profile_variables(os.environ)},
        )
        try:
            with (
                running(bringup.policy(model=str(model), task=str(task_file))) as nodes,
                Watcher() as watcher,
            ):
                watcher.wait(
                    lambda: all(int(watcher.streams.get(k, {}).get("added", 0)) for k in task.observations),
                    "every stream to reach the policy node",
                )
                begin_s, begin_cpu_s = time.monotonic(), processor_s(nodes.pids["policy"])
                result = run_policy(
                    action="/policy/run", time_limit_s=seconds, seed=0, report=lambda _: None, timeout_s=30.0
                )
                wall_s = time.monotonic() - begin_s
                cpu_s = processor_s(nodes.pids["policy"]) - begin_cpu_s
                generator.stdin.write("\n")  # type: ignore[union-attr]
                generator.stdin.flush()  # type: ignore[union-attr]
                made = json.loads(generator.stdout.readline())  # type: ignore[union-attr]
                watcher.wait_until_settled()
                streams = watcher.streams
        finally:
            generator.kill()
            generator.wait()
    counts = {
        key: {
            "sent": sent,
            "received": int(streams[key]["received"]),
            "lost": sent - int(streams[key]["received"]),
            "dropped": int(streams[key]["dropped"]),
            "refused": int(streams[key]["refused"]),
            "hz": sent / made["elapsed_s"],
        }
        for key, sent in made["sent"].items()
    }
    return {
        "streams": counts,
        "policy_cores": cpu_s / wall_s,
        "goal": result.reason,
        "inferences": result.inferences,
        "generator_latest_ms": made["latest_ms"],
        "compressed": compressed,
        "full_size": full_size,
    }


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="of the goal")
    parser.add_argument("--compressed", action="store_true", help="JPEG instead of rgb8")
    parser.add_argument("--full-size", action="store_true", help="the policy sees 480x640, not 240x320")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--generate", metavar="TASK", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.generate:
        generate(args.generate)
        return
    busy = busy_cores()
    figures = measure(args.seconds, compressed=args.compressed, full_size=args.full_size)
    figures["machine"] = {"load_average": load_average(), "busy_cores_before": busy}
    table = Table("stream", "sent", "received", "lost", "dropped", "refused", "Hz")
    for key, row in figures["streams"].items():
        names = ("sent", "received", "lost", "dropped", "refused")
        table.add_row(key, *(str(row[name]) for name in names), f"{row['hz']:.1f}")
    console = Console()
    console.print(table)
    console.print(
        f"policy node: {figures['policy_cores']:.2f} cores, {figures['inferences']} inferences, goal ended with "
        f"{figures['goal']}; generator at most {figures['generator_latest_ms']:.0f} ms late; before it began "
        f"{busy} cores were busy, load average now {figures['machine']['load_average']}"
    )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
