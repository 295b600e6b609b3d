"""How much the commanded motion jumps where one chunk follows another.

The trajectories of an episode are played again, each at the time at which it was taken, through the double of the
joint_trajectory_controller, and its desired position is sampled every millisecond, as a controller that runs at
1 kHz would hand it to the robot. With x[k] the samples and h = 1 ms:

    v[k] = (x[k+1] - x[k]) / h            velocity jump      |v[k] - v[k-1]|
    a[k] = (v[k+1] - v[k]) / h            acceleration jump  |a[k] - a[k-1]|

(Euclidean norms). A step of the position at the takeover is reported by itself and taken out of the samples first:
as a velocity it would be the step over h, which says more about h than about the motion. A seam lasts from the
takeover of a trajectory until two action steps later; by then its first new action and the way there have passed,
wherever a mode puts them. The figure of a mode is the largest jump in all seams of its episodes. Easy to get wrong:
smooth motion has jumps too, acceleration times h, so no mode reaches zero; and the first chunk starts from rest
and has no seam.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dp_ros.benchmark.episode import Cell, run_episode
from dp_ros.benchmark.report import SeamResult
from dp_ros.inference.engine import Engine
from dp_ros.sim.trajectory_controller import Trajectory, TrajectoryController

SAMPLE_NS = 1_000_000
#: Injected latency and start states of the episodes.
SEAM_LATENCY_MS, SEAM_SEEDS = 200, 10
#: Action steps after the takeover that count as its seam.
SEAM_STEPS = 2
#: Samples before the takeover: what a jump of the acceleration there needs.
_BEFORE = 4

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Published:
    """A trajectory and the time at which the robot took it."""

    taken_ns: int
    trajectory: Trajectory


@dataclass(frozen=True)
class Seam:
    """Desired positions around a takeover, 1 ms apart: (n, dim) before it, (m, dim) from it on."""

    before: Floats
    after: Floats


def seams_of(
    published: Sequence[Published], names: Sequence[str], start: npt.ArrayLike, dt_ns: int
) -> list[Seam]:
    """Play the trajectories of an episode again.

    Args:
        published: in the order in which they were taken.
        names: joints of the robot.
        start: position at which it stood before, (len(names),).
        dt_ns: time between two actions.

    Raises:
        ValueError: if the controller refuses a trajectory.
    """
    robot = TrajectoryController(names)
    robot.hold(start)
    seams: list[Seam] = []
    for index, item in enumerate(published):
        before = [robot.sample(item.taken_ns - k * SAMPLE_NS) for k in range(_BEFORE, 0, -1)]
        problem = robot.accept(item.trajectory, item.taken_ns)
        if problem is not None:
            raise ValueError(f"trajectory {index} is refused: {problem}")
        end_ns = item.taken_ns + SEAM_STEPS * dt_ns
        if index + 1 < len(published):
            end_ns = min(end_ns, published[index + 1].taken_ns - SAMPLE_NS)
        after = [robot.sample(t) for t in range(item.taken_ns, end_ns + 1, SAMPLE_NS)]
        if index > 0:
            seams.append(Seam(np.stack(before), np.stack(after)))
    return seams


def jumps(seam: Seam) -> tuple[float, float, float]:
    """Largest jumps of position (at the takeover), velocity and acceleration."""
    h = SAMPLE_NS / 1e9
    # Where constant acceleration would have led to, so that taking the step out leaves smooth motion as it is.
    expected = 3 * seam.before[-1] - 3 * seam.before[-2] + seam.before[-3]
    step = seam.after[0] - expected
    velocity = np.diff(np.concatenate([seam.before, seam.after - step]), axis=0) / h
    acceleration = np.diff(velocity, axis=0) / h
    return (
        float(np.linalg.norm(step)),
        _largest(np.diff(velocity, axis=0)),
        _largest(np.diff(acceleration, axis=0)),
    )


def _largest(steps: Floats) -> float:
    return float(np.linalg.norm(steps, axis=1).max(initial=0.0))


def seam_result(seams: Iterable[Seam]) -> SeamResult:
    """Largest jumps over all seams."""
    found = [jumps(seam) for seam in seams]
    return SeamResult(
        position_jump_max=max((position for position, _, _ in found), default=0.0),
        velocity_jump_max=max((velocity for _, velocity, _ in found), default=0.0),
        acceleration_jump_max=max((acceleration for _, _, acceleration in found), default=0.0),
        seams=len(found),
    )


def measure_seams(engine: Engine, cell: Cell, seeds: Sequence[int]) -> SeamResult:
    """Run one episode a seed, and look at all of their seams."""
    found: list[Seam] = []
    for seed in seeds:
        episode = run_episode(engine, cell, seed, 0)
        published = [Published(taken_ns, trajectory) for taken_ns, trajectory in episode.trajectories]
        start = episode.states[0][:2]
        found += seams_of(published, engine.task.action.names, start, engine.task.dt_ns)
    return seam_result(found)
