"""Many episodes with one inference for all of them: the same episodes as one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from dp_ros.runtime.execution import InferenceRequest
from dp_ros.sim.pusht_batch import rollouts
from dp_ros.sim.pusht_rollout import EpisodeResult, rollout
from dp_ros.task import load_task

TASK = load_task("pusht_state")
STARTS = [(100003, 0), (100000, 1), (100001, 0)]


def circle(request: InferenceRequest) -> np.ndarray:
    """Actions that depend on the observation, on the step and on the noise seed."""
    angle = 0.4 * (np.arange(TASK.horizon) + request.step + request.seed % 7)
    centre = request.window.observations["agent_pos"][-1]
    return (centre + 40.0 * np.column_stack([np.cos(angle), np.sin(angle)])).astype(np.float32)


def circles(requests: Sequence[InferenceRequest]) -> np.ndarray:
    return np.stack([circle(request) for request in requests])


def key(episode: EpisodeResult) -> tuple[int, int]:
    return episode.seed, episode.repeat


@pytest.mark.parametrize("width", [1, 2, 8])
@pytest.mark.parametrize(
    "options", [{}, {"latency_ms": 200.0, "mode": "ensemble", "infer_every": 3}], ids=["lockstep", "latency"]
)
def test_every_episode_is_the_one_that_it_is_alone(width: int, options: dict) -> None:
    together = {
        key(one): one for one in rollouts(TASK, circles, STARTS, width=width, max_steps=30, **options)
    }
    assert set(together) == set(STARTS)
    for seed, repeat in STARTS:
        alone = rollout(TASK, circle, seed, repeat=repeat, max_steps=30, **options)
        found = together[(seed, repeat)]
        assert np.array_equal(found.states, alone.states)
        assert (found.score, found.late_steps) == (alone.score, alone.late_steps)
        assert np.array_equal([v for _, v in found.plans], [v for _, v in alone.plans])


def test_a_call_answers_all_that_run_and_the_next_begins_where_one_ended() -> None:
    sizes: list[int] = []

    def count(requests: Sequence[InferenceRequest]) -> np.ndarray:
        sizes.append(len(requests))
        return circles(requests)

    episodes = list(rollouts(TASK, count, STARTS, width=2, max_steps=16))
    assert len(episodes) == 3
    assert sizes == [2, 2, 1, 1], "16 steps are two inferences of each episode"


def test_who_wants_to_stop_does_not_wait_for_the_end() -> None:
    sizes: list[int] = []

    def count(requests: Sequence[InferenceRequest]) -> np.ndarray:
        sizes.append(len(requests))
        return circles(requests)

    assert list(rollouts(TASK, count, STARTS, should_stop=lambda: len(sizes) == 2)) == []
    assert sizes == [3, 3]


def test_a_batch_needs_room() -> None:
    with pytest.raises(ValueError, match="width: got 0"):
        list(rollouts(TASK, circles, STARTS, width=0))
