"""Engines on an NVIDIA GPU: what a machine and a model lack for them, and what ONNX Runtime is told.

The engines are `onnx.OnnxGpuEngine` and `torch.TorchCudaEngine`, which replay a CUDA graph. None
of them has run on a GPU: none was at hand, and the tests replace what a GPU would do. So `engine: auto` takes one only
after it drew the same as the processor, and faster (`load`). Easy to get wrong: this is asked at every start of a node,
so it must load neither ONNX Runtime nor torch where there is no GPU.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from dp_ros.inference.manifest import ONNX_FILE, WEIGHTS_FILE, Manifest

PROVIDERS = {"onnx_cuda": "CUDAExecutionProvider", "onnx_tensorrt": "TensorrtExecutionProvider"}
#: What `engine: auto` tries, the first that can be used; TensorRT compiles for minutes, so it has to be asked for.
AUTOMATIC = ("onnx_cuda", "torch_cuda")


def cuda_devices() -> int:
    """NVIDIA GPUs that the driver finds; 0 where there is no driver. Loads neither ONNX Runtime nor torch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def why_not(engine: str, manifest: Manifest, num_inference_steps: int | None = None) -> str:
    """Why an engine of this module, or `torch_cuda`, cannot run a model here; empty if nothing speaks against it."""
    if not cuda_devices():
        return "no NVIDIA GPU (the driver's libcuda.so.1 is not there or finds none)"
    needed = WEIGHTS_FILE if engine == "torch_cuda" else ONNX_FILE
    if needed not in manifest.files:
        return f"the model has no {needed}"
    if engine == "torch_cuda":
        return _why_no_torch(manifest)
    if num_inference_steps not in (None, manifest.sampler.num_inference_steps):
        return f"the graph has another number of denoising steps than {num_inference_steps}"
    if importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime is not installed"
    runtime = importlib.import_module("onnxruntime")
    offered = runtime.get_available_providers()
    if PROVIDERS[engine] not in offered:
        return (
            f"onnxruntime {runtime.__version__} offers {', '.join(offered)} and no {PROVIDERS[engine]}; "
            "pip install onnxruntime-gpu instead of onnxruntime"
        )
    return ""


def _why_no_torch(manifest: Manifest) -> str:
    if not manifest.network.denoises:
        return f"a {manifest.network.kind} policy has no denoising loop to be recorded"
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no CUDA device (torch.cuda.is_available() is False)"
    return ""


def providers(engine: str, *, graph: bool) -> list[Any]:
    """Execution providers with their options, best first.

    `graph` records a CUDA graph at the first call; not for graphs with a branch, which a warm start is. Products are
    rounded as on the processor (no TF32), or actions would differ by more than the tests allow.
    """
    cuda = ("CUDAExecutionProvider", {"device_id": 0, "use_tf32": 0, "enable_cuda_graph": int(graph)})
    if engine == "onnx_cuda":
        return [cuda, "CPUExecutionProvider"]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dp_ros" / "tensorrt"
    options = {
        "device_id": 0,
        "trt_cuda_graph_enable": graph,
        "trt_fp16_enable": False,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(cache),
    }
    # A node that TensorRT does not know would be left to CUDA, whose own graph must not be recorded within.
    fallback = ("CUDAExecutionProvider", {"device_id": 0, "use_tf32": 0})
    return [("TensorrtExecutionProvider", options), fallback, "CPUExecutionProvider"]
