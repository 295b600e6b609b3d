"""The PushT world against numbers recorded from the reference environment, and its behaviour at the edges."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from dp_ros.errors import UserError
from dp_ros.sim.pusht import (
    BAR_BOX,
    BLOCK_KEYPOINTS,
    GOAL_POSE,
    STEM_BOX,
    SUCCESS_COVERAGE,
    PushT,
    keypoints_of,
    start_state,
)

# Recorded from real-stanford/diffusion_policy (pusht_env.py) with pymunk 6.11.1 and shapely 2.2.0. The reference walks
# over a set of shapes to compute coverage, so the last bit of its reward changes from run to run; the recording fixes
# the order bar, stem. JSON keeps Python floats exactly.
EPISODES = json.loads((Path(__file__).parent / "data" / "reference_episodes.json").read_text())

# Keypoint observation of the reference (pusht_keypoints_env.py) after the legacy reset with seed 100000.
KEYPOINTS_OF_SEED_100000 = [
    [376.145678077495, 193.53415245988344],
    [261.00757252210803, 192.42469005040508],
    [336.1455781701046, 96.44024760544426],
    [319.53278795757126, 161.19368591736622],
    [387.5043506832692, 232.13055395824455],
    [349.5449566655666, 134.828014500007],
    [300.6618836696552, 196.84888685690527],
    [338.6541373841943, 197.26518091805377],
    [312.8183768393392, 125.63869828805649],
]


@pytest.mark.parametrize("episode", EPISODES, ids=lambda episode: episode["name"])
def test_states_and_rewards_equal_the_reference_to_the_last_bit(episode):
    world = PushT()
    world.reset(episode.get("seed"), state=episode.get("state"), legacy=episode["legacy"])
    assert world.state.tolist() == episode["start"]
    for step in episode["steps"]:
        result = world.step(step["action"])
        assert world.state.tolist() == step["state"]
        assert world.agent_vel.tolist() == step["agent_vel"]
        assert result.reward == step["reward"]
        assert result.done == step["done"]
    assert world.steps == len(episode["steps"])
    assert world.score == max(step["reward"] for step in episode["steps"])


def test_the_recording_covers_contact_success_and_both_reset_orders():
    steps = [step for episode in EPISODES for step in episode["steps"]]
    assert len(steps) >= 100
    assert {episode["legacy"] for episode in EPISODES} == {True, False}
    assert {step["done"] for step in steps} == {True, False}
    assert any(0 < step["reward"] < 1 for step in steps)


def test_a_reset_forgets_everything_that_happened_before():
    world, fresh = PushT(), PushT()
    world.reset(5)
    for _ in range(10):
        world.step((256, 256))
    world.reset(6)
    fresh.reset(6)
    assert (world.steps, world.score) == (0, 0.0)
    for target in ((100, 100), (400, 300), (250, 250)):
        assert world.step(target) == fresh.step(target)
        assert world.state.tolist() == fresh.state.tolist()


def test_a_reset_without_legacy_puts_the_world_where_the_state_says():
    state = [100.0, 110.0, 300.0, 250.0, 2.0]
    world = PushT()
    world.reset(state=state, legacy=False)
    assert world.state == pytest.approx(state, abs=1e-9)
    world.reset(state=state, legacy=True)
    assert np.abs(world.state - state).max() > 10


def test_the_t_on_its_goal_is_a_success():
    world = PushT()
    world.reset(state=[50, 50, *GOAL_POSE], legacy=False)
    assert world.coverage() == pytest.approx(1.0)
    assert world.reward == 1.0
    assert world.success
    assert world.score == 0.0, "the score counts steps, not the start"
    assert world.step((50, 50)).done
    assert world.score == 1.0


def test_coverage_falls_linearly_with_a_shift_along_the_bar():
    # shifted by d: the bar keeps 120 - d of 120 and the stem 30 - d of 30, of 6300 px^2 together
    shift = 4.0
    world = PushT()
    along_bar = math.cos(GOAL_POSE[2]) * shift, math.sin(GOAL_POSE[2]) * shift
    world.reset(
        state=[50, 50, GOAL_POSE[0] + along_bar[0], GOAL_POSE[1] + along_bar[1], GOAL_POSE[2]], legacy=False
    )
    expected = ((120 - shift) * 30 + (30 - shift) * 90) / 6300
    assert world.coverage() == pytest.approx(expected, abs=1e-9)
    assert world.reward == pytest.approx(expected / SUCCESS_COVERAGE)


def test_the_score_is_the_highest_reward_so_far():
    world = PushT()
    world.reset(state=[256, 420, 262, 256, math.pi / 4], legacy=False)
    rewards = [world.step((256, 420 - 12 * k)).reward for k in range(25)]
    assert max(rewards) > rewards[-1]
    assert world.score == max(rewards)


def test_the_agent_reaches_a_free_target_and_stops_there():
    world = PushT()
    world.reset(state=[60, 60, 300, 300, 0], legacy=False)
    for _ in range(30):
        world.step((90, 120))
    assert world.agent_pos == pytest.approx([90, 120], abs=0.01)
    assert world.agent_vel == pytest.approx([0, 0], abs=0.01)


def test_keypoints_lie_on_the_t_and_move_with_it():
    lows, highs = np.min([*BAR_BOX, *STEM_BOX], axis=0), np.max([*BAR_BOX, *STEM_BOX], axis=0)
    assert BLOCK_KEYPOINTS.shape == (9, 2)
    assert (BLOCK_KEYPOINTS > lows - 3).all() and (BLOCK_KEYPOINTS < highs + 3).all()
    world = PushT()
    world.reset(100003)
    pose = world.block_pose
    by_hand = [
        (
            pose[0] + math.cos(pose[2]) * x - math.sin(pose[2]) * y,
            pose[1] + math.sin(pose[2]) * x + math.cos(pose[2]) * y,
        )
        for x, y in BLOCK_KEYPOINTS
    ]
    np.testing.assert_allclose(world.keypoints, by_hand, atol=1e-9)
    np.testing.assert_array_equal(keypoints_of(pose), world.keypoints)


def test_keypoints_equal_the_reference_observation():
    world = PushT()
    world.reset(100000)
    np.testing.assert_allclose(world.keypoints, KEYPOINTS_OF_SEED_100000, atol=1e-9)


def test_start_states_of_the_first_paper_seed():
    assert start_state(100000)[:4].tolist() == [235, 124, 335, 128]


def test_without_a_seed_a_random_one_is_drawn_and_told():
    world = PushT()
    world.reset()
    first = world.state
    world.reset(world.seed)
    assert world.state.tolist() == first.tolist()


@pytest.mark.parametrize(
    "action", [[1.0], [1.0, 2.0, 3.0], [[1.0, 2.0]], [math.nan, 1.0], [1.0, math.inf], "ab", None, ["a", "b"]]
)
def test_a_bad_action_is_refused_and_moves_nothing(action):
    world = PushT()
    world.reset(1)
    before = world.state.tolist()
    with pytest.raises(UserError, match="PushT action"):
        world.step(action)
    assert world.state.tolist() == before
    assert world.steps == 0


@pytest.mark.parametrize("state", [[1, 2, 3], [1, 2, 3, 4, math.nan], np.zeros((5, 1))])
def test_a_bad_start_state_is_refused(state):
    with pytest.raises(UserError, match="start state"):
        PushT().reset(state=state)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(UserError, match="out of range"):
        PushT().reset(seed)


def test_a_seed_and_a_state_together_are_refused():
    with pytest.raises(UserError, match="not both"):
        PushT().reset(3, state=[1, 2, 3, 4, 5])
