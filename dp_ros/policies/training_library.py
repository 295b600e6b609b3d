"""The compiled code that training on a CPU calls: `norm_mish.cpp` and `norm_relu.cpp`, which CMakeLists.txt builds.

Easy to get wrong: a machine that only trains may have no such library, so who asks has the same arithmetic in torch.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from dp_ros.inference.native.library import cpu_flags

LIBRARY = "libdp_ros_training.so"
_NEEDED_FLAGS = {"avx2", "fma"}

_Passes = TypeVar("_Passes")


@functools.cache
def compiled(passes: Callable[[ctypes.CDLL], _Passes]) -> _Passes | None:
    """`passes` of the library; None where it is not built, lacks them, or the processor is too old."""
    flags = cpu_flags()
    if flags and not flags >= _NEEDED_FLAGS:
        return None
    prefixes = [
        Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix
    ]
    found = next((path for prefix in prefixes if (path := prefix / "lib" / LIBRARY).is_file()), None)
    try:
        return None if found is None else passes(ctypes.CDLL(str(found)))
    except (OSError, AttributeError):
        return None
