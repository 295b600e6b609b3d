"""A model folder whose inference can be told to fail, through what the camera shows.

A real graph that the real engine runs: it follows a circle whose phase is in the picture, and another pixel says
what goes wrong (`Mood`). Easy to get wrong: how long a slow inference takes depends on the machine, so the trip
counts of its loop are measured when the model is made.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml

from dp_ros.inference.manifest import load_manifest
from dp_ros.inference.onnx import OnnxEngine
from dp_ros.task import TaskSpec, load_task

from ..model_folder import write_model

JOINTS = ["shoulder", "elbow"]
PICTURE = (24, 32, 3)
RADIUS, PERIOD_S = 0.2, 2.0
RATE_HZ, HORIZON, CHUNK_S = 20.0, 51, 2.5
SLOW_S, TOO_SLOW_S = 1.0, 4.5

TASK = {
    "name": "faults",
    "description": "Two joints follow a circle whose phase is in the picture.",
    "rate_hz": RATE_HZ,
    "n_obs_steps": 2,
    "horizon": HORIZON,
    "n_action_steps": 8,
    "observations": {
        "camera": {
            "topic": "/robot/camera",
            "type": "sensor_msgs/msg/Image",
            "encoding": "rgb8",
            "shape": list(PICTURE),
            "max_age_s": 0.4,
            "freeze_after_s": 0.5,
            "alignment": "asof",
        },
        "joints": {
            "topic": "/robot/joint_states",
            "type": "sensor_msgs/msg/JointState",
            "fields": ["position"],
            "names": JOINTS,
            "shape": [2],
            "max_age_s": 0.4,
            "alignment": "asof",
        },
    },
    "action": {
        "topic": "/robot/joint_trajectory",
        "type": "trajectory_msgs/msg/JointTrajectory",
        "output": "trajectory",
        "names": JOINTS,
        "shape": [2],
        "state": "joints",
        "limits": {
            "position": {"min": [-0.8, -0.8], "max": [0.8, 0.8]},
            "velocity": [3.0, 3.0],
            "acceleration": [20.0, 20.0],
            "jerk": [2000.0, 2000.0],
            "tracking_error": [0.25, 0.25],
        },
    },
}


class Mood(IntEnum):
    """What the picture asks of the model."""

    WELL = 0
    SLOW = 1
    TOO_SLOW = 2
    RAISES = 3
    NAN = 4
    OUT_OF_BOUNDS = 5


def picture(time_s: float, mood: Mood) -> npt.NDArray[np.uint8]:
    """What the camera shows at a time: the phase of the circle in two bytes, the mood in the third."""
    pixels = np.full(PICTURE, 128, np.uint8)
    phase = int(time_s % PERIOD_S / PERIOD_S * 65536) % 65536
    pixels[0, 0] = phase // 256, phase % 256, mood
    return pixels


def make_fault_model(folder: Path) -> tuple[Path, Path]:
    """Write model and task; returns (model folder, task file)."""
    onnx = pytest.importorskip("onnx")
    task_file = folder / "faults.yaml"
    task_file.write_text(yaml.safe_dump(TASK))
    task = load_task(task_file)
    model = folder / "faults"
    trips = 400
    _write(onnx, model, task, trips, trips)
    trips *= round(0.2 / _duration_s(model, time.thread_time))
    _write(onnx, model, task, trips, trips)
    processor_s, wall_s = _duration_s(model, time.thread_time), _duration_s(model, time.monotonic)
    # Slow as this machine is busy now, and too slow even if it will be idle.
    slow_s = max(SLOW_S / wall_s, SLOW_S / 2 / processor_s)
    _write(onnx, model, task, round(trips * slow_s), round(trips * TOO_SLOW_S / processor_s))
    return model, task_file


def _duration_s(model: Path, clock: Callable[[], float]) -> float:
    """How long a slow inference takes, by a clock."""
    engine = OnnxEngine(model, load_manifest(model))
    camera = np.stack([picture(0.0, Mood.SLOW)] * 2)
    begin_s = clock()
    engine.sample(
        {"camera": camera, "joints": np.zeros((2, 2), np.float32)}, np.zeros((HORIZON, 2), np.float32)
    )
    return clock() - begin_s


def _write(onnx: Any, model: Path, task: TaskSpec, slow: int, too_slow: int) -> None:
    helper, types = onnx.helper, onnx.TensorProto
    size = int(np.prod(PICTURE))
    steps = np.arange(HORIZON, dtype=np.float32)[:, None] - 1.0  # row 0 belongs to the older observation
    quadrature = np.array([0.0, np.pi / 2], np.float32)
    #: By mood; an index of 1000 lies outside `table`, and a divisor of 0 gives NaN.
    trips = np.array([0, slow, too_slow, 0, 0, 0], np.int64)
    index = np.array([0, 0, 0, 1000, 0, 0], np.int64)
    divisor = np.array([1, 1, 1, 1, 0, 1], np.float32)
    offset = np.array([0, 0, 0, 0, 0, 100], np.float32)
    constants = {
        "flat": np.array([-1], np.int64),
        "at_high": np.int64(size),  # the newer of two pictures, its first pixel
        "at_low": np.int64(size + 1),
        "at_mood": np.int64(size + 2),
        "scale": np.float32(256.0),
        "turn": np.float32(2 * np.pi / 65536),
        "ahead": (steps * 2 * np.pi / (RATE_HZ * PERIOD_S) + quadrature).astype(np.float32)[None],
        "radius": np.float32(RADIUS),
        "trips": trips,
        "index": index,
        "divisor": divisor,
        "offset": offset,
        "table": np.zeros(2, np.float32),
        "zero": np.float32(0.0),
        "always": np.array(True),
        "begin": np.eye(64, dtype=np.float32),
        "unit": np.eye(64, dtype=np.float32),
    }
    node = helper.make_node
    body = helper.make_graph(
        [
            node("Identity", ["on"], ["still_on"]),
            node("MatMul", ["state", "unit"], ["next"]),
        ],
        "work",
        [
            helper.make_tensor_value_info("trip", types.INT64, []),
            helper.make_tensor_value_info("on", types.BOOL, []),
            helper.make_tensor_value_info("state", types.FLOAT, [64, 64]),
        ],
        [
            helper.make_tensor_value_info("still_on", types.BOOL, []),
            helper.make_tensor_value_info("next", types.FLOAT, [64, 64]),
        ],
    )
    nodes = [
        node("Reshape", ["camera", "flat"], ["bytes"]),
        node("Cast", ["bytes"], ["numbers"], to=types.FLOAT),
        node("Gather", ["numbers", "at_high"], ["high"]),
        node("Gather", ["numbers", "at_low"], ["low"]),
        node("Gather", ["numbers", "at_mood"], ["mood_number"]),
        node("Cast", ["mood_number"], ["mood"], to=types.INT64),
        node("Mul", ["high", "scale"], ["high_scaled"]),
        node("Add", ["high_scaled", "low"], ["phase"]),
        node("Mul", ["phase", "turn"], ["angle"]),
        node("Add", ["angle", "ahead"], ["angles"]),
        node("Sin", ["angles"], ["circle"]),
        node("Mul", ["circle", "radius"], ["way"]),
        node("Gather", ["trips", "mood"], ["trip_count"]),
        node("Loop", ["trip_count", "always", "begin"], ["worked"], body=body),
        node("ReduceSum", ["worked"], ["work"], keepdims=0),
        node("Gather", ["index", "mood"], ["row"]),
        node("Gather", ["table", "row"], ["looked_up"]),
        node("Gather", ["divisor", "mood"], ["divided_by"]),
        node("Div", ["zero", "divided_by"], ["quotient"]),
        node("Gather", ["offset", "mood"], ["away"]),
        node("ReduceSum", ["noise"], ["noise_sum"], keepdims=0),
        node("ReduceSum", ["joints"], ["joints_sum"], keepdims=0),
        node("Sum", ["work", "noise_sum", "joints_sum"], ["unused"]),
        node("Mul", ["unused", "zero"], ["nothing"]),
        node("Sum", ["way", "away", "quotient", "looked_up", "nothing"], ["action"]),
    ]
    write_model(
        model, task, nodes, [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    )
