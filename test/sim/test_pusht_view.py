"""Pictures look as those of the reference environment, at any size, without a window."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from dp_ros.errors import UserError
from dp_ros.sim.pusht import GOAL_POSE, PushT, transform_points
from dp_ros.sim.pusht_view import contact_sheet, draw_plan, render

DATA = Path(__file__).parent / "data"
REFERENCE = json.loads((DATA / "reference_pictures.json").read_text())
AGENT_BLUE = (78, 126, 255)
STATE = [100.0, 400.0, 256.0, 200.0, 0.5]


@pytest.mark.parametrize("name", REFERENCE)
def test_a_picture_differs_from_the_references_by_less_than_three_of_255(name: str) -> None:
    reference = cv2.cvtColor(cv2.imread(str(DATA / name)), cv2.COLOR_BGR2RGB)
    drawn = render(REFERENCE[name], 96)
    difference = np.abs(drawn.astype(float) - reference)
    assert difference.mean() < 1.0
    # The goal and everything that moves is where it should be, not only the white background.
    coloured = (reference < 250).any(axis=2)
    assert difference[coloured].mean() < 5.0


@pytest.mark.parametrize("size", [16, 96, 240, 480, 512, 1024])
def test_any_size_shows_the_same_world(size: int) -> None:
    picture = render(STATE, size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8
    x, y = (int(c * size / 512) for c in STATE[:2])
    assert np.abs(picture[y, x].astype(int) - AGENT_BLUE).max() < (8 if size > 16 else 40)


def test_the_keypoints_of_the_block_lie_on_its_picture() -> None:
    world = PushT()
    world.reset(100003)
    with_block = render(world.state, 512).astype(int)
    elsewhere = world.state.copy()
    elsewhere[2:4] += 1000.0
    without = render(elsewhere, 512).astype(int)
    block = np.abs(with_block - without).sum(axis=2) > 0
    grown = cv2.dilate(block.astype(np.uint8), np.ones((7, 7), np.uint8))
    assert all(grown[int(y), int(x)] for x, y in world.keypoints)


def test_a_plan_is_drawn_on_top_from_its_first_position_to_its_last() -> None:
    plain = render(STATE, 512)
    planned = plain.copy()
    draw_plan(planned, [[100.0, 100.0], [150.0, 100.0], [200.0, 100.0]])
    changed = (planned != plain).any(axis=2)
    assert changed[100, 100:201].all()
    assert not changed[:90].any()


def test_a_contact_sheet_holds_every_frame_in_reading_order() -> None:
    frames = [np.full((20, 30, 3), 10 * i, np.uint8) for i in range(5)]
    sheet = contact_sheet(frames, columns=3, captions=[str(i) for i in range(5)])
    centres = [(4 + row * 42 + 10, 4 + column * 34 + 15) for row in range(2) for column in range(3)]
    assert [int(sheet[y, x, 0]) for y, x in centres] == [0, 10, 20, 30, 40, 255]


def test_bad_input_says_what_was_given() -> None:
    with pytest.raises(UserError, match=r"got 8 px, expected at least 16"):
        render(STATE, 8)
    with pytest.raises(UserError, match="expected 5 finite numbers"):
        render([1.0, 2.0], 96)
    with pytest.raises(UserError, match="1 pictures, 2 captions"):
        contact_sheet([np.zeros((4, 4, 3), np.uint8)], 1, ["a", "b"])


def test_everything_has_the_references_colour() -> None:
    picture = render(STATE, 512)
    bar_middle = transform_points(np.array([[-40.0, 15.0]]), STATE[2:])[0]
    goal_middle = transform_points(np.array([[0.0, 100.0]]), GOAL_POSE)[0]
    for (x, y), colour in (
        ((5, 256), (211, 211, 211)),
        ((50, 50), (255, 255, 255)),
        (goal_middle, (144, 238, 144)),
        (bar_middle, (142, 163, 183)),
        (STATE[:2], AGENT_BLUE),
    ):
        # the lighter colours are 1.2 times a whole number, and roundings differ by one
        assert np.abs(picture[round(y), round(x)].astype(int) - colour).max() <= 1
