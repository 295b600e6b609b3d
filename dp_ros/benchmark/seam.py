"""How much the commanded motion jumps where one chunk follows another.

The trajectories of an episode are played again, each at the time at which it was taken, through the double of the
joint_trajectory_controller, and its desired position is sampled every millisecond, as a controller that runs at
1 kHz would hand it to the robot. With x[k] the samples and h = 1 ms:

    v[k] = (x[k+1] - x[k]) / h            velocity jump      |v[k] - v[k-1]|
    a[k] = (v[k+1] - v[k]) / h            acceleration jump  |a[k] - a[k-1]|

(Euclidean norms). A seam lasts from the takeover of a trajectory until two action steps later; by then its first new
action and the way there have passed, wherever a mode puts them. Its jump is the largest inside; the figure of a
mode is the largest over all seams of its episodes. A jump of the position D counts as a velocity jump of D / h,
which is what the robot gets. Easy to get wrong: smooth motion has jumps too, acceleration times h, so no mode
reaches zero; and the first chunk starts from rest and has no seam.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dp_ros.benchmark.report import SeamResult
from dp_ros.sim.trajectory_controller import Trajectory, TrajectoryController

SAMPLE_NS = 1_000_000
#: Action steps after the takeover that count as its seam.
SEAM_STEPS = 2
#: Samples before the takeover that a jump of the acceleration at it needs.
_BEFORE = 3

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Published:
    """A trajectory and the time at which the robot took it."""

    taken_ns: int
    trajectory: Trajectory


def seam_samples(
    published: Sequence[Published], names: Sequence[str], start: npt.ArrayLike, dt_ns: int
) -> list[Floats]:
    """Desired positions around each seam, (samples, len(names)) each, 1 ms apart.

    Args:
        published: the trajectories of an episode, in the order in which they were taken.
        names: joints of the robot.
        start: position at which it stood before, (len(names),).
        dt_ns: time between two actions.
    """
    robot = TrajectoryController(names)
    robot.hold(start)
    samples: list[Floats] = []
    for index, item in enumerate(published):
        before = [robot.sample(item.taken_ns - k * SAMPLE_NS) for k in range(_BEFORE, 0, -1)]
        problem = robot.accept(item.trajectory, item.taken_ns)
        if problem is not None:
            raise ValueError(f"trajectory {index} was taken in the episode and is now refused: {problem}")
        end_ns = item.taken_ns + SEAM_STEPS * dt_ns
        if index + 1 < len(published):
            end_ns = min(end_ns, published[index + 1].taken_ns - SAMPLE_NS)
        after = [robot.sample(t) for t in range(item.taken_ns, end_ns + 1, SAMPLE_NS)]
        if index > 0:
            samples.append(np.stack([*before, *after]))
    return samples


def jumps(samples: Floats) -> tuple[float, float]:
    """Largest velocity and acceleration jump in positions (n, dim) sampled 1 ms apart; 0 where n is too small."""
    h = SAMPLE_NS / 1e9
    velocity = np.diff(samples, axis=0) / h
    acceleration = np.diff(velocity, axis=0) / h
    return _largest(np.diff(velocity, axis=0)), _largest(np.diff(acceleration, axis=0))


def _largest(steps: Floats) -> float:
    return float(np.linalg.norm(steps, axis=1).max(initial=0.0))


def seam_result(seams: Iterable[Floats]) -> SeamResult:
    """Largest jumps over all seams."""
    found = [jumps(samples) for samples in seams]
    return SeamResult(
        velocity_jump_max=max((velocity for velocity, _ in found), default=0.0),
        acceleration_jump_max=max((acceleration for _, acceleration in found), default=0.0),
        seams=len(found),
    )
