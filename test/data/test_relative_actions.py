"""Tasks whose actions count from the measured state are trained on actions that count from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dp_ros.data.windows import Demonstrations, cut_windows
from dp_ros.runtime import rotation
from dp_ros.runtime.action_space import ActionSpace
from dp_ros.task import TaskSpec
from dp_ros.task.action import ROTATION_NAMES
from test.data.recorded import small_task


def pose_task(representation: str) -> TaskSpec:
    names = ["x", "y", "z", *ROTATION_NAMES[representation]]
    fields = [f"position.{a}" for a in "xyz"] + [f"orientation.{a}" for a in "xyzw"]
    action: dict[str, Any] = {
        "topic": "/servo/pose",
        "type": "geometry_msgs/msg/PoseStamped",
        "output": "setpoint",
        "rate_hz": 100,
        "frame_id": "base",
        "names": names,
        "shape": [len(names)],
        "rotation": representation,
        "relative": True,
        "state": "tool",
        "limits": {"position": {"min": [-9.0] * 7, "max": [9.0] * 7}},
    }
    tool = {
        "topic": "/tool",
        "type": "geometry_msgs/msg/PoseStamped",
        "fields": fields,
        "shape": [7],
        "max_age_s": 1.0,
    }
    return small_task(action=action, observations={"tool": tool})


def relative_task() -> TaskSpec:
    action = {
        "topic": "/command",
        "type": "trajectory_msgs/msg/JointTrajectory",
        "output": "trajectory",
        "names": ["c", "a"],
        "shape": [2],
        "relative": True,
        "state": "pose",
        "limits": {"position": {"min": [-9, -9], "max": [9, 9]}},
    }
    return small_task(action=action)


def test_relative_actions_become_what_the_robot_makes_commands_of_again() -> None:
    task = relative_task()
    draw = np.random.default_rng(1)
    arrays = {key: draw.normal(size=(30, n)).astype(np.float32) for key, n in (("pose", 3), ("action", 2))}
    arrays["camera"] = np.zeros((30, 1), np.uint8)
    windows = cut_windows(Demonstrations(arrays, np.array([30]), ""), task, [0])
    observations, targets = windows.at(np.array([7]))
    assert targets[0, 3] == pytest.approx(arrays["action"][9] - arrays["pose"][7][[2, 0]], abs=1e-6)
    space = ActionSpace(task)
    observed = {key: values[0] for key, values in observations.items()}
    commands = space.to_commands(targets[0], reference=space.reference(observed))
    np.testing.assert_allclose(commands, arrays["action"][6:22], atol=1e-6)
    assert windows.values("action").max() == pytest.approx(windows.actions.max()), (
        "the range of what is learnt"
    )


@pytest.mark.parametrize("representation", ["quaternion", "6d"])
def test_relative_poses_become_what_the_robot_makes_commands_of_again(representation: str) -> None:
    task = pose_task(representation)
    n, dim = 25, task.action.dim
    draw = np.random.default_rng(2)
    turns = rotation.normalize(draw.normal(size=(2, n, 4)))
    seen = np.concatenate([draw.normal(size=(n, 3)), turns[0]], axis=1)
    wanted = np.concatenate(
        [draw.normal(size=(n, 3)), rotation.from_quaternion(turns[1], representation)], axis=1
    )
    arrays = {"tool": seen.astype(np.float32), "action": wanted.astype(np.float32)}
    windows = cut_windows(Demonstrations(arrays, np.array([n]), ""), task, [0])
    observations, targets = windows.at(np.array([7]))
    assert targets.shape == (1, 16, dim)
    space = ActionSpace(task)
    commands = space.to_commands(targets[0], reference=space.reference({"tool": observations["tool"][0]}))
    np.testing.assert_allclose(commands[:, :3], wanted[6:22, :3], atol=1e-5)
    assert rotation.angle_between(commands[:, 3:7], turns[1][6:22]).max() < 1e-3
