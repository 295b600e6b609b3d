"""Ways round the T keep clear of it, are as long as promised, and are walked at the speed allowed."""

from __future__ import annotations

import numpy as np
import pytest

from dp_ros.sim.pusht import AGENT_RADIUS_PX
from dp_ros.sim.pusht_paths import Ways, outside_px, timed_points, visible
from dp_ros.sim.pusht_push_model import T_BOXES, push_table, to_block, to_world

POSE = np.array([256.0, 230.0, 0.8])


def gap_to_block(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - np.clip(points[:, None], *T_BOXES.swapaxes(0, 1)), axis=2).min(
        axis=1
    )


def along(way: np.ndarray) -> np.ndarray:
    shares = np.linspace(0.0, 1.0, 60)[:, None]
    return np.concatenate([a + (b - a) * shares for a, b in zip(way[:-1], way[1:], strict=True)])


@pytest.mark.parametrize("index", range(0, 190, 19))
def test_a_way_leads_from_the_agent_to_its_end_and_keeps_clear_of_the_block(index: int) -> None:
    ways = Ways(push_table().standoff)
    for agent in ([60.0, 60.0], [450.0, 300.0], [250.0, 450.0]):
        way = ways.points(np.array(agent), POSE, index)
        assert way[0] == pytest.approx(agent)
        assert to_block(way[-1], POSE) == pytest.approx(push_table().standoff[index])
        assert gap_to_block(to_block(along(way), POSE)).min() > AGENT_RADIUS_PX + 3.0


@pytest.mark.parametrize("index", range(0, 190, 19))
def test_the_length_is_that_of_the_way_where_no_wall_is_near(index: int) -> None:
    ways = Ways(push_table().standoff)
    agent = np.array([380.0, 130.0])
    way = ways.points(agent, POSE, index)
    length = ways.lengths(to_block(agent, POSE)[None], POSE[None])[0, index]
    assert outside_px(way).sum() == 0.0
    assert length == pytest.approx(np.linalg.norm(np.diff(way, axis=0), axis=1).sum())


def test_an_agent_that_touches_the_block_steps_away_from_it_first() -> None:
    ways = Ways(push_table().standoff)
    touching = np.array([20.0, -AGENT_RADIUS_PX])  # above the bar
    way = to_block(ways.points(to_world(touching, POSE), POSE, 100), POSE)
    assert way[1] == pytest.approx([20.0, -20.5])


def test_a_way_goes_round_the_side_that_is_not_behind_the_wall() -> None:
    pose = np.array([256.0, 20.0, 0.0])  # no room between its bar and the upper wall
    ways = Ways(np.array([[-90.0, 15.0]]))
    way = ways.points(np.array([400.0, 35.0]), pose, 0)
    assert outside_px(way).sum() == 0.0
    assert way[:, 1].max() > 140.0, "below the stem, though above the bar is shorter"


def test_segments_through_a_box_are_not_visible() -> None:
    starts = np.array([[-100.0, 15.0], [-100.0, -50.0], [0.0, -50.0]])
    ends = np.array([[100.0, 15.0], [100.0, -50.0], [0.0, -30.0]])
    assert visible(starts, ends).tolist() == [False, True, True]


def test_timed_points_keep_to_speed_and_acceleration_and_end_at_the_end() -> None:
    way = np.array([[0.0, 0.0], [200.0, 0.0], [200.0, 150.0]])
    points = timed_points(way, np.array([15.0, 6.0]), 4.0)
    steps = np.diff(np.vstack([way[:1], points]), axis=0)
    speed = np.linalg.norm(steps, axis=1)
    assert points[-1] == pytest.approx(way[-1])
    assert 14.0 < speed.max() <= 15.0 + 1e-6
    assert speed[points[:, 1] > 6.0].max() <= 6.0 + 1e-6
    assert np.abs(np.diff(speed)).max() <= 4.0 * 1.15  # steps cut the corner, hence the margin
    assert speed[0] <= 4.0 and speed[-1] <= 4.0


def test_a_way_of_no_length_is_a_single_point() -> None:
    here = np.array([[5.0, 6.0], [5.0, 6.0]])
    assert timed_points(here, np.array([15.0]), 4.0).tolist() == [[5.0, 6.0]]
