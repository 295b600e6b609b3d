"""The scripted operator solves PushT, smoothly and the same way every time."""

from __future__ import annotations

import numpy as np
import pytest

from dp_ros.sim.pusht import MAX_STEPS, PushT
from dp_ros.sim.pusht_expert import FAST_PX_PER_STEP, SMOOTH_PX_PER_STEP, PushTExpert


def episode(seed: int, expert: PushTExpert, noise_px: float = 0.0) -> tuple[PushT, np.ndarray]:
    world, draw = PushT(), np.random.default_rng(seed)
    world.reset(seed)
    expert.reset(seed)
    targets = []
    for _ in range(MAX_STEPS):
        targets.append(expert.act(world.state))
        if world.step(targets[-1] + noise_px * draw.standard_normal(2)).done:
            break
    return world, np.array(targets)


@pytest.mark.parametrize("seed", [100000, 100017, 100031, 7, 8])
def test_it_solves_start_states_of_the_paper_and_others(seed: int) -> None:
    world, _ = episode(seed, PushTExpert())
    assert world.success
    assert world.score == 1.0


@pytest.mark.parametrize("seed", [100002, 12])
def test_it_recovers_from_noise_on_what_is_executed(seed: int) -> None:
    assert episode(seed, PushTExpert(), noise_px=3.0)[0].success


def test_the_same_seed_gives_the_same_motion() -> None:
    first, again = (episode(100005, PushTExpert())[1] for _ in range(2))
    assert np.array_equal(first, again)


def test_it_keeps_to_its_speed_and_moves_smoothly() -> None:
    push, travel = SMOOTH_PX_PER_STEP
    world, targets = episode(100009, PushTExpert(push_px_per_step=push, travel_px_per_step=travel))
    assert world.success
    step = np.diff(targets, axis=0)
    assert np.linalg.norm(step, axis=1).max() <= travel + 2.0
    assert np.linalg.norm(np.diff(step, axis=0), axis=1).mean() < 3.0


def test_fast_is_faster() -> None:
    push, travel = FAST_PX_PER_STEP
    slow = sum(len(episode(seed, PushTExpert())[1]) for seed in (1, 2, 3))
    fast = sum(
        len(episode(seed, PushTExpert(push_px_per_step=push, travel_px_per_step=travel))[1])
        for seed in (1, 2, 3)
    )
    assert fast < 0.85 * slow


def test_it_can_be_asked_at_a_state_it_did_not_lead_to() -> None:
    expert, world = PushTExpert(), PushT()
    expert.reset(0)
    for seed in (3, 4, 5):
        world.reset(seed)
        target = expert.act(world.state)
        assert np.linalg.norm(target - world.agent_pos) < 30.0, "it starts from where the agent is"
