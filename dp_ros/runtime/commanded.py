"""Everything that is commanded at one moment, as one value that is never changed, only replaced.

A thread, or another process, that holds such a value can ask it at any time, whatever is planned meanwhile. Easy to
get wrong: the steps remember as much of the past as the path does, or what was commanded a moment ago would be
forgotten by one of the two.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dp_ros.runtime.spline import QuinticPath

Floats = npt.NDArray[np.float64]

#: How long a commanded motion is remembered behind the newest seam.
HISTORY_NS = 5_000_000_000


@dataclass(frozen=True)
class Steps:
    """Values that change at once: those of grippers, and all of them where nothing is blended."""

    times_ns: list[int]
    values: Floats

    def at(self, time_ns: int) -> Floats | None:
        """Values in force at a time, (dim,); None before the first."""
        index = bisect_right(self.times_ns, time_ns) - 1
        return None if index < 0 else self.values[index]

    def then(self, other: Steps) -> Steps:
        """These until the first of the others, then those; what is long past is forgotten."""
        keep = bisect_left(self.times_ns, other.times_ns[0])
        oldest = min(bisect_left(self.times_ns, other.times_ns[0] - HISTORY_NS), keep)
        oldest = max(oldest - 1, 0)
        return Steps(
            self.times_ns[oldest:keep] + other.times_ns,
            np.concatenate([self.values[oldest:keep], other.values]),
        )


@dataclass(frozen=True)
class Commanded:
    """What is commanded, by time.

    Attributes:
        path: None where nothing is blended.
        steps: each action from its time on.
        dt_ns: time between two actions.
        last_action_ns: time of the last action of the policy, None if nothing but a hold is commanded.
    """

    path: QuinticPath | None
    steps: Steps
    dt_ns: int
    last_action_ns: int | None
