"""Demonstrations of PushT made in one process, for large sets.

World, operator, noise and observations are the ones that the simulated robot, the teleoperation and the
recorder use over ROS; only the transport is missing, so both ways give the same episode for the same seed.
Easy to get wrong: a row holds the target that was commanded; what the robot executed is that target with
noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dp_ros.sim.actuation_noise import ActuationNoise
from dp_ros.sim.pusht import MAX_STEPS, PushT
from dp_ros.sim.pusht_expert import SMOOTH_PX_PER_STEP, PushTExpert
from dp_ros.sim.pusht_rollout import observe
from dp_ros.task import TaskSpec


@dataclass(frozen=True)
class DemonstrationStyle:
    """How the expert demonstrates.

    Attributes:
        noise_px: standard deviation of the noise on executed targets.
        push_px_per_step: speed while pushing.
        travel_px_per_step: speed between pushes.
    """

    noise_px: float = 3.0
    push_px_per_step: float = SMOOTH_PX_PER_STEP[0]
    travel_px_per_step: float = SMOOTH_PX_PER_STEP[1]


@dataclass(frozen=True)
class Demonstration:
    """One episode.

    Attributes:
        seed: of the start state, the noise and the expert.
        success: whether coverage exceeded 0.95.
        score: highest reward.
        steps: one row for each control step that was executed: every stream of the task, `action` and
            `timestamp` (seconds since the first).
    """

    seed: int
    success: bool
    score: float
    steps: list[dict[str, Any]] = field(repr=False)


class Outcome(NamedTuple):
    """What one attempt at a demonstration came to."""

    success: bool
    kept: bool
    steps: int


def generate_episode(
    task: TaskSpec, seed: int, style: DemonstrationStyle | None = None, *, max_steps: int = MAX_STEPS
) -> Demonstration:
    """Let the expert solve PushT from the start state of `seed` (legacy reset, as evaluation uses it).

    The episode ends with success or after `max_steps`. Raises UserError if the task names a stream that PushT
    does not have, or for a seed or a speed out of range.
    """
    style = style or DemonstrationStyle()
    world, noise = PushT(), ActuationNoise(style.noise_px, seed)
    expert = PushTExpert(push_px_per_step=style.push_px_per_step, travel_px_per_step=style.travel_px_per_step)
    world.reset(seed)
    expert.reset(seed)
    steps: list[dict[str, Any]] = []
    success = False
    while not success and len(steps) < max_steps:
        target = expert.act(world.state)
        row = {**observe(task, world), "action": target, "timestamp": len(steps) * task.dt_ns / 1e9}
        steps.append(row)
        success = world.step(noise.apply(target)).done
    return Demonstration(seed, success, world.score, steps)


def seeds_to_record(first: int | None, recorded: Iterable[int]) -> Iterator[int]:
    """Seeds for new episodes: from `first` on, else after the largest recorded one; none that is recorded."""
    known = {int(seed) for seed in recorded if seed >= 0}
    start = first if first is not None else max(known, default=-1) + 1
    return (seed for seed in itertools.count(start) if seed not in known)
