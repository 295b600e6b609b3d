"""Engines on a GPU, without one: what they are told, what they say, and their arithmetic on the processor instead."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dp_ros.errors import UserError  # noqa: E402
from dp_ros.inference import gpu, load, onnx  # noqa: E402
from dp_ros.inference.engine import CheckedEngine  # noqa: E402
from dp_ros.inference.load import load_engine  # noqa: E402
from dp_ros.inference.manifest import ONNX_FILE, load_manifest  # noqa: E402
from dp_ros.inference.onnx import OnnxEngine, OnnxGpuEngine  # noqa: E402
from dp_ros.inference.sampler import sampling_noise  # noqa: E402
from dp_ros.inference.torch import TorchCudaEngine, TorchEngine  # noqa: E402
from dp_ros.runtime.prefix import Prefix  # noqa: E402
from test.inference.test_native import folder_of, policy_of  # noqa: E402

NOISE = sampling_noise(1, 0, (16, 2))
PLAN = Prefix.from_plan(np.linspace([100.0, 400.0], [300.0, 200.0], 10), n_known=4, horizon=16)
OBSERVATION = {"keypoint": np.full((2, 18), 200, np.float32), "agent_pos": np.full((2, 2), 300, np.float32)}


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that finds one GPU."""
    monkeypatch.setattr(gpu, "cuda_devices", lambda: 1)


def test_what_onnx_runtime_is_told() -> None:
    name, options = gpu.providers("onnx_cuda", graph=True)[0]
    assert name == "CUDAExecutionProvider"
    assert options == {"device_id": 0, "use_tf32": 0, "enable_cuda_graph": 1}
    assert gpu.providers("onnx_cuda", graph=False)[0][1]["enable_cuda_graph"] == 0
    (first, tensorrt), (second, cuda), last = gpu.providers("onnx_tensorrt", graph=True)
    assert (first, second, last) == (
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    )
    assert tensorrt["trt_cuda_graph_enable"] is True
    assert tensorrt["trt_fp16_enable"] is False
    assert tensorrt["trt_engine_cache_path"].endswith("dp_ros/tensorrt")
    assert "enable_cuda_graph" not in cuda


def test_what_is_missing_is_said(exported: Path, device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = load_manifest(exported)
    installed = dict.fromkeys(("onnxruntime", "torch"), True)
    modules = {
        "onnxruntime": SimpleNamespace(
            __version__="1.32", get_available_providers=lambda: ["CPUExecutionProvider"]
        ),
        "torch": SimpleNamespace(__version__="2.13", cuda=SimpleNamespace(is_available=lambda: False)),
    }
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed[name] else None)
    monkeypatch.setattr(importlib, "import_module", modules.__getitem__)
    assert gpu.why_not("onnx_cuda", manifest) == (
        "onnxruntime 1.32 offers CPUExecutionProvider and no CUDAExecutionProvider; pip install onnxruntime-gpu "
        "instead of onnxruntime"
    )
    assert "no TensorrtExecutionProvider" in gpu.why_not("onnx_tensorrt", manifest)
    assert "another number of denoising steps than 4" in gpu.why_not("onnx_cuda", manifest, 4)
    assert "torch 2.13 finds no CUDA device" in gpu.why_not("torch_cuda", manifest)
    modules["onnxruntime"].get_available_providers = lambda: list(gpu.PROVIDERS.values())
    modules["torch"].cuda.is_available = lambda: True
    assert [gpu.why_not(name, manifest) for name in load.GPU_ENGINES] == ["", "", ""]
    installed.update(onnxruntime=False, torch=False)
    assert gpu.why_not("onnx_cuda", manifest) == "onnxruntime is not installed"
    assert gpu.why_not("torch_cuda", manifest) == "torch is not installed"
    without = manifest.model_copy(update={"files": {}})
    assert gpu.why_not("onnx_tensorrt", without) == f"the model has no {ONNX_FILE}"
    monkeypatch.setattr(gpu, "cuda_devices", lambda: 0)
    assert "no NVIDIA GPU" in gpu.why_not("onnx_cuda", manifest)
    with pytest.raises(UserError, match="engine onnx_cuda: no NVIDIA GPU .*use engine auto"):
        load_engine(exported, "onnx_cuda")


def test_without_a_gpu_neither_library_is_loaded_to_find_that_out(exported: Path) -> None:
    program = "import sys; from dp_ros.inference import gpu, load; gpu.cuda_devices()"
    program += "; assert not {'torch', 'onnxruntime'} & set(sys.modules)"
    import subprocess

    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=True, timeout=60)


@pytest.fixture
def on_processor(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Lets ONNX Runtime's provider of a GPU be that of the processor; notes what it is told."""
    told: list[Any] = []

    def instead(engine: str, *, graph: bool) -> list[Any]:
        told.append((engine, graph))
        return ["CPUExecutionProvider"]

    monkeypatch.setattr(onnx, "providers", instead)
    monkeypatch.setattr(onnx, "PROVIDERS", dict.fromkeys(gpu.PROVIDERS, "CPUExecutionProvider"))
    return told


def test_inputs_and_outputs_that_stay_in_place_give_the_same_actions(
    exported: Path, on_processor: list[Any]
) -> None:
    manifest = load_manifest(exported)
    engine = OnnxGpuEngine(exported, manifest, "onnx_tensorrt", device="cpu")
    assert engine.name == "onnx_tensorrt"
    assert on_processor[0] == ("onnx_tensorrt", True)
    plain = OnnxEngine(exported, manifest)
    places = {key: value.data_ptr() for key, value in engine._inputs.items()}
    for noise, prefix in ((NOISE, None), (NOISE, PLAN), (-NOISE, None)):
        expected = plain.sample(OBSERVATION, noise, prefix)
        drawn = engine.sample(OBSERVATION, noise, prefix)
        np.testing.assert_array_equal(drawn, expected, err_msg="nothing is left of the prefix before")
    assert {key: value.data_ptr() for key, value in engine._inputs.items()} == places, (
        "as a CUDA graph needs it"
    )


def test_a_graph_with_a_branch_is_not_recorded(exported: Path, on_processor: list[Any]) -> None:
    manifest = load_manifest(exported)
    engine = OnnxGpuEngine(exported, manifest, "onnx_cuda", device="cpu")
    on_processor.clear()
    inputs = {**manifest.inputs, "warm_start": manifest.inputs["prefix_weights"]}
    engine.manifest = manifest.model_copy(update={"inputs": inputs})
    engine._providers()
    engine._providers(encoder=True)
    assert on_processor == [("onnx_cuda", False), ("onnx_cuda", False)]
    engine.manifest = manifest
    engine._providers()
    assert on_processor[2:] == [("onnx_cuda", True)]


def test_a_provider_that_does_not_load_is_no_silent_fallback(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "providers", lambda engine, graph: ["CPUExecutionProvider"])
    with pytest.raises(
        UserError, match="could not load CUDAExecutionProvider and fell back to CPUExecutionProvider"
    ):
        OnnxGpuEngine(exported, load_manifest(exported), "onnx_cuda")


@pytest.mark.parametrize(
    ("sampler", "prefix_steps"),
    [
        ({}, 0),
        ({"temperature": 0.7, "warm_start": 0.5}, 3),
        ({"method": "ddpm"}, 3),
        ({"method": "dpmsolver++"}, 0),
    ],
    ids=str,
)
def test_the_loop_that_is_recorded_draws_what_torch_draws(
    sampler: dict[str, Any], prefix_steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[Any] = []
    monkeypatch.setattr(TorchCudaEngine, "_capture", lambda self, loop: recorded.append(loop) or loop)
    policy = policy_of(sampler={"num_inference_steps": 6, **sampler}, prefix_steps=prefix_steps)
    manifest = load_manifest(folder_of(policy, tmp_path / "m"))
    plain, engine = TorchEngine(policy, manifest), TorchCudaEngine(policy, manifest, device="cpu")
    assert len(recorded) == 1 + ("warm_start" in sampler), (
        "one graph, and another one where draws begin otherwise"
    )
    assert not engine.batches
    for prefix in (None, PLAN, Prefix(PLAN.actions, 0 * PLAN.weights), None):
        drawn = engine.sample(OBSERVATION, NOISE, prefix)
        assert np.abs(drawn - plain.sample(OBSERVATION, NOISE, prefix)).max() / 500 < 1e-5
    stacked = {key: np.stack([value] * 2) for key, value in OBSERVATION.items()}
    both = engine.sample_batch(stacked, np.stack([NOISE, -NOISE]))
    np.testing.assert_array_equal(both[1], engine.sample(OBSERVATION, -NOISE))


def test_the_loop_is_recorded_after_calls_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    @contextlib.contextmanager
    def within(name: str) -> Iterator[None]:
        said.append(f"begin {name}")
        yield
        said.append(f"end {name}")

    class Graph:
        def replay(self) -> None:
            said.append("replay")

    waiting = SimpleNamespace(wait_stream=lambda other: said.append("wait"))
    fake = SimpleNamespace(Stream=lambda: waiting, current_stream=lambda: waiting, CUDAGraph=Graph)
    fake.stream, fake.graph = (lambda stream: within("stream")), (lambda graph: within("capture"))
    monkeypatch.setattr(torch, "cuda", fake)
    replay = TorchCudaEngine._capture(None, lambda: said.append("loop"))  # type: ignore[arg-type]
    replay()
    beside = ["wait", "begin stream", "loop", "loop", "loop", "end stream", "wait"]
    assert said == [*beside, "begin capture", "loop", "end capture", "replay"]


class OnGpu:
    """Stands for an engine on the GPU: the actions of another one, moved."""

    def __init__(self, engine: CheckedEngine, moved: float = 0.0) -> None:
        self.name, self.manifest, self._engine, self._moved = "onnx_cuda", engine.manifest, engine, moved

    def warm_up(self) -> None: ...

    def draw_made_up(self, turn: int = 0) -> Any:
        return self._engine.draw_made_up(turn) + self._moved


@pytest.mark.parametrize(
    ("moved_px", "gpu_ms", "taken", "said"),
    [
        (
            0.001,
            1.0,
            "onnx_cuda",
            "engine onnx_cuda, on the GPU: an inference takes 1.00 ms with onnx_cuda, 2.00 ms",
        ),
        (
            0.001,
            1.9,
            "onnx",
            "engine onnx, on the processor: an inference takes 1.90 ms with onnx_cuda, 2.00 ms",
        ),
        (1.0, 1.0, "onnx", "engine onnx, on the processor: onnx_cuda draws other actions, by 4.3e-03"),
        (
            None,
            1.0,
            "onnx",
            "engine onnx, on the processor: onnx_cuda: out of memory; torch_cuda: it is Monday",
        ),
    ],
)
def test_auto_takes_the_gpu_only_if_it_draws_the_same_and_faster(
    moved_px: float | None,
    gpu_ms: float,
    taken: str,
    said: str,
    exported: Path,
    device: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "dp_ros")
    make = load._engine

    def engine_of(folder: Path, manifest: Any, name: str, *rest: Any) -> Any:
        if name != "onnx_cuda":
            return make(folder, manifest, name, *rest)
        if moved_px is None:
            raise RuntimeError("out of memory")
        return OnGpu(make(folder, manifest, "onnx", *rest), moved_px)

    monkeypatch.setattr(load, "_engine", engine_of)
    monkeypatch.setattr(load, "call_s", lambda engine: (gpu_ms if engine.name == "onnx_cuda" else 2.0) / 1e3)
    monkeypatch.setattr(load, "choose_engine", lambda *_: "onnx")
    monkeypatch.setattr(gpu, "why_not", lambda name, *_: "it is Monday" if name == "torch_cuda" else "")
    assert load_engine(exported).name == taken
    assert said in caplog.text


def test_a_machine_without_a_gpu_says_so_in_one_line(
    exported: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dp_ros")
    monkeypatch.setattr(gpu, "cuda_devices", lambda: 0)
    monkeypatch.setattr(load, "choose_engine", lambda *_: "onnx")
    assert load_engine(exported).name == "onnx"
    lines = [record.message for record in caplog.records if "GPU" in record.message]
    assert lines == [
        "engine onnx, on the processor: no NVIDIA GPU (the driver's libcuda.so.1 is not there or finds none)"
    ]
