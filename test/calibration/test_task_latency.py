"""Which signals of a task are compared for a latency, and in which direction."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dp_ros.calibration.motion_recording import MotionRecording, Samples, load_motion
from dp_ros.calibration.signals import CalibrationError
from dp_ros.calibration.task_latency import calibrate
from dp_ros.errors import UserError
from dp_ros.paths import share_dir
from dp_ros.task import TaskSpec
from test.calibration.motion import Motion, sampled

START_NS = 1_700_000_000_000_000_000
JOINTS = ("position agent_x", "position agent_y")
COMMANDS = ("agent_x", "agent_y")


@pytest.fixture
def data() -> dict[str, Any]:
    return yaml.safe_load((share_dir() / "config/tasks/pusht_state.yaml").read_text())


def stream(values: Any, times_s: np.ndarray, names: tuple[str, ...]) -> Samples:
    return Samples(START_NS + np.rint(times_s * 1e9).astype(np.int64), np.asarray(values), names)


def samples(
    motion: Motion, rate_hz: float, latency_s: float, names: tuple[str, ...], seed: int = 0
) -> Samples:
    signal = sampled(motion, rate_hz, latency_s=latency_s, noise=0.01, seed=seed)
    return stream(signal.values, signal.times_s, names)


def test_keypoints_that_move_with_the_arm_are_compared_with_its_joints(data: dict[str, Any]) -> None:
    motion = Motion("free", dim=2, seed=1)
    signal = sampled(motion, 30, latency_s=0.11, noise=0.02, seed=3)
    mixing = np.random.default_rng(0).normal(size=(2, 18))
    names = tuple(f"position.{axis} {i}" for i in range(9) for axis in "xy")
    recording = MotionRecording(
        {
            "agent_pos": samples(motion, 250, 0.0, JOINTS),
            "keypoint": stream(signal.values @ mixing, signal.times_s, names),
        }
    )
    found = calibrate(TaskSpec.from_dict(data), [recording], "keypoint")
    assert found.against == "agent_pos"
    assert found.seconds == pytest.approx(0.11, abs=0.01)


def test_a_stream_that_is_earlier_than_its_reference_is_refused(data: dict[str, Any]) -> None:
    """Its reference is stamped 60 ms late, and the task does not say so."""
    motion = Motion("moves", dim=2, seed=1)
    recording = MotionRecording(
        {
            "agent_pos": samples(motion, 250, 0.06, JOINTS),
            "keypoint": samples(motion, 30, 0.0, ("position.x 0", "position.y 0"), seed=4),
        }
    )
    with pytest.raises(
        CalibrationError, match=r"keypoint is (59|60|61) ms earlier.*calibrate agent_pos first"
    ):
        calibrate(TaskSpec.from_dict(data), [recording], "keypoint")


@pytest.mark.parametrize("fields", [["position"], ["position", "velocity"]])
def test_commanded_velocities_are_compared_with_measured_positions(
    data: dict[str, Any], fields: list[str]
) -> None:
    data["observations"]["agent_pos"].update(fields=fields, shape=[2 * len(fields)])
    data["action"].update(
        output="setpoint", type="std_msgs/msg/Float64MultiArray", rate_hz=100, command="velocity"
    )
    motion = Motion("free", dim=2, seed=2)
    times = np.arange(0, 20, 0.01)
    velocities = (motion.at(times + 1e-4) - motion.at(times - 1e-4)) / 2e-4
    recording = MotionRecording(
        {
            "action": stream(velocities, times, COMMANDS),
            "agent_pos": samples(motion, 100, 0.14, JOINTS, seed=5),
        }
    )
    found = calibrate(TaskSpec.from_dict(data), [recording], "action")
    assert found.seconds == pytest.approx(0.14, abs=0.01)


def test_angles_that_wrap_are_followed_across_the_jump(data: dict[str, Any]) -> None:
    data["observations"]["agent_pos"]["angles"] = ["agent_x", "agent_y"]
    motion = Motion("free", dim=2, seed=6)
    signal = sampled(motion, 100, latency_s=0.09, seed=1)
    wrapped = (4 * signal.values + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(np.diff(wrapped, axis=0)).max() > 5
    recording = MotionRecording(
        {
            "action": samples(motion, 100, 0.0, COMMANDS, seed=2),
            "agent_pos": stream(wrapped, signal.times_s, JOINTS),
        }
    )
    found = calibrate(TaskSpec.from_dict(data), [recording], "action")
    assert found.seconds == pytest.approx(0.09, abs=0.01)


def test_a_commanded_pose_is_compared_with_the_measured_one(data: dict[str, Any]) -> None:
    fields = [f"position.{a}" for a in "xyz"] + [f"orientation.{a}" for a in "xyzw"]
    data["observations"]["tool"] = {
        "topic": "/tool",
        "type": "geometry_msgs/msg/PoseStamped",
        "fields": fields,
        "shape": [7],
        "max_age_s": 0.1,
    }
    names = ["x", "y", "z", "qx", "qy", "qz", "qw"]
    data["action"].update(
        output="setpoint",
        type="geometry_msgs/msg/PoseStamped",
        rate_hz=50,
        names=names,
        shape=[7],
        state="tool",
        limits={"position": {"min": [-9.0] * 7, "max": [9.0] * 7}},
    )
    motion = Motion("moves", dim=7, seed=7)
    recording = MotionRecording(
        {
            "action": samples(motion, 50, 0.0, tuple(names)),
            "tool": samples(motion, 125, 0.21, tuple(fields), seed=8),
        }
    )
    found = calibrate(TaskSpec.from_dict(data), [recording], "action")
    assert found.latency.channels == ("x", "y", "z")
    assert found.seconds == pytest.approx(0.21, abs=0.01)


def test_a_gripper_is_not_compared(data: dict[str, Any]) -> None:
    data["action"]["grippers"] = [
        {"name": "agent_y", "close_above": 0.6, "open_below": 0.4, "open": 0.0, "closed": 1.0}
    ]
    motion = Motion("free", dim=2, seed=3)
    recording = MotionRecording(
        {
            "action": samples(motion, 100, 0.0, COMMANDS),
            "agent_pos": samples(motion, 100, 0.1, JOINTS, seed=1),
        }
    )
    assert calibrate(TaskSpec.from_dict(data), [recording], "action").latency.channels == ("agent_x",)


def test_a_task_in_which_nothing_measures_the_action_says_so(data: dict[str, Any]) -> None:
    task = copy.deepcopy(data)
    del task["observations"]["agent_pos"]
    with pytest.raises(UserError, match=r"no stream that measures what action shows.*--against"):
        calibrate(TaskSpec.from_dict(task), [MotionRecording({})], "action")


def test_a_stream_that_was_not_recorded_is_named(data: dict[str, Any]) -> None:
    recording = MotionRecording({"agent_pos": samples(Motion("free", dim=2), 100, 0.0, JOINTS)})
    with pytest.raises(CalibrationError, match=r"0 sample\(s\) of action"):
        calibrate(TaskSpec.from_dict(data), [recording], "action")


def test_a_recording_survives_the_way_to_a_file_and_back(data: dict[str, Any], tmp_path: Path) -> None:
    task = TaskSpec.from_dict(data)
    pictures = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    recording = MotionRecording(
        {
            "agent_pos": samples(Motion("free", dim=2), 100, 0.0, JOINTS),
            "image": Samples(np.array([1, 2], dtype=np.int64), pictures),
        }
    )
    recording.save(tmp_path / "new" / "motion.npz", task)
    (again,) = load_motion(tmp_path / "new" / "motion.npz", task)
    for key, given in recording.streams.items():
        assert again.streams[key].names == given.names
        assert np.array_equal(again.streams[key].stamps_ns, given.stamps_ns)
        assert np.array_equal(again.streams[key].values, given.values)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["motion.npz"]
