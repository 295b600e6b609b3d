"""Shortest ways round the T for the agent, and how fast to go along them.

In the T's own frame the two boxes of the T, grown by the clearance, stay axis-aligned boxes; the shortest way
between two points outside them runs over their six outer corners (a visibility graph). Easy to get wrong:
after a push the agent touches the T and so stands inside the grown boxes; the way starts with the shortest
step out of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dp_ros.sim.pusht_push_model import CLEARANCE_PX, T_BOXES, to_block, to_world

Floats = NDArray[np.float64]

ARENA_MIN_PX = 12.0  # the agent's centre keeps to this square where it can
ARENA_MAX_PX = 500.0
_OUTSIDE_COST = 20.0  # px of detour that a px outside the square is worth

_LOW: Floats = T_BOXES[:, 0] - CLEARANCE_PX
_HIGH: Floats = T_BOXES[:, 1] + CLEARANCE_PX
_OUT = 0.5  # way points lie this far outside the grown boxes
CORNERS: Floats = np.array(
    [
        (_LOW[0, 0] - _OUT, _LOW[0, 1] - _OUT),
        (_HIGH[0, 0] + _OUT, _LOW[0, 1] - _OUT),
        (_HIGH[0, 0] + _OUT, _HIGH[0, 1] + _OUT),
        (_HIGH[1, 0] + _OUT, _HIGH[1, 1] + _OUT),
        (_LOW[1, 0] - _OUT, _HIGH[1, 1] + _OUT),
        (_LOW[0, 0] - _OUT, _HIGH[0, 1] + _OUT),
    ]
)


def outside_px(points: Floats) -> Floats:
    """How far world points (..., 2) lie outside the square the agent keeps to, px."""
    excess: Floats = np.maximum(np.maximum(ARENA_MIN_PX - points, points - ARENA_MAX_PX), 0.0).sum(axis=-1)
    return excess


def visible(start: Floats, end: Floats) -> NDArray[np.bool_]:
    """Whether segments (..., 2) to (..., 2) in the T's frame miss the grown boxes."""
    clear = np.ones(np.broadcast_shapes(start.shape, end.shape)[:-1], dtype=bool)
    step = end - start
    step = np.where(np.abs(step) < 1e-9, 1e-9, step)
    for low, high in zip(_LOW, _HIGH, strict=True):
        first, second = (low - start) / step, (high - start) / step
        enter = np.minimum(first, second).max(axis=-1)
        leave = np.maximum(first, second).min(axis=-1)
        clear &= ~(np.maximum(enter, 0.0) < np.minimum(leave, 1.0))
    return clear


def step_out(points: Floats) -> Floats:
    """Move points (N, 2) of the T's frame that lie in the grown boxes to the nearest place outside them."""
    choices = [points]
    for low, high in zip(_LOW, _HIGH, strict=True):
        for axis in (0, 1):
            for value in (low[axis] - _OUT, high[axis] + _OUT):
                moved = points.copy()
                moved[:, axis] = value
                choices.append(moved)
    # the two inner corners, for points that lie in both boxes
    for x in (_LOW[1, 0] - _OUT, _HIGH[1, 0] + _OUT):
        choices.append(np.tile([x, _HIGH[0, 1] + _OUT], (len(points), 1)))
    places = np.stack(choices)
    distance = np.linalg.norm(places - points, axis=-1)
    inside = ((places[:, :, None] > _LOW) & (places[:, :, None] < _HIGH)).all(axis=-1).any(axis=-1)
    best = np.where(inside, np.inf, distance).argmin(axis=0)
    return places[best, np.arange(len(points))]


def _lengths(start: Floats, end: Floats) -> Floats:
    """Straight distances where the way is clear, infinity elsewhere."""
    distance = np.linalg.norm(end - start, axis=-1)
    return np.where(visible(start, end), distance, np.inf)


_CORNER_LENGTHS: Floats = _lengths(CORNERS[:, None], CORNERS[None])


def corner_graph(pose: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """Lengths (B, 6, 6) of the shortest ways between corners for T poses (B, 3), and the corner after the first.

    Corners outside the walls cost extra on arrival, so ways round the other side win.
    """
    penalty = _OUTSIDE_COST * outside_px(to_world(CORNERS, pose[:, None]))
    length = _CORNER_LENGTHS + penalty[:, None, :] * (1.0 - np.eye(len(CORNERS)))
    following = np.broadcast_to(np.arange(len(CORNERS)), length.shape).copy()
    for via in range(len(CORNERS)):
        detour = length[:, :, via, None] + length[:, via, None, :]
        shorter = detour < length
        length = np.where(shorter, detour, length)
        following = np.where(shorter, following[:, :, via, None], following)
    return length, following


class Ways:
    """Shortest ways to a fixed set of end points (P, 2) in the T's frame."""

    def __init__(self, ends: Floats) -> None:
        self.ends = ends
        self._last_leg = _lengths(CORNERS[:, None], ends[None])  # (6, P)

    def lengths(self, agent: Floats, pose: Floats) -> Floats:
        """Length in px (B, P) of the shortest way from `agent` (B, 2), in the T's frame, for T poses (B, 3)."""
        start = step_out(agent)
        between, _ = corner_graph(pose)
        to_corner = _lengths(start[:, None], CORNERS[None]) + _OUTSIDE_COST * outside_px(
            to_world(CORNERS, pose[:, None])
        )
        first = (to_corner[:, :, None] + between).min(axis=1)  # (B, 6)
        over_corners = (first[:, :, None] + self._last_leg[None]).min(axis=1)
        direct = _lengths(start[:, None], self.ends[None])
        return np.linalg.norm(start - agent, axis=1)[:, None] + np.minimum(direct, over_corners)

    def points(self, agent: Floats, pose: Floats, index: int) -> Floats:
        """Way points (K, 2) in the world from world point `agent` (2,) to end `index`, both included."""
        local = to_block(agent, pose)
        start = step_out(local[None])[0]
        end = self.ends[index]
        way = [local, start]
        if not visible(start, end):
            between, following = corner_graph(pose[None])
            penalty = _OUTSIDE_COST * outside_px(to_world(CORNERS, pose))
            total = (
                (_lengths(start, CORNERS) + penalty)[:, None] + between[0] + self._last_leg[None, :, index]
            )
            corner, last = np.unravel_index(int(total.argmin()), total.shape)
            way.append(CORNERS[corner])
            while corner != last:
                corner = following[0, corner, last]
                way.append(CORNERS[corner])
        way.append(end)
        return to_world(np.array(way), pose)


def timed_points(way: Floats, speed_limit: Floats, acceleration: float) -> Floats:
    """Walk along `way` (K, 2) and return one point per control step (N, 2), the last of them the end of the way.

    Starts and ends at rest. `speed_limit` (K - 1,) holds per leg, px per step; `acceleration` is in px per
    step^2. The speed at a corner falls with the angle turned there, to rest when turning back.
    """
    legs = np.diff(way, axis=0)
    length = np.hypot(legs[:, 0], legs[:, 1])
    keep = length > 1e-6
    legs, length, speed_limit = legs[keep], length[keep], speed_limit[keep]
    if len(legs) == 0:
        return way[-1:].copy()
    heading = legs / length[:, None]
    straight = (1.0 + (heading[:-1] * heading[1:]).sum(axis=1)) / 2.0
    corner_speed = np.minimum(speed_limit[:-1], speed_limit[1:]) * straight
    place = np.concatenate([[0.0], np.cumsum(length)])
    # speeds on a fine grid of arc length: limits, then forward and backward passes of v^2 = 2 a s
    grid = np.linspace(0.0, place[-1], max(2, int(place[-1] / 0.5) + 1))
    limit = speed_limit[np.minimum(np.searchsorted(place, grid, side="right") - 1, len(legs) - 1)]
    square = limit**2
    slope = 2.0 * acceleration
    for at, speed in zip(place, [0.0, *corner_speed, 0.0], strict=True):
        square = np.minimum(square, speed**2 + slope * np.abs(grid - at))
    gap = grid[1]
    ramp = slope * gap * np.arange(len(grid))
    square = np.minimum.accumulate(square - ramp) + ramp
    square = np.minimum.accumulate((square + ramp)[::-1])[::-1] - ramp
    speed = np.sqrt(np.maximum(square, 0.0))
    duration = np.concatenate([[0.0], np.cumsum(2.0 * gap / np.maximum(speed[1:] + speed[:-1], 1e-6))])
    count = max(1, int(np.ceil(duration[-1] - 1e-9)))
    along = np.interp(np.arange(1, count + 1) * duration[-1] / count, duration, grid)
    corner = np.stack(
        [np.interp(along, place, np.r_[way[:1], way[:1] + np.cumsum(legs, 0)][:, k]) for k in (0, 1)]
    )
    return corner.T
