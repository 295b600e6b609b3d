"""The planner's next push brings the block nearer to its goal, as it predicts."""

from __future__ import annotations

import numpy as np
import pytest

from dp_ros.sim.pusht import GOAL_POSE, PushT
from dp_ros.sim.pusht_plan import DUPLICATE_PX, NEEDED_GAIN, Push, _distinct, plan_push
from dp_ros.sim.pusht_push_model import pose_distance_px, push_table

GOAL = np.array(GOAL_POSE)


def plan(agent: np.ndarray, pose: np.ndarray, jitter: np.ndarray | None = None) -> Push:
    return plan_push(agent, pose, GOAL, push_px_per_step=6.0, travel_px_per_step=15.0, jitter=jitter)


@pytest.mark.parametrize("seed", range(8))
def test_a_plan_ends_nearer_to_the_goal(seed: int) -> None:
    world = PushT()
    world.reset(seed)
    push = plan(world.agent_pos, world.block_pose)
    assert push.distance_px < NEEDED_GAIN * pose_distance_px(world.block_pose, GOAL)
    assert push.way[0] == pytest.approx(world.agent_pos)
    assert len(push.block_poses) == len(push.length_px)


def test_a_block_one_straight_push_away_gets_that_push() -> None:
    # shifted 40 px back along the stem: push on the bar's long side, through the centre of mass
    back = np.array([np.sin(GOAL[2]), -np.cos(GOAL[2])]) * 40.0
    pose = np.array([*(GOAL[:2] + back), GOAL[2]])
    push = plan(np.array([400.0, 60.0]), pose)
    assert pose_distance_px(push.block_poses[-1], GOAL) < 3.0


def test_the_agents_push_stays_inside_the_walls_where_it_can() -> None:
    for seed in range(8):
        world = PushT()
        world.reset(seed)
        way = plan(world.agent_pos, world.block_pose).way
        assert way.min() > 0.0 and way.max() < 512.0


def test_jitter_makes_another_push_win() -> None:
    world = PushT()
    world.reset(1)
    agent, pose = world.agent_pos, world.block_pose
    first = plan(agent, pose)
    table = push_table()
    jitter = np.zeros(len(table.standoff))
    again = plan(agent, pose, jitter)
    np.testing.assert_array_equal(first.way, again.way)
    start = np.linalg.norm(
        [
            plan(agent, pose, jitter + 50.0 * (np.arange(len(jitter)) % 2 == parity)).way[-2]
            for parity in (0, 1)
        ],
        axis=1,
    )
    assert start[0] != start[1]


def test_the_beam_keeps_no_two_poses_that_are_nearly_the_same() -> None:
    pose = np.array([[100.0, 100.0, 0.0], [101.0, 100.0, 0.0], [140.0, 100.0, 0.0], [100.0, 100.0, 0.5]])
    assert DUPLICATE_PX > 1.0
    assert _distinct(pose, np.array([1, 0, 3, 2])).tolist() == [1, 3, 2]
