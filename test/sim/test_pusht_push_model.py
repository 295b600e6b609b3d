"""Predicted pushes agree with the physics, and the table of pushes with itself."""

from __future__ import annotations

import numpy as np
import pytest

from dp_ros.sim.pusht import AGENT_RADIUS_PX, GOAL_POSE, PushT
from dp_ros.sim.pusht_push_model import (
    T_BOXES,
    T_OUTLINE,
    distance_weights,
    pose_distance_px,
    push_table,
    simulate_pushes,
    to_block,
    to_world,
)


@pytest.mark.parametrize("primitive", range(3, 190, 17))
def test_a_long_push_ends_within_two_pixels_of_where_the_physics_takes_the_block(primitive: int) -> None:
    table, world = push_table(), PushT()
    length = len(table.length_px) - 12
    start_pose = np.array([256.0, 256.0, 0.3 * primitive])
    start = to_world(table.standoff[primitive], start_pose)
    world.reset(state=[*start, *start_pose], legacy=False)
    motion = to_world(table.agent_after(np.intp(primitive), np.intp(length)), start_pose) - start
    for step in range(26):
        world.step(start + motion * min(step / 18, 1.0))
    relative = table.pose[primitive, length]
    predicted = np.array([*to_world(relative[:2], start_pose), start_pose[2] + relative[2]])
    assert pose_distance_px(start_pose, world.block_pose) > 5.0, "it was a push"
    assert pose_distance_px(predicted, world.block_pose) < 2.0


def test_a_push_through_the_centre_of_mass_moves_the_block_straight() -> None:
    # the bar's upper edge is at y = 0; the agent starts touching it and goes 20 px down
    poses = simulate_pushes(np.array([[0.0, -AGENT_RADIUS_PX]]), np.array([[0.0, 1.0]]), 20.0)
    assert poses[-1, 0] == pytest.approx([0.0, 20.0, 0.0], abs=1e-9)


def test_a_push_at_the_bars_right_end_turns_the_block_clockwise_on_the_screen() -> None:
    poses = simulate_pushes(np.array([[50.0, -AGENT_RADIUS_PX]]), np.array([[0.0, 1.0]]), 20.0)
    assert poses[-1, 0, 2] > 0.1


def test_an_agent_that_touches_nothing_moves_nothing() -> None:
    assert not simulate_pushes(np.array([[0.0, -200.0]]), np.array([[0.0, 1.0]]), 100.0).any()


def test_every_push_of_the_table_starts_clear_of_the_block() -> None:
    standoff = push_table().standoff[:, None]
    gap = np.linalg.norm(standoff - np.clip(standoff, T_BOXES[:, 0], T_BOXES[:, 1]), axis=2).min(axis=1)
    assert gap.min() > AGENT_RADIUS_PX


def test_features_times_weights_are_squared_distances_to_the_goal() -> None:
    table = push_table()
    poses = np.array([[200.0, 300.0, 1.0], [330.0, 100.0, -2.0]])
    squares = table.features @ distance_weights(poses, np.array(GOAL_POSE))
    for column, pose in enumerate(poses):
        after = np.concatenate([to_world(table.pose[..., :2], pose), pose[2] + table.pose[..., 2:]], axis=2)
        expected = pose_distance_px(after, np.array(GOAL_POSE)) ** 2
        np.testing.assert_allclose(squares[..., column], expected, rtol=1e-9, atol=1e-6)


def test_the_distance_of_two_poses_is_that_of_their_corners() -> None:
    first, second = np.array([200.0, 300.0, 1.0]), np.array([210.0, 280.0, 1.7])
    corners = to_world(T_OUTLINE, first) - to_world(T_OUTLINE, second)
    assert pose_distance_px(first, second) == pytest.approx(np.sqrt((corners**2).sum(axis=1).mean()))


def test_going_to_the_blocks_frame_and_back_changes_nothing() -> None:
    pose = np.array([200.0, 300.0, 1.0])
    np.testing.assert_allclose(to_block(to_world(T_OUTLINE, pose), pose), T_OUTLINE, atol=1e-9)
