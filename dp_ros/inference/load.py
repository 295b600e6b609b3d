"""A model folder in, an engine out: picks compiled code, ONNX Runtime or torch, and says why.

A warm-up call is made while loading, because the first call of either engine is many times slower than the second.
Easy to get wrong: the libraries are imported only when their engine is chosen, so a robot needs no torch.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
from pathlib import Path

import numpy as np

from dp_ros.errors import UserError
from dp_ros.inference.engine import CheckedEngine, Engine
from dp_ros.inference.manifest import ONNX_FILE, WEIGHTS_FILE, Manifest, ManifestError, load_manifest
from dp_ros.inference.placement import (
    MEASURED,
    WORTH,
    Placement,
    Wanted,
    available_cores,
    call_s,
    confined,
    fastest_engine,
)

log = logging.getLogger(__name__)

GPU_ENGINES = ("onnx_cuda", "onnx_tensorrt", "torch_cuda")
#: Engines that round, and how.
ROUNDING = {
    "native_int8": "weights of 8 bits per output channel, inputs of 16 bits scaled at each convolution",
    "native_w8a8": "weights of 8 bits per output channel, inputs of 8 bits scaled at each convolution",
    "native_bf16": "weights and inputs in bfloat16",
}
ENGINES = ("auto", "native", *ROUNDING, "onnx", "torch", *GPU_ENGINES)
#: By how much of its range of 2 an action may differ between a GPU and the processor for `auto` to take the GPU.
SAME = 1e-4


def load_engine(
    folder: str | Path,
    engine: str = "auto",
    threads: int = 1,
    num_inference_steps: int | None = None,
    *,
    affinity: str = MEASURED,
    spin: str = MEASURED,
) -> Engine:
    """Load a model folder, check its files and make it ready.

    Args:
        folder: the model folder.
        engine: `native`, `native_int8` (with weights of 8 bits), `onnx`, `torch`, on a GPU `onnx_cuda`,
            `onnx_tensorrt`, `torch_cuda`, or `auto`: compiled code where it suits model and machine, else ONNX Runtime
            where it is installed and the folder has a graph; and a GPU where it is faster than that.
        threads: CPU threads of one inference; 0 measures how many are worth it, one core being left to others. The
            shipped models give the same bits with any number.
        num_inference_steps: denoising steps; the onnx engine cannot take another number than the manifest says.
        affinity: processor cores that an inference runs on, such as `2,3`; `any`; or `auto`, measured.
        spin: whether its threads wait awake for one another, `on`, `off`, or `auto`, measured.

    Raises:
        UserError: if the folder cannot be used, or the engine cannot do what was asked.
    """
    wanted = Wanted.of(threads, affinity, spin)
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
    loaded = _warm(folder, manifest, chosen, num_inference_steps, wanted)
    _say_how_good(manifest, chosen)
    if engine == "auto":
        return _on_gpu_if_faster(folder, manifest, loaded, num_inference_steps)
    return loaded


def _warm(
    folder: Path, manifest: Manifest, chosen: str, num_inference_steps: int | None, wanted: Wanted
) -> CheckedEngine:
    """An engine of one kind, ready, placed as asked for or as is worth it. Raises UserError."""

    def make(placement: Placement) -> CheckedEngine:
        with confined(placement.cores):  # threads that it makes stay there
            engine = _engine(folder, manifest, chosen, num_inference_steps, placement)
        engine.cores = placement.cores
        return engine

    if chosen in GPU_ENGINES:
        loaded = make(Placement(wanted.threads or 1, wanted.cores or ()))
        loaded.warm_up()
        return loaded
    cores = available_cores()
    measured, placement, times_s = fastest_engine(make, cores, wanted)
    took = ", ".join(f"{tried}: {1e3 * time_s:.2f} ms" for tried, time_s in times_s.items())
    why = "as asked for" if wanted.threads else f"of {len(cores)} core(s) one is left to others"
    log.info("%s for an inference: %s", placement, f"measured, {took}" if took else why)
    _give_back_memory()
    return measured


def _give_back_memory() -> None:
    """Return to the system what loading used and the C library keeps: as much as a large model's weights again."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


def _on_gpu_if_faster(
    folder: Path, manifest: Manifest, loaded: CheckedEngine, num_inference_steps: int | None
) -> CheckedEngine:
    """`loaded`, or an engine on the GPU if one draws the same and clearly faster; one line says why."""
    from dp_ros.inference import gpu

    def stay(reason: str) -> CheckedEngine:
        log.info("engine %s, on the processor: %s", loaded.name, reason)
        return loaded

    missing = []
    for name in gpu.AUTOMATIC:
        reason = gpu.why_not(name, manifest, num_inference_steps)
        if reason:
            missing.append(reason if not gpu.cuda_devices() else f"{name}: {reason}")
            continue
        try:
            other = _warm(folder, manifest, name, num_inference_steps, Wanted(threads=1))
            range_share = difference(loaded, other)
        except Exception as error:  # CUDA, ONNX Runtime and torch raise whatever they like
            missing.append(f"{name}: {error}")
            continue
        if not range_share <= SAME:
            return stay(f"{name} draws other actions, by {range_share:.1e} of their range of 2")
        here_s, there_s = call_s(loaded), call_s(other)
        took = f"{1e3 * there_s:.2f} ms with {name}, {1e3 * here_s:.2f} ms with {loaded.name}"
        if there_s * WORTH > here_s:
            return stay(f"an inference takes {took}")
        log.info("engine %s, on the GPU: an inference takes %s", name, took)
        return other
    return stay("; ".join(dict.fromkeys(missing)))


def difference(one: CheckedEngine, other: CheckedEngine) -> float:
    """Largest difference of two engines' actions on made-up input, in the normalised range of 2."""
    low, high = (np.array(one.manifest.normalization["action"][key]) for key in ("min", "max"))
    scale = 2.0 / np.maximum(high - low, 1e-6)
    return float(np.abs((one.draw_made_up() - other.draw_made_up()) * scale).max())


def _say_how_good(manifest: Manifest, engine: str) -> None:
    """Of an engine that rounds: what is known of this model's actions and score with it."""
    if engine not in ROUNDING:
        return
    what, error = f"engine {engine} ({ROUNDING[engine]})", manifest.action_errors.get(engine)
    scores = [score for score in manifest.scores if score.engine == engine]
    found = [
        f"score {each.mean_score:.3f}, success {each.success_rate:.3f} on {each.seeds}" for each in scores
    ]
    found += [f"actions differ by up to {error:.1e} of their range of 2"] if error is not None else []
    if found:
        log.info("%s: %s", what, "; ".join(found))
    for command, known in (("eval", bool(scores)), ("bench", error is not None)):
        if not known:
            measured = {"eval": "score", "bench": "action error"}[command]
            log.warning(
                "%s: %s not measured for this model: dp-ros %s --model MODEL --engine %s --record",
                *(what, measured, command, engine),
            )


def _engine(
    folder: Path, manifest: Manifest, chosen: str, num_inference_steps: int | None, placement: Placement
) -> CheckedEngine:
    """An engine of one kind, not warm. Raises UserError."""
    threads = placement.threads
    if chosen in ("native", *ROUNDING):
        _require(folder, manifest, WEIGHTS_FILE, chosen)
        from dp_ros.inference.native.engine import NativeEngine

        return NativeEngine(folder, manifest, threads, num_inference_steps, kind=chosen, spin=placement.spin)
    if chosen == "onnx":
        _require(folder, manifest, ONNX_FILE, "onnx")
        from dp_ros.inference.onnx import OnnxEngine

        return OnnxEngine(folder, manifest, threads, num_inference_steps, spin=placement.spin)
    if chosen not in ("torch", *GPU_ENGINES):
        raise UserError(f"engine: got {chosen!r}, expected one of {', '.join(ENGINES)}")
    if chosen in GPU_ENGINES:
        from dp_ros.inference import gpu

        if reason := gpu.why_not(chosen, manifest, num_inference_steps):
            raise UserError(f"engine {chosen}: {reason}; use engine auto")
        if chosen != "torch_cuda":
            from dp_ros.inference.onnx import OnnxGpuEngine

            return OnnxGpuEngine(folder, manifest, chosen, num_inference_steps)
    _require(folder, manifest, WEIGHTS_FILE, chosen)
    if importlib.util.find_spec("torch") is None:
        raise UserError("engine torch: torch is not installed; `pip install -e '.[train]'`, or engine onnx")
    from dp_ros.inference.torch import TorchCudaEngine, TorchEngine

    kind = TorchCudaEngine if chosen == "torch_cuda" else TorchEngine
    return kind.load(folder, manifest, threads, num_inference_steps)


def choose_engine(manifest: Manifest, engine: str = "auto", num_inference_steps: int | None = None) -> str:
    """The engine that `load_engine` would take on the processor: `engine` itself unless it is `auto`. Logs why."""
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
