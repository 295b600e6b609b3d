"""Model folders around graphs that tests write themselves: inputs as the task has them, and a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from dp_ros.task import TaskSpec


def graph_inputs(task: TaskSpec) -> dict[str, TensorSpec]:
    """What the engine gives a model for a task: the streams, and `noise`, which has the shape of `action`."""
    inputs = {
        key: TensorSpec(
            shape=(1, task.n_obs_steps, *spec.shape), dtype="uint8" if spec.is_image else "float32"
        )
        for key, spec in task.observations.items()
    }
    inputs["noise"] = TensorSpec(shape=(1, task.horizon, task.action.dim), dtype="float32")
    return inputs


def write_model(model: Path, task: TaskSpec, nodes: list[Any], constants: list[Any]) -> Path:
    """Write nodes that make `action` of the task's inputs as a model folder, or over one; returns the folder."""
    onnx = pytest.importorskip("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    inputs = graph_inputs(task)
    ends = [
        helper.make_tensor_value_info(key, types.UINT8 if spec.dtype == "uint8" else types.FLOAT, spec.shape)
        for key, spec in inputs.items()
    ]
    action = helper.make_tensor_value_info("action", types.FLOAT, inputs["noise"].shape)
    graph = helper.make_graph(nodes, model.name, ends, [action], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 9
    onnx.checker.check_model(made)
    model.mkdir(exist_ok=True)
    onnx.save(made, model / "policy.onnx")
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=model.name,
        task=task.model_dump(mode="json"),
        task_digest=task.digest(),
        inputs=inputs,
        outputs={"action": inputs["noise"]},
        normalization={},
        network=NetworkSpec(),
        sampler=SamplerSpec(),
        files={"policy.onnx": file_spec(model / "policy.onnx")},
    )
    write_manifest(model, manifest)
    return model
