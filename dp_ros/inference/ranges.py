"""How values are mapped to [-1, 1], for whoever does it without torch; `policies/normalizer.py` uses it too.

Easy to get wrong: a dimension that never changes has no range to divide by; it is only shifted, so that it becomes 0
and any later deviation stays small.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: A dimension whose values differ by less than this share of their size counts as constant.
RELATIVE_RANGE = 1e-4


def scale_and_offset(
    low: Sequence[float], high: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`value * scale + offset` lies in [-1, 1] for values between `low` and `high`, each (n,)."""
    # In float64, because scale and offset are rounded once and then used both ways.
    lo, hi = np.asarray(low, np.float64), np.asarray(high, np.float64)
    size = np.maximum(np.maximum(np.abs(lo), np.abs(hi)), RELATIVE_RANGE)
    constant = hi - lo < RELATIVE_RANGE * size
    scale = np.where(constant, 1.0, 2.0 / np.where(constant, 1.0, hi - lo))
    offset = -(lo + hi) / 2 * scale
    return scale.astype(np.float32), offset.astype(np.float32)
