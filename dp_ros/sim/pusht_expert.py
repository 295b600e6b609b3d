"""A scripted operator that solves PushT and can be asked at any state.

It plans one push at a time (`pusht_plan`), follows the way to it at a limited speed, waits for the agent to
settle and plans again from the true state. Between two plans it only remembers the push being run; it plans
anew as soon as the agent or the T is not where the push should have brought them, so its answers stay right
when noise, a person or another policy moves the agent. Easy to get wrong: ask it once per control step, in
order, for it counts the steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dp_ros.errors import UserError
from dp_ros.sim.pusht import (
    CONTROL_HZ,
    GOAL_POSE,
    PD_DAMPING,
    PD_STIFFNESS,
    PHYSICS_HZ,
    WORLD_SIZE_PX,
)
from dp_ros.sim.pusht_paths import timed_points
from dp_ros.sim.pusht_plan import Push, plan_push
from dp_ros.sim.pusht_push_model import pose_distance_px, push_table

Floats = NDArray[np.float64]

SMOOTH_PX_PER_STEP = (6.0, 15.0)  # push, travel: what demonstrations are recorded with
FAST_PX_PER_STEP = (12.0, 24.0)
ACCELERATION_PX_PER_STEP2 = 4.0
SETTLE_STEPS = 3  # at most, after the last target of a push
SETTLED_PX = 1.0
AT_GOAL_PX = 1.0  # T this near to its goal covers well over what success needs; hold still
AGENT_DEPARTURE_PX = 15.0
BLOCK_DEPARTURE_PX = 6.0
_STALL_GAIN = 0.97  # a push that leaves the T farther than this share of the best distance so far is a stall
_STALL_JITTER = 3.0  # control steps of random cost per stall in a row, to break out of cycles


class PushTExpert:
    """Operator for PushT. Deterministic: the same seed and the same states give the same targets."""

    def __init__(
        self,
        *,
        push_px_per_step: float = SMOOTH_PX_PER_STEP[0],
        travel_px_per_step: float = SMOOTH_PX_PER_STEP[1],
        goal_pose: ArrayLike = GOAL_POSE,
    ) -> None:
        """Speeds are in px per control step. Raises UserError unless 0 < push <= travel."""
        if not 0 < push_px_per_step <= travel_px_per_step < np.inf:
            raise UserError(
                f"PushT expert: speeds must satisfy 0 < push <= travel, got push {push_px_per_step} and "
                f"travel {travel_px_per_step} px per step"
            )
        self._push_speed = float(push_px_per_step)
        self._travel_speed = float(travel_px_per_step)
        self._goal = np.asarray(goal_pose, dtype=np.float64)
        self.reset(0)

    def reset(self, seed: int = 0) -> None:
        """Forget the push being run. The seed only matters where the T has stopped getting nearer to its goal."""
        self._random = np.random.default_rng(seed)
        self._push: Push | None = None
        self._targets: Floats = np.zeros((0, 2))
        self._expected: Floats = np.zeros((0, 2))
        self._step = 0
        self._agent: Floats | None = None
        self._velocity: Floats = np.zeros(2)
        self._last_target: Floats = np.zeros(2)
        self._best_px = np.inf
        self._stalls = 0

    def act(self, state: ArrayLike) -> Floats:
        """Target (2,) in px for this control step at `state` (agent x, y, block x, y, angle).

        With the T on its goal the target is where the agent is.

        Raises UserError for a state of wrong shape or with numbers that are not finite.
        """
        values = np.asarray(state, dtype=np.float64)
        if values.shape != (5,) or not np.isfinite(values).all():
            raise UserError(f"PushT expert: expected a state of 5 finite numbers, got {values.tolist()}")
        agent, pose = values[:2], values[2:]
        self._update_velocity()
        self._agent = agent
        if pose_distance_px(pose, self._goal) < AT_GOAL_PX:
            self._push = None
            target = agent
        else:
            if self._push is None or self._finished(agent) or self._departed(agent, pose):
                self._plan(agent, pose)
            target = self._targets[min(self._step, len(self._targets) - 1)]
            self._step += 1
        self._last_target = target
        return target.copy()

    def _update_velocity(self) -> None:
        """Velocity the agent has now if it followed the last target."""
        if self._agent is not None:
            _, self._velocity = follow(self._agent, self._velocity, self._last_target)

    def _finished(self, agent: Floats) -> bool:
        over = self._step - len(self._targets)
        arrived = np.hypot(*(agent - self._targets[-1])) < SETTLED_PX
        return over >= SETTLE_STEPS or (over >= 0 and bool(arrived))

    def _departed(self, agent: Floats, pose: Floats) -> bool:
        """Agent or T is somewhere else than this push should have them by now."""
        assert self._push is not None
        expected = self._expected[min(self._step, len(self._expected) - 1)]
        if np.hypot(*(agent - expected)) > AGENT_DEPARTURE_PX:
            return True
        start, end = self._push.way[-2:]
        along = float((expected - start) @ (end - start)) / max(float(np.hypot(*(end - start))), 1e-9)
        on_push = self._step >= self._push_from
        index = int(np.searchsorted(self._push.length_px, along)) if on_push else 0
        block = self._push.block_poses[min(index, len(self._push.block_poses) - 1)]
        return bool(pose_distance_px(pose, block) > BLOCK_DEPARTURE_PX)

    def _plan(self, agent: Floats, pose: Floats) -> None:
        distance = float(pose_distance_px(pose, self._goal))
        self._stalls = 0 if distance < _STALL_GAIN * self._best_px else self._stalls + 1
        self._best_px = min(self._best_px, distance)
        jitter = None
        if self._stalls > 1:
            jitter = self._random.exponential(_STALL_JITTER * self._stalls, len(push_table().standoff))
        push = plan_push(
            agent,
            pose,
            self._goal,
            push_px_per_step=self._push_speed,
            travel_px_per_step=self._travel_speed,
            jitter=jitter,
        )
        self._push = push
        limits = np.full(len(push.way) - 1, self._travel_speed)
        limits[-1] = self._push_speed
        targets = timed_points(push.way, limits, ACCELERATION_PX_PER_STEP2)
        self._targets = np.clip(targets, 0.0, float(WORLD_SIZE_PX))
        self._step = 0
        expected = [agent]
        velocity = self._velocity
        for target in [*self._targets, *[self._targets[-1]] * SETTLE_STEPS]:
            position, velocity = follow(expected[-1], velocity, target)
            expected.append(position)
        self._expected = np.array(expected)
        start, end = push.way[-2:]
        leg, offset = end - start, targets - start
        before_push = (np.abs(offset[:, 0] * leg[1] - offset[:, 1] * leg[0]) > 1e-6) | (offset @ leg < 0)
        behind = np.flatnonzero(before_push)
        self._push_from = int(behind[-1]) + 1 if len(behind) else 0


def follow(position: Floats, velocity: Floats, target: Floats) -> tuple[Floats, Floats]:
    """Agent's position and velocity (2,) one control step later; nothing the agent touches can stop it."""
    dt_s = 1.0 / PHYSICS_HZ
    for _ in range(PHYSICS_HZ // CONTROL_HZ):
        velocity = velocity + (PD_STIFFNESS * (target - position) - PD_DAMPING * velocity) * dt_s
        position = position + velocity * dt_s
    return position, velocity
