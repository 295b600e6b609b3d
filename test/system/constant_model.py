"""A model folder whose policy always says the same, for tests and figures that are not about what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dp_ros.inference.manifest import (
    SCHEMA_VERSION,
    Manifest,
    NetworkSpec,
    TensorSpec,
    file_spec,
    write_manifest,
)
from dp_ros.inference.sampler import SamplerSpec
from dp_ros.paths import share_dir
from dp_ros.task import TaskSpec, load_task


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
    inputs = {
        key: TensorSpec(
            shape=(1, task.n_obs_steps, *spec.shape), dtype="uint8" if spec.is_image else "float32"
        )
        for key, spec in task.observations.items()
    }
    inputs["noise"] = TensorSpec(shape=(1, task.horizon, task.action.dim), dtype="float32")
    helper, types = onnx.helper, onnx.TensorProto
    constant = onnx.numpy_helper.from_array(np.float32(value), "constant")
    zero = onnx.numpy_helper.from_array(np.float32(0.0), "zero")
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["noise", "zero"], ["nothing"]),
            helper.make_node("Add", ["nothing", "constant"], ["action"]),
        ],
        "constant",
        [
            helper.make_tensor_value_info(k, types.UINT8 if s.dtype == "uint8" else types.FLOAT, s.shape)
            for k, s in inputs.items()
        ],
        [helper.make_tensor_value_info("action", types.FLOAT, inputs["noise"].shape)],
        [constant, zero],
    )
    model.mkdir()
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 9
    onnx.save(made, model / "policy.onnx")
    write_manifest(
        model,
        Manifest(
            schema_version=SCHEMA_VERSION,
            name="constant",
            task=task.model_dump(mode="json"),
            task_digest=task.digest(),
            inputs=inputs,
            outputs={"action": inputs["noise"]},
            normalization={},
            network=NetworkSpec(),
            sampler=SamplerSpec(),
            files={"policy.onnx": file_spec(model / "policy.onnx")},
        ),
    )
    return model
