"""A model folder in, an engine out: picks compiled code, ONNX Runtime or torch, and says why.

A warm-up call is made while loading, because the first call of either engine is many times slower than the second.
Easy to get wrong: the libraries are imported only when their engine is chosen, so a robot needs no torch.
"""

from __future__ import annotations

import importlib.util
import logging
from functools import partial
from pathlib import Path

from dp_ros.errors import UserError
from dp_ros.inference.engine import CheckedEngine, Engine
from dp_ros.inference.manifest import ONNX_FILE, WEIGHTS_FILE, Manifest, ManifestError, load_manifest
from dp_ros.inference.thread_count import available_cores, fastest_engine

log = logging.getLogger(__name__)

ENGINES = ("auto", "native", "native_int8", "native_w8a8", "native_bf16", "onnx", "torch")


def load_engine(
    folder: str | Path,
    engine: str = "auto",
    threads: int = 1,
    num_inference_steps: int | None = None,
) -> Engine:
    """Load a model folder, check its files and make it ready.

    Args:
        folder: the model folder.
        engine: `native`, `native_int8` (with weights of 8 bits), `onnx`, `torch`, or `auto`: compiled code where it
            suits model and machine, else ONNX Runtime where it is installed and the folder has a graph.
        threads: CPU threads of one inference; 0 measures how many are worth it, one core being left to others. The
            shipped models give the same bits with any number.
        num_inference_steps: denoising steps; the onnx engine cannot take another number than the manifest says.

    Raises:
        UserError: if the folder cannot be used, or the engine cannot do what was asked.
    """
    if threads < 0:
        raise UserError(f"threads: got {threads}, expected 1 or more, or 0 to have it measured")
    folder = Path(folder)
    manifest = load_manifest(folder, verify=False)
    if num_inference_steps is not None and not manifest.network.denoises:
        raise UserError(
            f"num_inference_steps: got {num_inference_steps}, but a {manifest.network.kind} policy has no denoising "
            "steps; leave it out"
        )
    if num_inference_steps is not None and not 1 <= num_inference_steps <= manifest.sampler.train_steps:
        raise UserError(
            f"num_inference_steps: got {num_inference_steps}, expected 1 to {manifest.sampler.train_steps}"
        )
    chosen = choose_engine(manifest, engine, num_inference_steps)
    make = partial(_engine, folder, manifest, chosen, num_inference_steps)
    if threads:
        loaded = make(threads)
        loaded.warm_up()
        return loaded
    measured, count, times_s = fastest_engine(make, available_cores())
    took = ", ".join(f"{n}: {1e3 * time_s:.2f} ms" for n, time_s in times_s.items())
    why = f"measured, {took}" if took else f"of {available_cores()} core(s) one is left to others"
    log.info("%d thread(s) for an inference: %s", count, why)
    return measured


def _engine(
    folder: Path, manifest: Manifest, chosen: str, num_inference_steps: int | None, threads: int
) -> CheckedEngine:
    """An engine of one kind, not warm. Raises UserError."""
    if chosen.startswith("native") and chosen in ENGINES:
        _require(folder, manifest, WEIGHTS_FILE, chosen)
        from dp_ros.inference.native.engine import NativeEngine

        return NativeEngine(folder, manifest, threads, num_inference_steps, kind=chosen)
    if chosen == "onnx":
        _require(folder, manifest, ONNX_FILE, "onnx")
        from dp_ros.inference.onnx import OnnxEngine

        return OnnxEngine(folder, manifest, threads, num_inference_steps)
    if chosen != "torch":
        raise UserError(f"engine: got {chosen!r}, expected one of {', '.join(ENGINES)}")
    _require(folder, manifest, WEIGHTS_FILE, "torch")
    if importlib.util.find_spec("torch") is None:
        raise UserError("engine torch: torch is not installed; `pip install -e '.[train]'`, or engine onnx")
    from dp_ros.inference.torch import TorchEngine

    return TorchEngine.load(folder, manifest, threads, num_inference_steps)


def choose_engine(manifest: Manifest, engine: str = "auto", num_inference_steps: int | None = None) -> str:
    """The engine that `load_engine` would take: `engine` itself unless it is `auto`. Logs why."""
    if engine != "auto":
        return engine
    reason = "the model has no weights" if WEIGHTS_FILE not in manifest.files else _why_not_native(manifest)
    if not reason:
        log.info("engine native: a U-Net, and a processor that the compiled code is made for")
        return "native"
    log.info("not engine native: %s", reason)
    if ONNX_FILE not in manifest.files:
        log.info("engine torch: the model has no %s", ONNX_FILE)
        return "torch"
    if importlib.util.find_spec("onnxruntime") is None:
        log.info("engine torch: onnxruntime is not installed")
        return "torch"
    if num_inference_steps not in (None, manifest.sampler.num_inference_steps):
        log.info("engine torch: the graph has another number of denoising steps than %s", num_inference_steps)
        return "torch"
    log.info("engine onnx: onnxruntime is installed and the model has %s", ONNX_FILE)
    return "onnx"


def _why_not_native(manifest: Manifest) -> str:
    if importlib.util.find_spec("safetensors") is None:
        return "safetensors is not installed"
    from dp_ros.inference.native.engine import why_not

    return why_not(manifest)


def _require(folder: Path, manifest: Manifest, file: str, engine: str) -> None:
    if file not in manifest.files:
        raise ManifestError(
            f"model {folder}: engine {engine} needs {file}, the manifest lists {', '.join(manifest.files)}; "
            "choose another engine or export the model again"
        )
