"""ResNet-18 in compiled code against torch: the same features, whatever the size, the norm, and the threads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors.numpy import load_file, save_file  # noqa: E402

from dp_ros.benchmark.inference import _start  # noqa: E402
from dp_ros.inference.encoder import PictureEncoders  # noqa: E402
from dp_ros.inference.export import made_up_observations  # noqa: E402
from dp_ros.inference.load import load_engine  # noqa: E402
from dp_ros.inference.manifest import WEIGHTS_FILE, ManifestError, file_spec, load_manifest, write_manifest  # noqa: E402
from dp_ros.inference.native.encoder import ResnetEncoder  # noqa: E402
from dp_ros.inference.native.engine import why_not  # noqa: E402
from dp_ros.inference.sampler import SamplerSpec, sampling_noise  # noqa: E402
from dp_ros.inference.torch import sample_batch  # noqa: E402
from dp_ros.policies.diffusion import DiffusionPolicy  # noqa: E402
from dp_ros.policies.specs import UnetSpec, VisionSpec  # noqa: E402
from dp_ros.policies.vision import VisionEncoder  # noqa: E402
from dp_ros.task import ObservationSpec, load_task  # noqa: E402
from test.inference.test_native import folder_of  # noqa: E402
from test.inference.test_native import policy_of as unet_policy  # noqa: E402

RESNET = VisionSpec(encoder="resnet18", keypoints=5, features=6)
STATISTICS = {"agent_pos": {"min": [0.0, 0.0], "max": [512.0, 512.0]}} | {
    "action": {"min": [0.0, 0.0], "max": [512.0, 512.0]}
}


def camera(height: int, width: int, channels: int = 3, cut: tuple[int, int] | None = None) -> ObservationSpec:
    seen: ObservationSpec = load_task("pusht_image").observations["image"]
    encoding = {1: "mono8", 3: "rgb8", 4: "rgba8"}[channels]
    return seen.model_copy(
        update={"shape": (height, width, channels), "resize": None, "crop": cut, "encoding": encoding}
    )


def pictures(n: int, spec: ObservationSpec, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (n, *spec.shape), dtype=np.uint8)


def network_of(spec: VisionSpec, seen: ObservationSpec, ranges: Any = None) -> VisionEncoder:
    """Random weights, those of the norms and the biases included."""
    torch.manual_seed(0)
    network = VisionEncoder({"front": seen}, spec, ranges).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def native_of(
    network: VisionEncoder, spec: VisionSpec, seen: ObservationSpec, threads: int = 1, **values: Any
) -> ResnetEncoder:
    weights = {k.removeprefix("encoders.front."): v.numpy() for k, v in network.state_dict().items()}
    given = {"low": [0.0] * seen.shape[2], "high": [255.0] * seen.shape[2]} | values
    return ResnetEncoder(weights, spec, seen, threads=threads, spin=0, **given)


def torchs(network: VisionEncoder, seen: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        return network("front", torch.from_numpy(seen)[None])[0].numpy()


@pytest.mark.parametrize(
    "seen",
    [
        camera(96, 96, cut=(84, 84)),  # the paper's
        camera(97, 61),  # odd sizes all the way down, higher than wide
        camera(20, 130, channels=1),  # a last row of one pixel
        camera(40, 33, channels=4, cut=(33, 32)),
        camera(7, 5),  # one pixel after the first stages
    ],
    ids=lambda seen: str(seen.shape),
)
def test_features_are_torchs_for_pictures_of_any_size(seen: ObservationSpec) -> None:
    network, many = network_of(RESNET, seen), pictures(3, seen)
    expected = torchs(network, many)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(native_of(network, RESNET, seen)(many), expected, atol=2e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"norm": "folded"},
        {"norm": "folded", "pooling": "mean", "features": 512},
        {"hidden": 9, "softmax_temperature": 0.1},
        {"activation": "relu", "keypoints": 33, "features": 40},
        {"crop_rounds": True},
    ],
    ids=str,
)
def test_features_are_torchs_for_every_form_of_it(change: dict[str, Any]) -> None:
    spec, seen = RESNET.model_copy(update=change), camera(65, 50, cut=(62, 47))
    network, many = network_of(spec, seen), pictures(2, seen)
    expected = torchs(network, many)
    np.testing.assert_allclose(
        native_of(network, spec, seen)(many), expected, atol=2e-5 * np.abs(expected).max()
    )
    if change == {"crop_rounds": True}:
        other = native_of(network, RESNET, seen)(many)
        assert not np.allclose(other, expected, atol=1e-4), "the crop begins elsewhere"


def test_values_are_mapped_as_the_ranges_of_the_camera_say() -> None:
    seen = camera(40, 40)
    ranges = {"min": [0.0, 50.0, 100.0], "max": [255.0, 100.0, 300.0]}
    network, many = network_of(RESNET, seen, {"front": ranges}), pictures(2, seen)
    native = native_of(network, RESNET, seen, low=ranges["min"], high=ranges["max"])
    np.testing.assert_allclose(native(many), torchs(network, many), atol=2e-5)
    assert not np.allclose(native_of(network, RESNET, seen)(many), torchs(network, many), atol=1e-3)


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_neither_threads_nor_other_pictures_change_a_bit(threads: int) -> None:
    seen = camera(45, 60)
    network, many = network_of(RESNET, seen), pictures(4, seen)
    native = native_of(network, RESNET, seen)
    alone = np.concatenate([native(many[i : i + 1]) for i in range(4)])
    together = native_of(network, RESNET, seen, threads)
    for _ in range(3):
        assert np.array_equal(together(many), alone)
        assert np.array_equal(together(many[3:]), alone[3:]), "fewer of them after more"


def policy_of(**vision: Any) -> DiffusionPolicy:
    task = load_task("pusht_image")
    seen = dict(task.observations)
    seen["image"] = camera(48, 40, cut=(44, 36))
    if not vision.get("shared"):
        seen["wrist"] = camera(33, 34, channels=1).model_copy(update={"topic": "/wrist"})
    else:
        seen["wrist"] = camera(33, 34).model_copy(update={"topic": "/wrist"})
    task = task.model_copy(update={"observations": seen})
    spec = UnetSpec(widths=(16, 32), step_dim=16, vision=RESNET.model_copy(update=vision))
    torch.manual_seed(1)
    return DiffusionPolicy(task, STATISTICS, spec, SamplerSpec(num_inference_steps=3)).eval()


@pytest.mark.parametrize("vision", [{}, {"shared": True}], ids=["one each", "shared"])
def test_a_model_of_two_cameras_draws_what_torch_draws_without_a_graph(
    vision: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(**vision)
    folder = folder_of(policy, tmp_path / "m")
    assert why_not(load_manifest(folder)) == "", "it needs no graph"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    engine = load_engine(folder, "native")
    noise = sampling_noise(0, 0, (policy.task.horizon, 2))
    for observation in made_up_observations(policy, 3):
        expected = sample_batch(policy, {k: v[None] for k, v in observation.items()}, noise[None], None)[0]
        np.testing.assert_allclose(engine.sample(observation, noise), expected, atol=512 * 2e-5)


def test_a_process_that_runs_a_model_has_its_weights_in_memory_once(tmp_path: Path) -> None:
    large, small = folder_of(policy_of(), tmp_path / "large"), folder_of(unet_policy(), tmp_path / "small")
    weights_mb = ((large / WEIGHTS_FILE).stat().st_size - (small / WEIGHTS_FILE).stat().st_size) / 2**20
    assert weights_mb > 80
    with_weights, without = (_start(folder, "native", 1)[1] for folder in (large, small))
    assert 0.95 * weights_mb < with_weights - without < 1.4 * weights_mb


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    folder = folder_of(policy_of(), tmp_path / "m")
    weights = load_file(folder / WEIGHTS_FILE)

    manifest = load_manifest(folder)

    def write(changed: dict[str, Any]) -> None:
        save_file(changed, folder / WEIGHTS_FILE)
        files = {WEIGHTS_FILE: file_spec(folder / WEIGHTS_FILE)}
        write_manifest(folder, manifest.model_copy(update={"files": files}))

    name = "vision.encoders.wrist.body.6.body.0.weight"
    write({key: value for key, value in weights.items() if key != name})
    with pytest.raises(ManifestError, match="body.6.body.0.weight"):
        load_engine(folder, "native")
    write(weights | {name: np.ascontiguousarray(weights[name][:, :32])})
    with pytest.raises(ManifestError, match="body.6.body.0: a convolution from 32 channels where 64 are"):
        load_engine(folder, "native")


def test_each_picture_is_encoded_once_and_those_that_are_new_together() -> None:
    calls: list[int] = []

    def encode(many: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        calls.append(len(many))
        return many.reshape(len(many), -1)[:, :2].astype(np.float32)

    encoders, seen = PictureEncoders({"front": encode}, n_obs_steps=2), camera(4, 4)
    a, b, c = pictures(3, seen)
    assert np.array_equal(encoders.encode("front", np.stack([a, a])), np.stack([a, a]).reshape(2, -1)[:, :2])
    encoders.encode("front", np.stack([b, c]))
    encoders.encode("front", np.stack([a, c]))
    assert calls == [1, 2] and encoders.encoded == 3
