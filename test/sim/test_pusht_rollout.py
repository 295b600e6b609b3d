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


def ramp(request: InferenceRequest) -> np.ndarray:
    """A motion that depends on time alone, by the grid step of the observation."""
    steps = np.arange(TASK.horizon) - (TASK.n_obs_steps - 1) + request.window.stamp_ns / TASK.dt_ns - 10
    return np.column_stack([100.0 + steps, 200.0 + 2 * steps]).astype(np.float32)


@pytest.mark.parametrize("latency_ms", [0.0, 200.0, 400.0])
def test_with_a_latency_every_action_is_still_executed_at_its_own_time(latency_ms: float) -> None:
    result = rollout(TASK, ramp, 100003, max_steps=40, latency_ms=latency_ms)
    for time_ns, trajectory in result.trajectories:
        late = round(latency_ms / 100)
        assert trajectory.stamp_ns >= time_ns
        for offset_ns, position in zip(trajectory.times_ns, trajectory.positions, strict=True):
            step = (trajectory.stamp_ns + offset_ns) / TASK.dt_ns - 10
            if step == round(step) and offset_ns < 8 * TASK.dt_ns:
                assert np.allclose(position, [100.0 + step, 200.0 + 2 * step])
    assert result.late_steps == late * len(result.inference_ms)


def test_naive_executes_each_chunk_from_its_first_action_however_late_it_is() -> None:
    result = rollout(TASK, ramp, 100003, max_steps=40, latency_ms=300.0, mode="naive")
    for time_ns, trajectory in result.trajectories:
        assert trajectory.stamp_ns == time_ns
        late = 3
        assert trajectory.positions[0][0] == pytest.approx(100.0 + time_ns / TASK.dt_ns - 10 - late)
    assert result.late_steps == 0


def test_an_episode_with_latency_repeats_exactly() -> None:
    def noisy(request: InferenceRequest) -> np.ndarray:
        return ramp(request) + np.float32(5 * np.sin(request.step))

    runs = [rollout(TASK, noisy, 100003, max_steps=30, latency_ms=150.0, mode="ensemble") for _ in range(2)]
    assert np.array_equal(runs[0].states, runs[1].states)


def test_a_mode_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'fast', expected naive or one of replace, ensemble, rtc"):
        rollout(TASK, ramp, 100003, mode="fast", latency_ms=0.0)  # type: ignore[arg-type]
