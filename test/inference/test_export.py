from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import onnx  # noqa: E402
from diffusers import DDIMScheduler  # noqa: E402

from dp_ros.errors import UserError  # noqa: E402
from dp_ros.inference import export  # noqa: E402
from dp_ros.inference.load import load_engine  # noqa: E402
from dp_ros.inference.manifest import (  # noqa: E402
    ONNX_FILE,
    WEIGHTS_FILE,
    TensorSpec,
    load_manifest,
    write_manifest,
)
from dp_ros.inference.sampler import sampling_noise  # noqa: E402
from dp_ros.policies.diffusion import DiffusionPolicy  # noqa: E402
from dp_ros.runtime.prefix import Prefix  # noqa: E402
from test.policies.small import observation_batch, prefix_policy, small_policy  # noqa: E402

pytestmark = pytest.mark.usefixtures("pieces_exported_once")


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_the_graph_draws_what_a_plain_loop_of_diffusers_draws(prediction: str, tmp_path: Path) -> None:
    policy = small_policy(prediction=prediction, num_inference_steps=7)
    export.export_policy(policy, tmp_path / "model")
    engine = load_engine(tmp_path / "model", "onnx")
    scheduler = DDIMScheduler(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", prediction_type=prediction
    )
    scheduler.set_timesteps(7)
    for k, observation in enumerate(export.made_up_observations(policy, 10)):
        noise = sampling_noise(k, 0, (16, 2))
        x = torch.from_numpy(noise)[None]
        with torch.no_grad():
            condition = policy.encode({key: torch.from_numpy(v)[None] for key, v in observation.items()})
            for step in scheduler.timesteps:
                x = scheduler.step(policy.unet(x, step[None], condition), step, x).prev_sample
            expected = policy.normalizers["action"].unnormalize(x)[0].numpy()
        assert np.abs(engine.sample(observation, noise) - expected).max() / 500 < 1e-4


@pytest.mark.parametrize(
    ("make", "sampler", "kind"),
    [
        (prefix_policy, {}, "trained"),
        (prefix_policy, {"method": "ddpm", "num_inference_steps": 12}, "trained"),
        (small_policy, {"method": "ddpm", "num_inference_steps": 25, "prediction": "sample"}, "guided"),
        (prefix_policy, {"temperature": 0.7}, "trained"),
        (prefix_policy, {"method": "dpmsolver++", "num_inference_steps": 6}, "trained"),
        (small_policy, {"method": "ddpm", "num_inference_steps": 12, "temperature": 0.5}, "guided"),
    ],
)
def test_every_sampler_and_network_is_exported_as_it_is(
    make: Callable[..., DiffusionPolicy], sampler: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    policy = make(**sampler)
    export.export_policy(policy, tmp_path / "model")
    onnx, torch_ = (load_engine(tmp_path / "model", name) for name in ("onnx", "torch"))
    assert onnx.prefix == torch_.prefix == kind
    rng = np.random.default_rng(0)
    for k, observation in enumerate(export.made_up_observations(policy, 12)):
        noise = sampling_noise(k, 0, (16, 2))
        prefix = Prefix.from_plan(rng.uniform(20, 480, (13, 2)), n_known=k, horizon=16) if k else None
        drawn = onnx.sample(observation, noise, prefix)
        assert np.abs(drawn - torch_.sample(observation, noise, prefix)).max() / 500 < 1e-4
        assert np.array_equal(drawn, onnx.sample(observation, noise, prefix))
        if prefix:
            assert np.array_equal(drawn[:k], prefix.actions[:k])


@pytest.fixture
def copied_graph(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports take the graph of small_policy() instead of making one, which takes seconds."""

    def copy_graph(_: object, path: Path) -> dict[str, TensorSpec]:
        shutil.copy(exported / ONNX_FILE, path)
        return load_manifest(exported).inputs

    monkeypatch.setattr(export, "write_graph", copy_graph)


@pytest.mark.usefixtures("copied_graph")
def test_a_model_that_is_there_is_only_replaced_by_force(tmp_path: Path) -> None:
    first = export.export_policy(small_policy(), tmp_path / "m")
    with pytest.raises(UserError, match="m is already there; give another name, or --force"):
        export.export_policy(small_policy(), tmp_path / "m")
    write_manifest(tmp_path / "m", first.model_copy(update={"name": "old"}))
    export.export_policy(small_policy(), tmp_path / "m", force=True)
    assert load_manifest(tmp_path / "m").name == "m"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_force_does_not_replace_what_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("work of years")
    with pytest.raises(UserError, match="is not a model folder"):
        export.check_target(tmp_path, force=True)


@pytest.mark.usefixtures("copied_graph")
def test_a_graph_that_disagrees_with_torch_is_not_put_in_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the exported graph differs from torch by .*; nothing was written"):
        export.export_policy(small_policy(seed=1), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_weights_are_stored_once_however_many_steps_the_graph_has(exported: Path) -> None:
    n_bytes = (exported / WEIGHTS_FILE).stat().st_size
    graph = onnx.load(exported / ONNX_FILE).graph
    shapes = [tuple(weight.dims) for weight in graph.initializer]
    assert shapes.count((16, 16, 5)) == 7  # one for each such convolution, not one for each step
    stored = sum(4 * math.prod(shape) for shape in shapes)
    per_step = 4 * (192 + 7)  # FiLM of the noise level, coefficients
    assert stored < n_bytes + 10 * per_step + 2000


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("method", ["ddim", "ddpm"])
def test_a_low_temperature_draws_alike_and_none_draws_one_chunk(
    engine: str, method: str, tmp_path: Path
) -> None:
    spread = []
    for temperature in (1.0, 0.1, 0.0):
        policy = small_policy(method=method, num_inference_steps=5, temperature=temperature)
        folder = tmp_path / f"model{temperature}"
        export.export_policy(policy, folder)
        loaded = load_engine(folder, engine)
        observation = export.made_up_observations(policy, 1)[0]
        drawn = [loaded.sample(observation, sampling_noise(k, 0, (16, 2))) for k in range(8)]
        spread.append(np.ptp(drawn, axis=0).mean())
    assert spread[0] > 1.2 * spread[1] > 0
    assert spread[2] == 0


def test_temperature_scales_the_noise_that_a_draw_starts_from() -> None:
    noise = torch.from_numpy(sampling_noise(3, 0, (16, 2)))[None]
    observation = observation_batch(1)
    warm, cool = small_policy(), small_policy(temperature=0.25)
    assert torch.equal(cool.sample(observation, noise), warm.sample(observation, 0.25 * noise))
