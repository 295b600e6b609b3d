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

from dp_ros.runtime.motion.spline import QuinticPath, TrajectoryPoints

Floats = npt.NDArray[np.float64]

#: A trajectory is at least this long, and a stop goes on standing still for as long: a controller refuses a trajectory
#: that is over when it arrives, and one that is held up on a busy machine must still count.
SHORTEST_NS = 1_000_000_000
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


def outright_points(snapshot: Commanded, place: Floats, from_ns: int, to_ns: int | None) -> TrajectoryPoints:
    """Steps as trajectory points: velocities by differences, zero at the last."""
    steps = snapshot.steps
    first = bisect_right(steps.times_ns, from_ns)
    last = len(steps.times_ns) if to_ns is None else max(bisect_right(steps.times_ns, to_ns), first)
    times = [from_ns, *steps.times_ns[first:last]]
    positions = np.concatenate([place[None], steps.values[first:last]])
    if len(times) == 1:
        times.append(from_ns + max(snapshot.dt_ns, SHORTEST_NS))
        positions = np.concatenate([positions, positions])
    velocities = np.gradient(positions, (np.array(times) - from_ns) / 1e9, axis=0)
    velocities[-1] = 0.0
    return TrajectoryPoints(np.array(times, dtype=np.int64), positions, velocities, None)
