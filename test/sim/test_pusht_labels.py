"""The expert takes over from a policy, and only what it did is a demonstration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from dp_ros.runtime.execution import InferenceRequest
from dp_ros.sim.pusht import PushT
from dp_ros.sim.pusht_labels import Label, TakeoverRule, label_episodes
from dp_ros.sim.pusht_rollout import observe
from dp_ros.task import load_task

TASK = load_task("pusht_state")
SEEDS = [500_000, 500_003]


def wander(requests: Sequence[InferenceRequest]) -> np.ndarray:
    """A policy that leads the agent in circles about the middle."""
    angle = np.array([[0.3 * (r.step + i) for i in range(TASK.horizon)] for r in requests])
    return (256.0 + 150.0 * np.stack([np.cos(angle), np.sin(angle)], axis=-1)).astype(np.float32)


def stand(requests: Sequence[InferenceRequest]) -> np.ndarray:
    """A policy that stays where it is."""
    here = [r.window.observations["agent_pos"][-1] for r in requests]
    return np.repeat(np.array(here, np.float32)[:, None], TASK.horizon, axis=1)


def labels(policy, rule: TakeoverRule, seeds: Sequence[int] = SEEDS) -> dict[int, Label]:  # type: ignore[no-untyped-def]
    return {label.seed: label for label in label_episodes(TASK, policy, seeds, rule)}


def test_the_experts_part_begins_where_the_policy_was_and_ends_on_the_goal() -> None:
    found = labels(wander, TakeoverRule(earliest=20, latest=20))
    assert set(found) == set(SEEDS)
    for seed, label in found.items():
        assert (label.outcome, label.stuck, label.policy_steps) == ("labelled", False, 20)
        world = PushT()
        world.reset(seed)
        start = observe(TASK, world)
        assert not np.allclose(label.steps[0]["agent_pos"], start["agent_pos"], atol=5.0)
        assert np.hypot(*(label.steps[0]["agent_pos"] - 256.0)) < 220.0
        assert [row["timestamp"] for row in label.steps[:3]] == pytest.approx([0.0, 0.1, 0.2])
        assert set(label.steps[0]) == {"keypoint", "agent_pos", "action", "timestamp"}
        assert np.ptp([row["keypoint"] for row in label.steps], axis=0).max() > 10.0, "the expert moved the T"


def test_the_time_of_the_takeover_is_drawn_from_the_seed() -> None:
    rule = TakeoverRule(earliest=5, latest=60, patience=100)
    first = labels(wander, rule, range(500_000, 500_006))
    steps = [label.policy_steps for label in first.values()]
    assert len(set(steps)) > 3
    assert all(5 <= n <= 60 for n in steps)
    again = labels(wander, rule, [500_002])
    assert again[500_002].policy_steps == first[500_002].policy_steps
    assert np.array_equal(
        [row["action"] for row in again[500_002].steps], [row["action"] for row in first[500_002].steps]
    )


def test_the_expert_comes_early_where_the_policy_is_stuck() -> None:
    (label,) = labels(stand, TakeoverRule(earliest=5, latest=200, patience=15), [500_000]).values()
    assert label.stuck
    assert label.policy_steps == 15
    assert label.outcome == "labelled"


def test_the_policy_infers_as_often_as_is_said() -> None:
    steps: list[int] = []

    def count(requests: Sequence[InferenceRequest]) -> np.ndarray:
        steps.append(requests[0].step)
        return wander(requests)

    list(label_episodes(TASK, count, SEEDS[:1], TakeoverRule(earliest=12, latest=12), infer_every=4))
    assert steps == [0, 4, 8]


def test_each_latency_has_its_turn() -> None:
    """With 400 ms the policy leads the agent nowhere before that time."""
    rule = TakeoverRule(earliest=3, latest=3)
    found = {
        label.seed: label
        for label in label_episodes(
            TASK, wander, [500_000, 500_001, 500_002], rule, latencies_ms=(0.0, 400.0)
        )
    }
    for seed, moved in ((500_000, True), (500_001, False), (500_002, True)):
        world = PushT()
        world.reset(seed)
        way = np.hypot(*(found[seed].steps[0]["agent_pos"] - world.agent_pos))
        assert (way > 1.0) == moved


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"earliest": 30, "latest": 20}, "takeover from step 30 to 20"),
        ({"earliest": -1}, "takeover from step -1"),
        ({"latest": 300}, "from 0 to 299"),
        ({"patience": 0}, "patience: got 0"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(rule: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TakeoverRule(**rule)
