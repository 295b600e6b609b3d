from __future__ import annotations

import numpy as np
import pytest

from dp_ros.errors import UserError
from dp_ros.sim.actuation_noise import ActuationNoise
from dp_ros.sim.pusht import PushT
from dp_ros.sim.pusht_episodes import DemonstrationStyle, generate_episode
from dp_ros.sim.pusht_expert import PushTExpert
from dp_ros.task import TaskSpec, load_task

TASK = load_task("pusht_state")
SEED = 1  # a short episode


def column(steps: list[dict], key: str) -> np.ndarray:
    return np.stack([np.asarray(step[key]) for step in steps])


def test_the_same_seed_gives_the_same_episode() -> None:
    first, second = generate_episode(TASK, SEED), generate_episode(TASK, SEED)
    assert first.success and first.score == 1.0
    for key in ("keypoint", "agent_pos", "action", "timestamp"):
        np.testing.assert_array_equal(column(first.steps, key), column(second.steps, key))


def test_rows_hold_the_state_before_each_step_and_the_target_without_noise() -> None:
    style = DemonstrationStyle(noise_px=3.0)
    episode = generate_episode(TASK, SEED, style)
    world, expert, noise = PushT(), PushTExpert(), ActuationNoise(3.0, SEED)
    world.reset(SEED)
    expert.reset(SEED)
    for k, step in enumerate(episode.steps):
        assert step["timestamp"] == pytest.approx(k * 0.1)
        np.testing.assert_array_equal(step["agent_pos"], world.agent_pos.astype(np.float32))
        np.testing.assert_array_equal(step["keypoint"], world.keypoints.reshape(-1).astype(np.float32))
        np.testing.assert_array_equal(step["action"], expert.act(world.state))
        done = world.step(noise.apply(step["action"])).done
        assert done == (k == len(episode.steps) - 1)


def test_noise_changes_what_happens_and_none_is_the_clean_expert() -> None:
    clean = generate_episode(TASK, SEED, DemonstrationStyle(noise_px=0.0))
    noisy = generate_episode(TASK, SEED, DemonstrationStyle(noise_px=3.0))
    np.testing.assert_array_equal(clean.steps[0]["action"], noisy.steps[0]["action"])
    assert not np.array_equal(clean.steps[5]["agent_pos"], noisy.steps[5]["agent_pos"])


def test_pictures_are_recorded_where_the_task_asks_for_them() -> None:
    episode = generate_episode(load_task("pusht_image"), SEED, max_steps=3)
    assert not episode.success and len(episode.steps) == 3
    assert episode.steps[0]["image"].shape == (96, 96, 3)
    assert episode.steps[0]["image"].dtype == np.uint8
    assert "keypoint" not in episode.steps[0]


def test_a_stream_that_pusht_does_not_have_is_named() -> None:
    data = TASK.model_dump(mode="json")
    data["observations"]["keypoint"]["topic"] = "/somewhere/else"
    with pytest.raises(UserError, match="observations.keypoint: .*no such stream .*/somewhere/else"):
        generate_episode(TaskSpec.from_dict(data), SEED)


def test_actuation_noise_is_a_stream_of_its_own_for_each_seed() -> None:
    def draws(seed: int) -> np.ndarray:
        noise = ActuationNoise(3.0, seed)
        return np.array([noise.apply((256.0, 256.0)) for _ in range(2000)]) - 256.0

    np.testing.assert_array_equal(draws(1), draws(1))
    assert abs(np.corrcoef(draws(1).ravel(), draws(2).ravel())[0, 1]) < 0.06
    assert abs(draws(1).std() - 3.0) < 0.1 and abs(draws(1).mean()) < 0.2


def test_actuation_noise_stays_in_the_world() -> None:
    noise = ActuationNoise(50.0, 0)
    targets = np.array([noise.apply((0.0, 512.0)) for _ in range(100)])
    assert targets.min() >= 0.0 and targets.max() <= 512.0
    np.testing.assert_array_equal(ActuationNoise(0.0, 0).apply((-3.0, 600.0)), [-3.0, 600.0])
