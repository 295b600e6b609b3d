"""Episodes in one process, through the runtime that the node runs."""

from __future__ import annotations

import numpy as np
import pytest

from dp_ros.errors import UserError
from dp_ros.runtime.controller import InferenceRequest
from dp_ros.sim.pusht import PushT
from dp_ros.sim.pusht_rollout import noise_seed, observe, rollout
from dp_ros.task import TaskSpec, load_task

TASK = load_task("pusht_state")


def hold_centre(request: InferenceRequest) -> np.ndarray:
    return np.full((TASK.horizon, 2), 256.0, np.float32)


def test_actions_are_executed_from_the_observations_time_on() -> None:
    """Action i of the executed ones drives step i, which only holds if horizon and observation steps line up."""

    def ramp(request: InferenceRequest) -> np.ndarray:
        steps = np.arange(TASK.horizon) - (TASK.n_obs_steps - 1) + request.step
        return np.column_stack([100.0 + steps, 200.0 + 2 * steps]).astype(np.float32)

    result = rollout(TASK, ramp, 100003, max_steps=20)
    world = PushT()
    world.reset(100003)
    for step in range(20):
        assert np.array_equal(result.states[step], world.state)
        world.step([100.0 + step, 200.0 + 2 * step])
    assert len(result.inference_ms) == 3


def test_the_first_observation_stands_for_the_steps_before_it() -> None:
    windows = []

    def keep(request: InferenceRequest) -> np.ndarray:
        windows.append(request.window)
        return hold_centre(request)

    rollout(TASK, keep, 100000, max_steps=9)
    first, second = (w.observations["agent_pos"] for w in windows)
    assert np.array_equal(first[0], first[1])
    assert not np.array_equal(second[0], second[1])
    assert [w.stamp_ns - windows[0].stamp_ns for w in windows] == [0, 8 * TASK.dt_ns]


def test_every_seed_and_repeat_has_noise_of_its_own() -> None:
    seeds: list[int] = []

    def keep(request: InferenceRequest) -> np.ndarray:
        seeds.append(request.seed)
        return hold_centre(request)

    for seed, repeat in ((100000, 0), (100000, 1), (100001, 0)):
        rollout(TASK, keep, seed, repeat=repeat, max_steps=1)
    assert seeds == [noise_seed(100000, 0), noise_seed(100000, 1), noise_seed(100001, 0)]
    assert len(set(seeds)) == 3


def test_an_episode_that_fails_counts_its_steps_and_its_best_reward() -> None:
    result = rollout(TASK, hold_centre, 100000, max_steps=15)
    assert (result.steps, result.success, len(result.states)) == (15, False, 16)
    assert 0.0 <= result.final_coverage <= result.score <= 1.0


def test_a_stream_that_the_simulation_lacks_is_refused() -> None:
    changed = TASK.model_dump(mode="json")
    changed["observations"]["keypoint"]["topic"] = "/tactile"
    with pytest.raises(
        UserError, match="observations.keypoint: the simulated PushT robot has no such stream"
    ):
        observe(TaskSpec.from_dict(changed), PushT())
