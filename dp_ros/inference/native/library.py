"""The compiled code, `libdp_ros_native.so`, which CMakeLists.txt builds, and whether it can be used here."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LIBRARY = "libdp_ros_native.so"
#: What is agreed on with `unet1d.cpp` and `conv2d.cpp`; raised there and here with every change of their functions or
#: structures.
INTERFACE = 4
#: Outputs in a block of weights, as in `vectors.hpp`.
BLOCK = 16
#: Turns that a thread waits awake for the others before it gives way, if it spins; a convolution takes some thousand.
SPIN = 4000
_NEEDED_FLAGS = {"avx2", "fma"}
Floats = NDArray[np.float32]


@functools.cache
def why_no_library() -> str:
    """Why it cannot be used; empty if it can."""
    if platform.machine() in ("x86_64", "AMD64") and not cpu_flags() >= _NEEDED_FLAGS:
        return f"the processor has no {' and '.join(sorted(_NEEDED_FLAGS - cpu_flags()))}"
    try:
        library()
    except OSError as error:
        return f"{LIBRARY} cannot be used; build the package ({error})"
    return ""


@functools.cache
def library() -> ctypes.CDLL:
    """The library; raises OSError where it is missing or of another version."""
    prefixes = [
        Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix
    ]
    installed = [prefix / "lib" / LIBRARY for prefix in prefixes]
    loaded = ctypes.CDLL(str(next((path for path in installed if path.is_file()), LIBRARY)))
    found = loaded.dp_native_interface() if hasattr(loaded, "dp_native_interface") else 0
    if found != INTERFACE:
        raise OSError(f"{loaded._name} has interface {found}, this code needs {INTERFACE}")
    number, pointer, whole = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
    loaded.dp_unet1d_create.restype = pointer
    loaded.dp_unet1d_create.argtypes = [pointer, whole, pointer, number, pointer, number, number]
    loaded.dp_unet1d_create.argtypes += [whole] * 4 + [number] * 4 + [whole] * 4
    loaded.dp_unet1d_destroy.argtypes = [pointer]
    loaded.dp_unet1d_draw.argtypes = [pointer, whole, whole, *[pointer] * 9]
    loaded.dp_conv2d_create.restype = pointer
    loaded.dp_conv2d_create.argtypes = [pointer, whole, pointer, *[number] * 4, whole, whole]
    loaded.dp_conv2d_destroy.argtypes = [pointer]
    loaded.dp_conv2d_run.argtypes = [pointer, whole, *[pointer] * 4]
    return loaded


def cpu_flags() -> set[str]:
    """What the processor can do, as Linux names it; empty where that is not said."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))


def in_blocks(values: Floats) -> Floats:
    """`values` (outputs, ...) with zeros behind them up to whole blocks of outputs."""
    padded = np.zeros((-(-len(values) // BLOCK) * BLOCK, *values.shape[1:]), np.float32)
    padded[: len(values)] = values
    return padded


class Parameters:
    """Arrays of a network, one behind another, as the library takes them."""

    def __init__(self) -> None:
        self._parts: list[Floats] = []
        self._n = 0

    def store(self, values: Floats) -> int:
        """Append `values`; returns their place, in floats."""
        at = self._n
        self._parts.append(np.ascontiguousarray(values, np.float32).reshape(-1))
        self._n += values.size
        return at

    def joined(self) -> Floats:
        """All of them."""
        return np.concatenate(self._parts)
