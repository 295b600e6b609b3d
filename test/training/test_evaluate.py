from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dp_ros.errors import UserError
from dp_ros.inference.sampler import sampling_noise
from dp_ros.sim.pusht_rollout import EpisodeResult
from dp_ros.task import load_task
from dp_ros.training.evaluate import (
    in_order,
    is_simulated,
    mean_interval_95,
    parse_seeds,
    run_batched,
    run_episodes,
    summarize,
)

TASK = load_task("pusht_state")


def result(seed: int, score: float, repeat: int = 0) -> EpisodeResult:
    return EpisodeResult(seed, repeat, score, score >= 1, score * 0.95, 100, inference_ms=[1.0, 3.0])


def test_each_seed_is_run_with_other_noise_in_each_repeat() -> None:
    first_noise: list[Any] = []

    def hold(observation: Any, noise: Any) -> Any:
        first_noise.append(noise)
        return np.tile(observation["agent_pos"][-1], (16, 1))

    episodes = list(run_episodes(TASK, hold, [5, 6], repeats=2))
    assert [(e.seed, e.repeat) for e in episodes] == [(5, 0), (5, 1), (6, 0), (6, 1)]
    n = len(first_noise) // 4
    drawn = [first_noise[i * n] for i in range(4)]
    step = next(k for k in range(3) if np.array_equal(drawn[0], sampling_noise(5000, k, (16, 2))))
    for noise, seed in zip(drawn, (5000, 5001, 6000, 6001), strict=True):
        assert np.array_equal(noise, sampling_noise(seed, step, (16, 2)))


def test_the_policy_sees_the_last_two_observations_in_px() -> None:
    seen: list[Any] = []

    def hold(observation: Any, noise: Any) -> Any:
        seen.append({key: value.copy() for key, value in observation.items()})
        return np.tile(observation["agent_pos"][-1], (16, 1))

    list(run_episodes(TASK, hold, [5]))
    assert seen[0]["keypoint"].shape == (2, 18)
    assert seen[0]["agent_pos"].shape == (2, 2)
    assert 50 <= seen[0]["agent_pos"].min() <= 450
    assert len(seen) == 38, "300 steps, 8 of each prediction executed"


def test_many_episodes_at_once_are_the_same_as_one_by_one() -> None:
    """With a network, up to the rounding that depends on the size of the batch."""
    torch = pytest.importorskip("torch")
    from dp_ros.inference.torch import sample_batch
    from test.policies.small import small_policy

    torch.set_num_threads(1)
    policy = small_policy(num_inference_steps=2)

    def sample(observation: Any, noise: Any) -> Any:
        return sample_batch(policy, {k: v[None] for k, v in observation.items()}, noise[None])[0]

    seeds = [100004, 100000]
    alone = list(run_episodes(TASK, sample, seeds, repeats=2))
    together = run_batched(TASK, partial(sample_batch, policy), seeds, repeats=2, width=3)
    for one, other in zip(alone, in_order(together, seeds), strict=True):
        assert (one.seed, one.repeat, one.steps) == (other.seed, other.repeat, other.steps)
        assert other.states[16] == pytest.approx(one.states[16], abs=1e-3)
        assert other.score == pytest.approx(one.score, abs=1e-3)


def test_the_mean_is_over_episodes_and_the_rates_too() -> None:
    evaluation = summarize([result(1, 1.0), result(1, 0.5, 1), result(2, 0.0), result(2, 0.5, 1)])
    assert evaluation.mean_score == 0.5
    assert evaluation.success_rate == 0.25
    assert evaluation.inference_p50_ms == 2.0
    assert evaluation.interval_95 is not None
    low, high = evaluation.interval_95
    assert 0.2 < low < 0.5 < high < 0.8


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = mean_interval_95([result(i, s) for i, s in enumerate(rng.beta(8, 2, size=40))]) or (0, 0)
        covered += low <= 0.8 <= high
    assert 0.9 <= covered / 200 <= 0.99


def test_repeats_of_a_seed_do_not_narrow_the_interval_as_other_seeds_would() -> None:
    rng = np.random.default_rng(1)
    scores = rng.uniform(size=30)
    once = mean_interval_95([result(i, s) for i, s in enumerate(scores)])
    again = mean_interval_95([result(i, s, r) for i, s in enumerate(scores) for r in range(3)])
    assert once is not None
    assert once == pytest.approx(again), "the same score three times says nothing new"


def test_one_seed_has_no_interval() -> None:
    assert mean_interval_95([result(1, 0.5), result(1, 0.7, 1)]) is None


def test_the_json_has_the_keys_that_reports_are_made_from() -> None:
    data = json.loads(json.dumps(summarize([result(1, 1.0), result(2, 0.5)]).as_json()))
    assert data["mean_score"] == 0.75
    assert data["success_rate"] == 0.5
    assert set(data["inference_ms"]) == {"p50", "p99"}
    assert (
        data["episodes"][0].items()
        >= {
            "seed": 1,
            "repeat": 0,
            "score": 1.0,
            "success": True,
            "final_coverage": 0.95,
            "steps": 100,
        }.items()
    )
    assert "bootstrap" in data["interval_method"]


def test_no_episodes_are_no_result() -> None:
    with pytest.raises(UserError, match="no episodes"):
        summarize([])


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("3:6", [3, 4, 5]), ("7", [7]), ("5,3", [5, 3]), ("100000:100050", list(range(100000, 100050)))],
)
def test_seeds_are_a_range_or_a_list(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "seeds: got ''"),
        ("a:b", "seeds: got 'a:b', expected a range"),
        ("1:2:3", "seeds: got '1:2:3'"),
        ("1,,2", "seeds: got '1,,2'"),
        ("5:5", "seeds: 5:5 is empty"),
        ("9:5", "seeds: 9:5 is empty"),
        ("-1", "each must be from 0 to 4294967295"),
        ("4294967296", "each must be from 0"),
        ("1,2,1", "names a seed twice; use --repeats"),
        ("0:200000", "are 200000 seeds, at most 100000"),
    ],
)
def test_seeds_that_are_none_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_seeds(text)


def test_only_tasks_of_the_simulated_robot_are_simulated() -> None:
    assert is_simulated(TASK)
    assert is_simulated(load_task("pusht_image"))
    action = TASK.action.model_copy(update={"topic": "/arm/joint_trajectory"})
    assert not is_simulated(TASK.model_copy(update={"action": action}))


def test_evaluation_needs_no_torch() -> None:
    program = "import sys; sys.modules['torch'] = None; import dp_ros.training.evaluate, dp_ros.cli.eval"
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=True, timeout=60)
