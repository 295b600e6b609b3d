"""A start state of PushT from which the way round the T is as long on either side.

The T lies at the angle of its goal, shifted along its own axis of symmetry in the direction of its stem, and the agent
stands on that axis on the other side. To push the T home the agent has to get to the end of the stem, round either
end of the bar. World, goal and state are mirror images of themselves in the axis, so whoever goes one way could have
gone the other. Easy to get wrong: the walls are centred half a pixel off the goal, and demonstrations need
not be as symmetric as the world: a policy learns its teacher's liking for a side.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dp_ros.sim.pusht import GOAL_POSE

Floats = NDArray[np.float64]
Side = Literal["above", "below", "neither"]

#: From the T's bar to the end of its stem, and to the upper left of that in the picture.
ALONG: Floats = np.array([-math.sin(GOAL_POSE[2]), math.cos(GOAL_POSE[2])])
ACROSS: Floats = np.array([-ALONG[1], ALONG[0]])
BAR_HALF_PX = 60.0
SHIFT_PX = 100.0
AGENT_PX = 80.0


def symmetric_start(shift_px: float = SHIFT_PX, agent_px: float = AGENT_PX) -> Floats:
    """State (5,) agent x, y, block x, y, angle, for `PushT.reset(state=..., legacy=False)`.

    Args:
        shift_px: how far the T lies from its goal.
        agent_px: distance of the agent's centre from the bar.
    """
    block = np.array(GOAL_POSE[:2]) + shift_px * ALONG
    return np.concatenate([block - agent_px * ALONG, block, GOAL_POSE[2:]])


def lateral_px(points: Floats) -> Floats:
    """Distance (...) of points (..., 2) from the axis; above it (upper left in the picture) is positive."""
    distance: Floats = (points - np.array(GOAL_POSE[:2])) @ ACROSS
    return distance


def mirrored(points: Floats) -> Floats:
    """Mirror images (..., 2) of points in the axis."""
    image: Floats = points - 2.0 * lateral_px(points)[..., None] * ACROSS
    return image


def side(path: Floats) -> Side:
    """Which end of the bar a path (n, 2) went round first; neither if it stayed between them."""
    lateral = lateral_px(path)
    beyond = np.flatnonzero(np.abs(lateral) > BAR_HALF_PX)
    if not len(beyond):
        return "neither"
    return "above" if lateral[beyond[0]] > 0 else "below"
