"""Pictures of the PushT world, drawn without a window.

They look as those of the reference environment (Diffusion Policy, `pusht_env.py`): drawn on a 512 x 512
canvas in whole pixels and scaled from there, so that a policy trained on one kind of picture can be shown the
other. Easy to get wrong: the scaling is plain bilinear and not area averaging; small pictures have hard,
slightly ragged edges.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dp_ros.errors import UserError
from dp_ros.sim.pusht import (
    AGENT_RADIUS_PX,
    BAR_BOX,
    GOAL_POSE,
    STEM_BOX,
    WALL_MAX_PX,
    WALL_MIN_PX,
    WALL_RADIUS_PX,
    WORLD_SIZE_PX,
    transform_points,
)

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

MIN_SIZE_PX = 16
BACKGROUND: Colour = (255, 255, 255)
GOAL_COLOUR: Colour = (144, 238, 144)  # light green
BLOCK_COLOUR: Colour = (119, 136, 153)  # light slate grey
AGENT_COLOUR: Colour = (65, 105, 225)  # royal blue
WALL_COLOUR: Colour = (211, 211, 211)  # light grey
_BOXES = tuple(np.array(box, dtype=np.float64) for box in (BAR_BOX, STEM_BOX))
_OUTLINE_PX = 2
_AGENT_RIM_PX = 4


def render(
    state: ArrayLike,
    size_px: int,
    *,
    goal_pose: tuple[float, float, float] = GOAL_POSE,
) -> Picture:
    """Draw a state of the world.

    Args:
        state: (5,) agent x, y, block x, y [px] and block angle [rad].
        size_px: height and width of the picture, at least 16.
        goal_pose: x, y [px] and angle [rad] of the goal.

    Returns:
        RGB picture (size_px, size_px, 3).

    Raises:
        UserError: if the size is too small or the state is not five finite numbers.
    """
    if size_px < MIN_SIZE_PX:
        raise UserError(f"picture size: got {size_px} px, expected at least {MIN_SIZE_PX}")
    values = np.asarray(state, dtype=np.float64)
    if values.shape != (5,) or not np.isfinite(values).all():
        raise UserError(f"PushT state: got {values.tolist()}, expected 5 finite numbers")
    canvas = _empty_world(goal_pose).copy()
    for box in _BOXES:
        corners = _whole(transform_points(box, values[2:]))
        cv2.fillPoly(canvas, [corners], _light(BLOCK_COLOUR))
        _outline(canvas, corners)
    for radius_px, colour in (
        (AGENT_RADIUS_PX, AGENT_COLOUR),
        (AGENT_RADIUS_PX - _AGENT_RIM_PX, _light(AGENT_COLOUR)),
    ):
        _disc(canvas, _whole(values[:2]), radius_px, colour)
    picture: Picture = canvas
    if size_px != WORLD_SIZE_PX:
        picture = cv2.resize(canvas, (size_px, size_px), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    return picture


def draw_plan(picture: Picture, positions: ArrayLike) -> None:
    """Draw commanded positions (n, 2) [px of the world] as a line that turns from yellow to red, in place."""
    size_px = picture.shape[0]
    points = _scaled(np.asarray(positions, dtype=np.float64), size_px)
    width = max(size_px // 160, 1)
    for index, (start, end) in enumerate(zip(points[:-1], points[1:], strict=True)):
        share = index / max(len(points) - 2, 1)
        colour = (255, round(190 * (1.0 - share)), 0)
        cv2.line(picture, tuple(start.tolist()), tuple(end.tolist()), colour, width, cv2.LINE_AA)


def contact_sheet(frames: Sequence[Picture], columns: int, captions: Sequence[str]) -> Picture:
    """Arrange pictures of one size in a grid, each with a caption under it.

    Args:
        frames: RGB pictures (h, w, 3).
        columns: of the grid.
        captions: one for each picture.

    Returns:
        RGB picture; empty places are white.

    Raises:
        UserError: if there is no picture, or not one caption for each.
    """
    if not len(frames) or len(captions) != len(frames) or columns < 1:
        raise UserError(
            f"contact sheet: got {len(frames)} pictures, {len(captions)} captions, {columns} columns"
        )
    height, width = frames[0].shape[:2]
    caption_px, gap_px = 18, 4
    rows = -(-len(frames) // columns)
    columns = min(columns, len(frames))
    cell_h, cell_w = height + caption_px + gap_px, width + gap_px
    sheet = np.full((rows * cell_h + gap_px, columns * cell_w + gap_px, 3), 255, dtype=np.uint8)
    for index, (frame, caption) in enumerate(zip(frames, captions, strict=True)):
        top = gap_px + (index // columns) * cell_h
        left = gap_px + (index % columns) * cell_w
        sheet[top : top + height, left : left + width] = frame
        corner, other = (left, top), (left + width - 1, top + height - 1)
        cv2.rectangle(sheet, corner, other, (200, 200, 200), 1)
        place = (left + 2, top + height + caption_px - 5)
        cv2.putText(sheet, caption, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (60, 60, 60), 1, cv2.LINE_AA)
    return sheet


@functools.lru_cache(maxsize=4)
def _empty_world(goal_pose: tuple[float, float, float]) -> Picture:
    """Canvas with the goal and the walls."""
    canvas = np.full((WORLD_SIZE_PX, WORLD_SIZE_PX, 3), BACKGROUND, dtype=np.uint8)
    low, high = round(WALL_MIN_PX), round(WALL_MAX_PX)
    rim = round(WALL_RADIUS_PX)
    canvas[low - rim : high + rim + 1, low - rim : high + rim + 1] = WALL_COLOUR
    canvas[low + rim + 1 : high - rim, low + rim + 1 : high - rim] = BACKGROUND
    for box in _BOXES:
        cv2.fillPoly(canvas, [_whole(transform_points(box, goal_pose))], GOAL_COLOUR)
    canvas.setflags(write=False)
    return canvas


def _disc(canvas: Picture, centre: NDArray[np.int32], radius_px: float, colour: Colour) -> None:
    """Fill a disc whose width is twice its radius: its middle lies between two pixels, hence the halves."""
    one, half = 16, 8  # cv2 takes fractions as sixteenths with shift=4
    x, y = (int(c) * one - half for c in centre)
    cv2.circle(canvas, (x, y), round(radius_px * one) - half, colour, cv2.FILLED, cv2.LINE_8, 4)


def _outline(canvas: Picture, corners: NDArray[np.int32]) -> None:
    cv2.polylines(canvas, [corners], isClosed=True, color=BLOCK_COLOUR, thickness=2 * _OUTLINE_PX)


def _whole(points: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.round(points).astype(np.int32)


def _scaled(points: NDArray[np.float64], size_px: int) -> NDArray[np.int32]:
    return np.floor(points * (size_px / WORLD_SIZE_PX)).astype(np.int32)


def _light(colour: Colour) -> Colour:
    """The lighter inside of a shape whose rim has `colour`."""
    r, g, b = (min(int(1.2 * c), 255) for c in colour)
    return r, g, b
