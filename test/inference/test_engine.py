from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dp_ros.errors import UserError
from dp_ros.inference.engine import Engine, EngineError
from dp_ros.inference.load import load_engine
from dp_ros.inference.manifest import ManifestError, file_spec
from dp_ros.inference.sampler import sampling_noise
from dp_ros.runtime.prefix import Prefix

NOISE = sampling_noise(1, 0, (16, 2))


def observation(seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return {
        "keypoint": rng.uniform(0, 512, (2, 18)).astype(np.float32),
        "agent_pos": rng.uniform(0, 512, (2, 2)).astype(np.float32),
    }


@pytest.fixture(scope="module", params=["native", "onnx", "torch"])
def engine(request: pytest.FixtureRequest, exported: Path) -> Engine:
    return load_engine(exported, request.param)


def test_actions_are_a_function_of_observation_and_noise(engine: Engine) -> None:
    actions = engine.sample(observation(), NOISE)
    assert actions.shape == (16, 2)
    assert actions.dtype == np.float32
    assert np.array_equal(actions, engine.sample(observation(), NOISE))
    assert not np.array_equal(actions, engine.sample(observation(1), NOISE))
    assert not np.array_equal(actions, engine.sample(observation(), -NOISE))


def test_actions_are_in_robot_units(engine: Engine) -> None:
    actions = engine.sample(observation(), NOISE)
    assert (actions >= [4.9, 24.9]).all()
    assert (actions <= [505.1, 485.1]).all()
    assert np.ptp(actions) > 50


def test_both_engines_give_the_same_actions(exported: Path) -> None:
    onnx, torch = load_engine(exported, "onnx"), load_engine(exported, "torch")
    for seed in range(20):
        noise = sampling_noise(seed, 0, (16, 2))
        difference = onnx.sample(observation(seed), noise) - torch.sample(observation(seed), noise)
        assert np.abs(difference).max() / 500 < 1e-4


def test_the_input_is_left_as_it_was(engine: Engine) -> None:
    given, noise = observation(), NOISE.copy()
    engine.sample(given, noise)
    assert all(np.array_equal(given[key], value) for key, value in observation().items())
    assert np.array_equal(noise, NOISE)


def test_float64_and_strided_input_give_the_same_actions(engine: Engine) -> None:
    expected = engine.sample(observation(), NOISE)
    wide = {key: np.repeat(value.astype(np.float64), 2, 1)[:, ::2] for key, value in observation().items()}
    assert np.array_equal(engine.sample(wide, NOISE.astype(np.float64)), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"agent_pos": None}, "observation agent_pos is missing .got keypoint"),
        (
            {"keypoint": np.zeros((18,), np.float32)},
            r"observation keypoint has shape \(18,\), expected \(2, 18\)",
        ),
        ({"agent_pos": np.full((2, 2), np.nan)}, r"observation agent_pos .*nan at \[0, 0\]"),
        ({"agent_pos": np.array([["1", "2"]] * 2)}, "observation agent_pos .*type <U1"),
        ({"image": np.zeros(3)}, "observation image is not one of keypoint, agent_pos"),
    ],
)
def test_observations_that_do_not_fit_are_named(engine: Engine, change: dict[str, Any], message: str) -> None:
    given = {key: value for key, value in {**observation(), **change}.items() if value is not None}
    with pytest.raises(EngineError, match=f"model small-.*: {message}"):
        engine.sample(given, NOISE)


@pytest.mark.parametrize("noise", [NOISE[:8], np.full((16, 2), np.inf, np.float32), np.zeros((16, 2), int)])
def test_noise_that_does_not_fit_is_refused(engine: Engine, noise: Any) -> None:
    with pytest.raises(EngineError, match=r"noise is .*expected finite float32 \(16, 2\)"):
        engine.sample(observation(), noise)


def plan(n_known: int = 4, n_planned: int = 10) -> Prefix:
    planned = np.linspace([100.0, 400.0], [300.0, 200.0], n_planned)
    return Prefix.from_plan(planned, n_known=n_known, horizon=16)


def test_a_plain_model_is_led_by_a_prefix(engine: Engine) -> None:
    assert engine.prefix == "guided"
    drawn = engine.sample(observation(), NOISE, plan())
    assert np.array_equal(drawn[:4], plan().actions[:4]), "what is known comes out as it went in"
    assert not np.array_equal(drawn[4:], engine.sample(observation(), NOISE)[4:])
    nothing = Prefix(plan().actions, np.zeros(16, np.float32))
    assert np.array_equal(engine.sample(observation(), NOISE, nothing), engine.sample(observation(), NOISE))


def test_both_engines_give_the_same_actions_with_a_prefix(exported: Path) -> None:
    onnx, torch = load_engine(exported, "onnx"), load_engine(exported, "torch")
    for seed in range(20):
        noise, prefix = sampling_noise(seed, 0, (16, 2)), plan(seed % 10)
        difference = onnx.sample(observation(seed), noise, prefix)
        difference -= torch.sample(observation(seed), noise, prefix)
        assert np.abs(difference).max() / 500 < 1e-4


RISING = np.linspace(0, 1, 16, dtype=np.float32)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Prefix(plan().actions[:8], plan().weights), r"prefix actions are float32 \(8, 2\), expected"),
        (Prefix(np.full((16, 2), np.nan, np.float32), plan().weights), "expected finite float32"),
        (Prefix(plan().actions, plan().weights[:8]), "prefix weights are .*expected 16 numbers"),
        (Prefix(plan().actions, plan().weights * 1.5), "from 1 to 0 that never rise"),
        (Prefix(plan().actions, plan().weights * np.nan), "from 1 to 0 that never rise"),
        (Prefix(plan().actions, RISING), "from 1 to 0 that never rise"),
    ],
)
def test_a_prefix_that_does_not_fit_is_refused(engine: Engine, wrong: Prefix, message: str) -> None:
    with pytest.raises(EngineError, match=f"model small-.*: .*{message}"):
        engine.sample(observation(), NOISE, wrong)


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_a_model_that_was_exported_without_a_prefix_says_so(model: Path, name: str) -> None:
    import onnx

    expected = load_engine(model, name).sample(observation(), NOISE)
    graph = onnx.load(model / "policy.onnx")
    keep = [value for value in graph.graph.input if not value.name.startswith("prefix")]
    del graph.graph.input[:]
    graph.graph.input.extend(keep)  # their zeros are constants now
    onnx.save(graph, model / "policy.onnx")
    rehash(model, "policy.onnx")
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["schema_version"] = 1
    manifest["inputs"] = {
        key: {"shape": spec["shape"], "dtype": spec["dtype"]}
        for key, spec in manifest["inputs"].items()
        if not key.startswith("prefix")
    }
    for section, key in (("network", "prefix_steps"), ("sampler", "method")):
        del manifest[section][key]
    del manifest["execution"]
    (model / "manifest.json").write_text(json.dumps(manifest))

    engine = load_engine(model, name)
    assert engine.prefix == "none"
    assert np.array_equal(engine.sample(observation(), NOISE), expected)
    with pytest.raises(EngineError, match="takes no prefix; export it again"):
        engine.sample(observation(), NOISE, plan())


def test_actions_that_are_not_finite_never_leave_the_engine(model: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = model / "weights.safetensors"
    weights = load_file(path)
    weights["unet.film.bias"][:] = np.nan
    save_file(weights, path)
    rehash(model, path.name)
    with pytest.raises(EngineError, match="the actions are not finite"):
        load_engine(model, "torch")


def rehash(folder: Path, name: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = file_spec(folder / name).model_dump()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_native_and_torch_take_another_number_of_steps_and_onnx_says_why_not(exported: Path) -> None:
    native, torch = (load_engine(exported, name, num_inference_steps=25) for name in ("native", "torch"))
    many = torch.sample(observation(), NOISE)
    assert not np.array_equal(many, load_engine(exported, "torch").sample(observation(), NOISE))
    assert np.abs(native.sample(observation(), NOISE) - many).max() / 500 < 1e-4
    with pytest.raises(UserError, match="got 25, but the graph of small-.* has 10 steps built in"):
        load_engine(exported, "onnx", num_inference_steps=25)
    assert load_engine(exported, "onnx", num_inference_steps=10).name == "onnx"


def test_auto_takes_compiled_code_where_it_can_and_says_why(
    exported: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dp_ros")
    assert load_engine(exported).name == "native"
    assert load_engine(exported, num_inference_steps=4).name == "native"
    assert "engine native: a U-Net, and a processor" in caplog.text
    monkeypatch.setattr("dp_ros.inference.native.engine.why_not", lambda manifest: "it is Monday")
    assert load_engine(exported).name == "onnx"
    assert "not engine native: it is Monday" in caplog.text
    with pytest.raises(UserError, match="engine native: it is Monday; use engine auto"):
        load_engine(exported, "native")
    assert "engine onnx: onnxruntime is installed" in caplog.text
    assert load_engine(exported, num_inference_steps=4).name == "torch"
    assert "the graph has another number of denoising steps than 4" in caplog.text
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find_spec(name)
    )
    assert load_engine(exported).name == "torch"
    assert "engine torch: onnxruntime is not installed" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"engine": "tensorrt"},
            "engine: got 'tensorrt', expected one of auto, native, native_int8, .*onnx_tensorrt",
        ),
        ({"threads": -1}, "threads: got -1"),
        ({"num_inference_steps": 0}, "num_inference_steps: got 0, expected 1 to 100"),
        ({"num_inference_steps": 101}, "num_inference_steps: got 101, expected 1 to 100"),
    ],
)
def test_options_that_cannot_be_are_refused(exported: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_engine(exported, **options)


def test_an_engine_without_its_file_is_refused(model: Path) -> None:
    manifest = json.loads((model / "manifest.json").read_text())
    del manifest["files"]["policy.onnx"]
    (model / "manifest.json").write_text(json.dumps(manifest))
    assert load_engine(model).name == "native"
    with pytest.raises(ManifestError, match="engine onnx needs policy.onnx"):
        load_engine(model, "onnx")


def test_a_graph_that_is_none_is_refused(model: Path) -> None:
    (model / "policy.onnx").write_bytes(b"not a graph")
    rehash(model, "policy.onnx")
    with pytest.raises(ManifestError, match="ONNX Runtime cannot load it"):
        load_engine(model, "onnx")


@pytest.mark.parametrize("name", ["native", "torch"])
def test_weights_of_another_network_are_refused(model: Path, name: str) -> None:
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["network"]["widths"] = [8, 24]
    (model / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ManifestError, match="does not fit the network of the manifest"):
        load_engine(model, name)


def test_running_a_model_needs_neither_torch_nor_ros(exported: Path) -> None:
    """A robot installs 200 MB and not 5 GB."""
    program = f"""
import sys
for name in ("torch", "diffusers", "onnx", "rclpy"):
    sys.modules[name] = None
import numpy as np
from dp_ros.inference.load import load_engine
engine = load_engine({str(exported)!r})
actions = engine.sample({{"keypoint": np.zeros((2, 18)), "agent_pos": np.zeros((2, 2))}}, np.zeros((16, 2)))
assert actions.shape == (16, 2)
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True, timeout=60)
