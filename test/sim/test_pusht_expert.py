"""The scripted operator solves PushT, smoothly and the same way every time."""

from __future__ import annotations

import numpy as np
import pytest

from dp_ros.errors import UserError
from dp_ros.sim.pusht import GOAL_POSE, MAX_STEPS, PushT
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
    slow = sum(len(episode(seed, PushTExpert())[1]) for seed in (1, 2))
    fast = sum(
        len(episode(seed, PushTExpert(push_px_per_step=push, travel_px_per_step=travel))[1])
        for seed in (1, 2)
    )
    assert fast < 0.85 * slow


def test_it_can_be_asked_at_a_state_it_did_not_lead_to() -> None:
    expert, world = PushTExpert(), PushT()
    expert.reset(0)
    for seed in (3, 4, 5):
        world.reset(seed)
        target = expert.act(world.state)
        assert np.linalg.norm(target - world.agent_pos) < 30.0, "it starts from where the agent is"


def test_it_holds_still_once_the_block_is_on_its_goal() -> None:
    expert = PushTExpert()
    assert expert.act([100.0, 120.0, *GOAL_POSE]).tolist() == [100.0, 120.0]
    moved = expert.act([100.0, 120.0, GOAL_POSE[0] + 40.0, *GOAL_POSE[1:]])
    assert moved.tolist() != [100.0, 120.0], "and moves on when somebody takes it away"


def test_it_plans_anew_when_the_block_is_moved_by_hand() -> None:
    moved, fresh, world = PushTExpert(), PushTExpert(), PushT()
    world.reset(3)
    moved.act(world.state)
    world.reset(state=[*world.agent_pos, 150.0, 150.0, 2.0], legacy=False)
    assert moved.act(world.state) == pytest.approx(fresh.act(world.state), abs=1.0)


@pytest.mark.parametrize("state", [[1.0, 2.0], [1.0, 2.0, 3.0, 4.0, np.nan]])
def test_a_bad_state_is_refused(state: list[float]) -> None:
    with pytest.raises(UserError, match="5 finite numbers"):
        PushTExpert().act(state)


@pytest.mark.parametrize(("push", "travel"), [(0.0, 5.0), (8.0, 5.0), (5.0, np.inf)])
def test_speeds_that_make_no_sense_are_refused(push: float, travel: float) -> None:
    with pytest.raises(UserError, match="0 < push <= travel"):
        PushTExpert(push_px_per_step=push, travel_px_per_step=travel)
