"""Decides which push to make next: a beam search over sequences of straight pushes.

A node is a T pose and the agent's place; its children are all pushes of the table, each at its best length in
three classes of length. The cost of a plan is the time it takes in control steps plus a guess of the time
still to go. Easy to get wrong: the guess needs its linear term (with the logarithm alone the planner idles
far from the goal), and long pushes must be kept where short ones look better, or the search ends in dead ends
when the T lies turned round.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dp_ros.sim.pusht import WALL_MAX_PX, WALL_MIN_PX
from dp_ros.sim.pusht_paths import Ways, outside_px
from dp_ros.sim.pusht_push_model import (
    T_OUTLINE,
    PushTable,
    distance_weights,
    pose_distance_px,
    push_table,
    rotated,
    to_block,
    to_world,
)

Floats = NDArray[np.float64]

DEPTH = 3
BEAM_WIDTH = 12
PRIMITIVE_COST = 4.0  # control steps that a push costs beside its motion
LENGTH_CLASSES_PX = (25.0, 60.0, np.inf)
NEEDED_GAIN = 0.95  # a plan must bring the distance below this share of what it is
DUPLICATE_PX = 4.0  # T poses closer than this count as one
_WALL_COST = 3.0  # control steps per px that the T or the agent is predicted to be outside


@dataclass(frozen=True)
class Push:
    """The next push: way points for the agent and what is expected of the T."""

    way: Floats
    """World way points (K, 2), from the agent's place over the stand-off point to the end of the push."""
    block_poses: Floats
    """Predicted poses (L, 3) of the T along the last leg."""
    length_px: Floats
    """Agent motion along the last leg at which `block_poses` are predicted (L,)."""
    distance_px: float
    """Distance of the T to its goal at the end of the whole plan."""


@dataclass
class _Beam:
    """Nodes of one depth; `root` is the primitive that a node's plan starts with (-1 at the start)."""

    pose: Floats
    agent: Floats
    time: Floats
    root: NDArray[np.intp]
    root_length: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: NDArray[np.intp]) -> _Beam:
        return _Beam(
            self.pose[rows], self.agent[rows], self.time[rows], self.root[rows], self.root_length[rows]
        )


@functools.cache
def _ways() -> Ways:
    return Ways(push_table().standoff)


def time_to_go(distance_px: Floats) -> Floats:
    """Guess of the control steps that a T at `distance_px` from its goal still needs."""
    steps: Floats = 20.0 * np.log(np.maximum(distance_px, 1.0)) + 0.5 * distance_px
    return steps


def plan_push(
    agent: Floats,
    pose: Floats,
    goal: Floats,
    *,
    push_px_per_step: float,
    travel_px_per_step: float,
    jitter: Floats | None = None,
) -> Push:
    """Best next push for the agent at `agent` (2,) and the T at `pose` (3,), both in the world.

    `jitter` (P,) is added to the cost of plans by the primitive they start with, in control steps.
    """
    table = push_table()
    start = _Beam(
        pose[None], agent[None], np.zeros(1), np.full(1, -1, dtype=np.intp), np.zeros(1, dtype=np.intp)
    )
    distance = float(pose_distance_px(pose, goal))
    beam, best, fallback = start, None, None
    for _ in range(DEPTH):
        children = _expand(beam, table, goal, push_px_per_step, travel_px_per_step)
        to_go = pose_distance_px(children.pose, goal)
        cost = children.time + time_to_go(to_go)
        if jitter is not None:
            cost = cost + jitter[children.root]
        order = np.argsort(cost, kind="stable")
        row = int(order[0])
        if best is None or cost[row] < best[0]:
            best = (
                float(cost[row]),
                int(children.root[row]),
                int(children.root_length[row]),
                float(to_go[row]),
            )
        if fallback is None:
            long = np.flatnonzero(table.length_px[children.root_length] > LENGTH_CLASSES_PX[1])
            row = int(long[cost[long].argmin()]) if len(long) else row
            fallback = (0.0, int(children.root[row]), int(children.root_length[row]), float(to_go[row]))
        beam = children.take(_distinct(children.pose, order))
    assert best is not None and fallback is not None
    chosen = best if best[3] < NEEDED_GAIN * distance else fallback
    _, primitive, length, reached = chosen
    way = _ways().points(agent, pose, primitive)
    end = to_world(table.standoff[primitive] + table.direction[primitive] * table.length_px[length], pose)
    relative = table.pose[primitive, : length + 1]
    poses = np.column_stack([to_world(relative[:, :2], pose), pose[2] + relative[:, 2]])
    return Push(np.vstack([way, end]), poses, table.length_px[: length + 1], reached)


def _expand(
    beam: _Beam, table: PushTable, goal: Floats, push_px_per_step: float, travel_px_per_step: float
) -> _Beam:
    """All pushes from all nodes, each at its best length in every class."""
    primitives, lengths = table.moves.shape
    weights = distance_weights(beam.pose, goal)
    square = np.maximum(table.features.reshape(-1, 6) @ weights, 1.0).T
    value = (10.0 * np.log(square) + 0.5 * np.sqrt(square)).reshape(len(beam), primitives, lengths)
    value += table.length_px / push_px_per_step
    value[:, ~table.moves] = np.inf
    travel = _ways().lengths(to_block(beam.agent, beam.pose), beam.pose) / travel_px_per_step
    classes = []
    low = 0
    for limit in LENGTH_CLASSES_PX:
        high = int(np.searchsorted(table.length_px, limit, side="right"))
        best = value[:, :, low:high].argmin(axis=2) + low
        classes.append(best)
        low = high
    length = np.stack(classes, axis=2)  # (B, P, 3)
    node, primitive = np.indices(length.shape)[:2]
    usable = np.isfinite(np.take_along_axis(value, length, axis=2)) & np.isfinite(travel)[:, :, None]
    node, primitive, length = node[usable], primitive[usable], length[usable]

    before, relative = beam.pose[node], table.pose[primitive, length]
    pose = np.column_stack([to_world(relative[:, :2], before), before[:, 2] + relative[:, 2]])
    agent = to_world(table.agent_after(primitive, length), before)
    start = to_world(table.standoff[primitive], before)
    corners = rotated(T_OUTLINE[None], pose[:, None, 2]) + pose[:, None, :2]
    low_px, high_px = WALL_MIN_PX + 3.0, WALL_MAX_PX - 3.0
    block_outside = np.maximum(np.maximum(low_px - corners, corners - high_px), 0.0).max(axis=(1, 2))
    time = (
        beam.time[node]
        + travel[node, primitive]
        + table.length_px[length] / push_px_per_step
        + PRIMITIVE_COST
        + _WALL_COST * (block_outside + outside_px(agent) + outside_px(start))
    )
    first = beam.root[node] < 0
    root = np.where(first, primitive, beam.root[node])
    root_length = np.where(first, length, beam.root_length[node])
    return _Beam(pose, agent, time, root, root_length)


def _distinct(pose: Floats, order: NDArray[np.intp]) -> NDArray[np.intp]:
    """The first BEAM_WIDTH rows in `order` whose poses differ by DUPLICATE_PX or more."""
    candidates = order[: 40 * BEAM_WIDTH]
    poses, free = pose[candidates], np.ones(len(candidates), dtype=bool)
    kept: list[int] = []
    while len(kept) < BEAM_WIDTH and free.any():
        first = int(free.argmax())
        kept.append(first)
        free &= pose_distance_px(poses, poses[first]) >= DUPLICATE_PX
    return candidates[kept]
