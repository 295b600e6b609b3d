"""A model folder whose policy always says the same, for tests and figures that are not about what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dp_ros.paths import share_dir
from dp_ros.task import TaskSpec, load_task

from .model_folder import write_model


def make_constant_image_model(folder: Path) -> tuple[Path, Path]:
    """Write a model that takes pusht_image observations and answers (256, 256); returns (model, task file).

    The task file is pusht_image without `resize`, so that a picture of another size does not fit.
    """
    task_file = folder / "camera.yaml"
    text = (share_dir() / "config/tasks/pusht_image.yaml").read_text()
    task_file.write_text("\n".join(line for line in text.splitlines() if "resize:" not in line))
    return make_constant_model(folder / "constant", load_task(task_file), 256.0), task_file


def make_constant_model(model: Path, task: TaskSpec, value: float) -> Path:
    """Write a model for a task that answers `value` in every dimension, whatever it sees; returns its folder."""
    onnx = pytest.importorskip("onnx")
    node, constant = onnx.helper.make_node, onnx.numpy_helper.from_array
    nodes = [node("Mul", ["noise", "zero"], ["nothing"]), node("Add", ["nothing", "constant"], ["action"])]
    constants = [constant(np.float32(value), "constant"), constant(np.float32(0.0), "zero")]
    return write_model(model, task, nodes, constants)
