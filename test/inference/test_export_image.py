from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dp_ros.inference import export  # noqa: E402
from dp_ros.inference.load import load_engine  # noqa: E402
from dp_ros.inference.manifest import load_manifest  # noqa: E402
from dp_ros.inference.onnx import OnnxEngine  # noqa: E402
from dp_ros.inference.sampler import sampling_noise  # noqa: E402
from dp_ros.inference.torch import load_policy  # noqa: E402
from dp_ros.paths import share_dir  # noqa: E402
from dp_ros.policies.specs import UnetSpec  # noqa: E402
from test.policies.small_image import NETWORK, PREDICTING, small_image_policy  # noqa: E402


@pytest.mark.parametrize("network", [NETWORK, PREDICTING], ids=["features", "keypoints"])
def test_the_graph_takes_features_of_pictures_and_draws_what_torch_draws(
    tmp_path: Path, network: UnetSpec, pieces_exported_once: None
) -> None:
    policy = small_image_policy(network=network, num_inference_steps=3)
    manifest = export.export_policy(policy, tmp_path / "model")
    assert network.vision is not None
    assert manifest.inputs["image"].dtype == "float32"
    assert manifest.inputs["image"].shape == (1, 2, network.vision.features)
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


@pytest.mark.parametrize("name", ["native", "onnx"])
def test_a_model_whose_graph_takes_the_pictures_themselves_still_runs(name: str) -> None:
    """The shipped one was exported so."""
    folder = share_dir() / "models" / "pusht_image"
    manifest = load_manifest(folder)
    assert manifest.inputs["image"].dtype == "uint8"
    assert manifest.schema_version == 2
    engine, torch_ = load_engine(folder, name), load_engine(folder, "torch")
    policy = load_policy(folder, manifest)
    for observation in export.made_up_observations(policy, 2):
        noise = sampling_noise(0, 0, (16, 2))
        assert (
            np.abs(engine.sample(observation, noise) - torch_.sample(observation, noise)).max() / 500 < 1e-4
        )


def test_onnx_runtime_encodes_each_picture_once(tmp_path: Path, pieces_exported_once: None) -> None:
    policy = small_image_policy(num_inference_steps=3)
    export.export_policy(policy, tmp_path / "model")
    engine = load_engine(tmp_path / "model", "onnx")
    assert isinstance(engine, OnnxEngine)
    before, (observation, other) = engine.pictures_encoded, export.made_up_observations(policy, 2)
    noise = sampling_noise(0, 0, (16, 2))
    engine.sample(observation, noise)
    engine.sample({**observation, "image": np.stack([observation["image"][1], other["image"][0]])}, noise)
    assert engine.pictures_encoded - before == 3
