from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dp_ros.inference import export  # noqa: E402
from dp_ros.inference.load import load_engine  # noqa: E402
from dp_ros.inference.sampler import sampling_noise  # noqa: E402
from test.policies.small_image import small_image_policy  # noqa: E402


def test_the_graph_takes_pictures_as_recorded_and_draws_what_torch_draws(tmp_path: Path) -> None:
    policy = small_image_policy(num_inference_steps=3)
    manifest = export.export_policy(policy, tmp_path / "model")
    assert manifest.inputs["image"].dtype == "uint8"
    assert manifest.inputs["agent_pos"].dtype == "float32"
    assert manifest.network == policy.network
    onnx, torch_ = (load_engine(tmp_path / "model", name) for name in ("onnx", "torch"))
    drawn = []
    for observation in export.made_up_observations(policy, 2):
        noise = sampling_noise(0, 0, (16, 2))
        drawn.append(onnx.sample(observation, noise))
        assert np.abs(drawn[-1] - torch_.sample(observation, noise)).max() / 500 < 1e-4
    assert not np.array_equal(*drawn)
