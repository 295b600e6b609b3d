"""The compiled code that training on a CPU calls: `norm_mish.cpp` and `norm_relu.cpp`, which CMakeLists.txt builds.

Easy to get wrong: a machine that only trains may have no such library, so who asks has the same arithmetic in torch.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

from dp_ros.inference.native.library import cpu_flags

LIBRARY = "libdp_ros_training.so"
_NEEDED_FLAGS = {"avx2", "fma"}


@functools.cache
def training_library() -> ctypes.CDLL | None:
    """The library; None where it is not built or the processor is too old."""
    flags = cpu_flags()
    if flags and not flags >= _NEEDED_FLAGS:
        return None
    prefixes = [
        Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix
    ]
    found = next((path for prefix in prefixes if (path := prefix / "lib" / LIBRARY).is_file()), None)
    try:
        return None if found is None else ctypes.CDLL(str(found))
    except OSError:
        return None
