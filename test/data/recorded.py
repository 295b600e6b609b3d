"""Small tasks and random episodes for the tests of recordings."""

from __future__ import annotations

from typing import Any

import numpy as np

from dp_ros.task import TaskSpec


def small_task(**changes: Any) -> TaskSpec:
    """A task with a vector and a picture of odd size, so that chunks do not end where episodes do."""
    task: dict[str, Any] = {
        "name": "small",
        "rate_hz": 10,
        "n_obs_steps": 2,
        "horizon": 16,
        "n_action_steps": 8,
        "observations": {
            "pose": {
                "topic": "/joints",
                "type": "sensor_msgs/msg/JointState",
                "fields": ["position"],
                "names": ["a", "b", "c"],
                "shape": [3],
                "max_age_s": 0.2,
            },
            "camera": {
                "topic": "/camera",
                "type": "sensor_msgs/msg/Image",
                "encoding": "rgb8",
                "shape": [96, 101, 3],
                "max_age_s": 0.2,
            },
        },
        "action": {
            "topic": "/command",
            "type": "trajectory_msgs/msg/JointTrajectory",
            "output": "trajectory",
            "names": ["a", "b"],
            "shape": [2],
            "limits": {"position": {"min": [-1, -1], "max": [1, 1]}},
        },
    }
    return TaskSpec.from_dict({**task, **changes})


def random_episode(task: TaskSpec, length: int, seed: int) -> list[dict[str, Any]]:
    """`length` steps of random values for every array of `task`."""
    draw = np.random.default_rng(seed)
    steps = []
    for k in range(length):
        step: dict[str, Any] = {"action": draw.normal(size=task.action.shape), "timestamp": k / task.rate_hz}
        for key, spec in task.observations.items():
            if spec.is_image:
                step[key] = draw.integers(0, 256, spec.shape, dtype=np.uint8)
            else:
                step[key] = draw.normal(size=spec.shape)
        steps.append(step)
    return steps
