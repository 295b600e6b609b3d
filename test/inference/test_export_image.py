from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dp_ros.inference import export  # noqa: E402
from dp_ros.inference.load import load_engine  # noqa: E402
from dp_ros.inference.sampler import sampling_noise  # noqa: E402
from dp_ros.policies.specs import UnetSpec  # noqa: E402
from test.policies.small_image import NETWORK, PREDICTING, small_image_policy  # noqa: E402


@pytest.mark.parametrize("network", [NETWORK, PREDICTING], ids=["features", "keypoints"])
def test_the_graph_takes_pictures_as_recorded_and_draws_what_torch_draws(
    tmp_path: Path, network: UnetSpec
) -> None:
    policy = small_image_policy(network=network, num_inference_steps=3)
    manifest = export.export_policy(policy, tmp_path / "model")
    assert manifest.inputs["image"].dtype == "uint8"
    assert manifest.inputs["agent_pos"].dtype == "float32"
    assert "keypoint" not in manifest.inputs
    assert ("keypoint" in manifest.normalization) == (network is PREDICTING)
    assert manifest.network == policy.network
    onnx, torch_ = (load_engine(tmp_path / "model", name) for name in ("onnx", "torch"))
    drawn = []
    for observation in export.made_up_observations(policy, 2):
        noise = sampling_noise(0, 0, (16, 2))
        drawn.append(onnx.sample(observation, noise))
        assert np.abs(drawn[-1] - torch_.sample(observation, noise)).max() / 500 < 1e-4
    assert not np.array_equal(*drawn)
