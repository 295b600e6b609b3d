"""What a recorder loses of three cameras and joint states, what it costs and whether its memory stays bounded.

Real processes over DDS: a robot (`record_source`) and the recorder node, which writes to the disk. Pictures are counted
by their numbers in the rows, joint states by those in the bag that keeps them at their own rate; of the rows it is also
counted how many hold a joint state that is older than two periods. Easy to get wrong: what was sent before the
recording began, or after it ended, was not lost; but what was sent between is by the source's own count, or a recording
that lacks its beginning or its end would look complete.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mcap.reader import make_reader
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState

from dp_ros.benchmark.machine import processor_s, resident_mb
from dp_ros.benchmark.record_source import JOINT_HZ
from dp_ros.bringup import Bringup, NodeSpec
from dp_ros.data.layout import TIMESTAMP
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.dds import profile_variables
from dp_ros.errors import UserError
from dp_ros.processes import running
from dp_ros.task import load_task

CAMERA_HZ = 30.0
JOINT_TOPIC = "/joint_states"
_JOINTS = [f"joint_{i}" for i in range(1, 7)]


def write_task(path: Path, cameras: int, height: int, width: int) -> None:
    """A task of so many cameras, six joints and a trajectory, at the cameras' rate."""
    picture = {
        "type": "sensor_msgs/msg/Image",
        "encoding": "rgb8",
        "shape": [height, width, 3],
        "max_age_s": 0.5,
    }
    streams: dict[str, Any] = {f"camera_{i}": {"topic": f"/camera_{i}", **picture} for i in range(cameras)}
    streams["joints"] = {
        "topic": JOINT_TOPIC,
        "type": "sensor_msgs/msg/JointState",
        "fields": ["position"],
        "names": _JOINTS,
        "shape": [len(_JOINTS)],
        "max_age_s": 0.5,
    }
    action = {
        "topic": "/command",
        "type": "trajectory_msgs/msg/JointTrajectory",
        "output": "trajectory",
        "names": _JOINTS,
        "shape": [len(_JOINTS)],
        "limits": {"position": {"min": [-3.2] * 6, "max": [3.2] * 6}},
    }
    steps = {"rate_hz": CAMERA_HZ, "n_obs_steps": 2, "horizon": 16, "n_action_steps": 8}
    path.write_text(
        yaml.safe_dump({"name": "record_benchmark", **steps, "observations": streams, "action": action})
    )


def measure(
    folder: Path,
    seconds: float,
    *,
    cameras: int = 3,
    height: int = 480,
    width: int = 640,
    report: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Record one episode of so many seconds in `folder` and count what is in it.

    Raises:
        UserError: if the recorder ends the recording, or a process ends.
    """
    from dp_ros.bridge.client import RosClient
    from dp_ros.bridge.recorder_link import RecorderLink

    task_file, out = folder / "task.yaml", folder / "recorded.zarr"
    write_task(task_file, cameras, height, width)
    task = load_task(str(task_file))
    node = NodeSpec(
        "recorder", "recorder_node", {"task": str(task_file), "out": str(out), "raw_streams": "vectors"}
    )
    memory: list[tuple[float, float]] = []
    with running(Bringup("record", (node,))) as nodes, _source(task_file) as source:
        pid = nodes.pids["recorder"]
        with RosClient("bench_record", nodes.check, timeout_s=60.0) as client:
            recorder = RecorderLink(client)
            recorder.connect()
            recorder.start()
            begin = _sent(source)
            begin_s, begin_cpu_s = time.monotonic(), processor_s(pid)

            def over() -> bool:
                elapsed_s = time.monotonic() - begin_s
                if not memory or elapsed_s - memory[-1][0] >= 1.0:
                    memory.append((elapsed_s, resident_mb(pid)))
                    report(
                        f"{elapsed_s:.0f} of {seconds:g} s, {recorder.status.steps} rows, {memory[-1][1]:.0f} MB"
                    )
                return elapsed_s >= seconds or recorder.status.phase != "recording"

            client.wait(over, "the end", float("inf"))
            if recorder.status.phase != "recording":
                raise UserError(f"the recorder ended early: {recorder.status.message}")
            wall_s, cpu_s = time.monotonic() - begin_s, processor_s(pid) - begin_cpu_s
            end = _sent(source)
            recorder.save()
            save_s = time.monotonic() - begin_s - wall_s
        sent = _ask(source, "stop")
    report("counting")
    stored_mb = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    buffer = ReplayBuffer.open(out)
    # One may have been on its way while the recording began.
    frames, joints = range(begin["frames"] + 1, end["frames"]), range(begin["joints"] + 1, end["joints"])
    minute = [mb for at_s, mb in memory if at_s >= min(60.0, seconds / 2)]
    return {
        "streams": {
            **{key: _count_frames(buffer, key, frames) for key in task.observations if key != "joints"},
            "joints": _count_joints(folder / buffer.episode_info[0]["raw"], joints),
        },
        "late_joint_rows": _late_joint_rows(buffer),
        "rows": buffer.n_steps,
        "gaps": int((np.diff(buffer[TIMESTAMP]) > 1.5 / CAMERA_HZ).sum()),
        "rss_mb": {
            "minute_1": round(minute[0], 1),
            "end": round(memory[-1][1], 1),
            "max": round(max(minute), 1),
        },
        "seconds": round(wall_s, 1),
        "save_s": round(save_s, 2),
        "recorder_cores": round(cpu_s / wall_s, 2),
        "mb_per_s": {
            "in": round(cameras * height * width * 3 * CAMERA_HZ / 1e6, 1),
            "stored": round(stored_mb / wall_s, 1),
        },
        "source_latest_ms": round(sent["latest_ms"], 1),
    }


@contextmanager
def _source(task_file: Path) -> Any:
    process = subprocess.Popen(
        [sys.executable, "-m", "dp_ros.benchmark.record_source", str(task_file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **profile_variables(os.environ)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _ask(source: Any, line: str) -> dict[str, Any]:
    """What the source answers to a line."""
    source.stdin.write(f"{line}\n")
    source.stdin.flush()
    answer: dict[str, Any] = json.loads(source.stdout.readline())
    return answer


def _sent(source: Any) -> dict[str, int]:
    """How much the source has sent so far: what has a lower number."""
    return _ask(source, "count")


def _count_frames(buffer: ReplayBuffer, key: str, sent: range) -> dict[str, int]:
    """How many of the pictures with these numbers are recorded."""
    numbers = np.empty(buffer.n_steps, dtype=np.int64)
    for row in range(buffer.n_steps):
        first = buffer.rows(key, row, row + 1).reshape(-1)[:4]
        numbers[row] = int(np.frombuffer(first.tobytes(), np.uint32)[0])
    return _counted(numbers.tolist(), sent)


def _count_joints(bag: Path, sent: range) -> dict[str, int]:
    """How many of the joint states with these numbers are in the bag."""
    with bag.open("rb") as file:
        numbers = [
            int(deserialize_message(message.data, JointState).position[0])
            for _, _, message in make_reader(file).iter_messages(topics=[JOINT_TOPIC])
        ]
    return _counted(numbers, sent)


def _counted(numbers: list[int], sent: range) -> dict[str, int]:
    there = [number for number in numbers if number in sent]
    recorded = len(set(there))
    lost = len(sent) - recorded
    return {"sent": len(sent), "recorded": recorded, "lost": lost, "twice": len(there) - recorded}


def _late_joint_rows(buffer: ReplayBuffer) -> int:
    """Rows with a joint state that is older than two periods at the row's time."""
    numbers = buffer["joints"][:, 0].astype(np.int64)
    due = numbers[0] + np.round(buffer[TIMESTAMP] * JOINT_HZ).astype(np.int64)
    return int((np.abs(numbers - due) > 2).sum())
