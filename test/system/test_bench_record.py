"""The recorder's benchmark with small pictures: what was sent is recorded, and what is missing would be counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rclpy.serialization import serialize_message  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402

from dp_ros.benchmark.record import (  # noqa: E402
    JOINT_TOPIC,
    _count_frames,
    _count_joints,
    _late_joint_rows,
    measure,
    write_task,
)
from dp_ros.bridge.bags.definitions import message_definition  # noqa: E402
from dp_ros.bridge.bags.raw_bag import RawBag, RawMessage  # noqa: E402
from dp_ros.cli.main import main  # noqa: E402
from dp_ros.data.episode_writer import EpisodeWriter  # noqa: E402
from dp_ros.data.replay_buffer import ReplayBuffer  # noqa: E402
from dp_ros.task import load_task  # noqa: E402

from .processes_left import processes_left  # noqa: E402

pytestmark = pytest.mark.timeout(120)


def test_small_pictures_are_all_recorded(ros_domain: int, tmp_path: Path) -> None:
    result = measure(tmp_path, 4.0, cameras=2, height=48, width=64)
    assert set(result["streams"]) == {"camera_0", "camera_1", "joints"}
    for key in ("camera_0", "camera_1"):
        counts = result["streams"][key]
        assert counts["lost"] == counts["sent"] - counts["recorded"] <= 3  # on a busy machine
        assert 60 < counts["recorded"] <= result["rows"] <= 200
    joints = result["streams"]["joints"]
    assert joints["recorded"] > 1000 and joints["lost"] == joints["sent"] - joints["recorded"]
    assert result["rss_mb"]["end"] > 50 and result["mb_per_s"]["stored"] > 0
    assert processes_left(ros_domain) == []


def test_what_is_missing_is_counted(tmp_path: Path) -> None:
    write_task(tmp_path / "task.yaml", 1, 4, 4)
    task = load_task(str(tmp_path / "task.yaml"))
    with EpisodeWriter(tmp_path / "x.zarr", task) as writer:
        for row, (frame, joint) in enumerate([(5, 100), (6, 117), (8, 133), (8, 140), (10, 167)]):
            picture = np.zeros((4, 4, 3), np.uint8)
            picture.reshape(-1)[:4] = np.frombuffer(np.uint32(frame).tobytes(), np.uint8)
            joints = np.array([joint, 0, 0, 0, 0, 0], np.float32)
            step = {"camera_0": picture, "joints": joints, "action": np.zeros(6, np.float32)}
            writer.add({**step, "timestamp": row / 30})
        writer.save()
    buffer = ReplayBuffer.open(tmp_path / "x.zarr")
    assert _count_frames(buffer, "camera_0", range(5, 11)) == {
        "sent": 6,
        "recorded": 4,
        "lost": 2,
        "twice": 1,
    }
    # Neither the first nor the last that were sent are there: they are lost, too.
    assert _count_frames(buffer, "camera_0", range(3, 20))["lost"] == 13
    assert _count_frames(buffer, "camera_0", range(8, 10)) == {
        "sent": 2,
        "recorded": 1,
        "lost": 1,
        "twice": 1,
    }
    assert _late_joint_rows(buffer) == 1
    topics = {JOINT_TOPIC: ("sensor_msgs/msg/JointState", message_definition("sensor_msgs/msg/JointState"))}
    bag = RawBag(tmp_path / "x.raw", topics)
    for number in (100, 101, 103, 103, 104):
        data = serialize_message(JointState(position=[float(number)]))
        bag.put(RawMessage(JOINT_TOPIC, data, number, number, 0))
    path = bag.save()
    assert _count_joints(path, range(100, 105)) == {"sent": 5, "recorded": 4, "lost": 1, "twice": 1}
    assert _count_joints(path, range(100, 110))["lost"] == 6


def test_too_little_room_is_said_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, words in (
        (["--seconds", "1"], "expected 2 to 3600"),
        (["--folder", str(tmp_path / "nowhere")], "is not there"),
    ):
        assert main(["bench", "record", *arguments]) == 2
        assert words in capsys.readouterr().err
