"""Predicts where a straight push of the round agent takes the T.

Contacts in the PushT world have no friction and everything stops when it is not pushed, so a push is a
sequence of projections: the T gives way along the contact normal, by translation and by rotation in
proportion to mass and inertia. Away from the walls the outcome depends only on where on the T the push
starts, never on where the T lies: that is why all useful pushes are simulated once, in the T's own frame, and
kept in a table. Easy to get wrong: poses are those of the T's origin, while it turns about its centre of
mass.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dp_ros.sim.pusht import AGENT_RADIUS_PX, BAR_BOX, CENTRE_OF_MASS, STEM_BOX

Floats = NDArray[np.float64]

INERTIA = 3000.0  # of the T about its centre of mass, mass 1, px^2
MODEL_STEP_PX = 1.25  # agent motion between two projections
MAX_PUSH_PX = 110.0
STANDOFF_PX = 8.0  # gap between the agent's rim and the contact point before a push
CLEARANCE_PX = 20.0  # from the agent's centre to the T while it travels; its radius is 15
CONTACT_SPACING_PX = 10.0
PUSH_ANGLES_RAD = np.deg2rad([-30.0, -15.0, 0.0, 15.0, 30.0])  # against the inward normal
MIN_MOTION_PX = 0.7  # pushes that move the T less than this are no pushes

# Axis-aligned boxes of the T in its own frame: (low x, low y), (high x, high y).
T_BOXES: Floats = np.array([[np.min(box, axis=0), np.max(box, axis=0)] for box in (BAR_BOX, STEM_BOX)])
# Corners of the T's outline, clockwise on the screen from the bar's upper left one.
T_OUTLINE: Floats = np.array(
    [(-60, 0), (60, 0), (60, 30), (15, 30), (15, 120), (-15, 120), (-15, 30), (-60, 30)], dtype=np.float64
)
OUTLINE_MEAN: Floats = T_OUTLINE.mean(axis=0)
OUTLINE_SPREAD_PX2 = float(((T_OUTLINE - OUTLINE_MEAN) ** 2).sum(axis=1).mean())


def rotated(vectors: Floats, angle: Floats | float) -> Floats:
    """Turn `vectors` (..., 2) by `angle` (...) radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = vectors[..., 0], vectors[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)


def to_world(points: Floats, pose: Floats) -> Floats:
    """Move points (..., 2) of the T's frame into the world for poses (..., 3)."""
    moved: Floats = rotated(points, pose[..., 2]) + pose[..., :2]
    return moved


def to_block(points: Floats, pose: Floats) -> Floats:
    """Move world points (..., 2) into the frame of a T with poses (..., 3)."""
    return rotated(points - pose[..., :2], -pose[..., 2])


def pose_distance_px(poses: Floats, other: Floats) -> Floats:
    """Root mean square distance of the T's eight corners between poses (..., 3) and `other` (..., 3), px."""
    means = to_world(OUTLINE_MEAN, poses) - to_world(OUTLINE_MEAN, other)
    turn = 1.0 - np.cos(poses[..., 2] - other[..., 2])
    distance: Floats = np.sqrt((means**2).sum(axis=-1) + 2.0 * OUTLINE_SPREAD_PX2 * turn)
    return distance


def simulate_pushes(start: Floats, direction: Floats, length_px: float = MAX_PUSH_PX) -> Floats:
    """Push a T that lies at pose 0 with agents that start at `start` (N, 2) and go along unit `direction` (N, 2).

    Returns the T's poses (steps + 1, N, 3) after every MODEL_STEP_PX of agent motion.
    """
    steps = int(np.ceil(length_px / MODEL_STEP_PX))
    centre = np.array(CENTRE_OF_MASS)
    turn = np.zeros(len(start))
    position = np.tile(centre, (len(start), 1))  # of the centre of mass
    poses = np.zeros((steps + 1, len(start), 3))
    for step in range(1, steps + 1):
        agent = start + direction * (step * MODEL_STEP_PX)
        for low, high in T_BOXES:
            local = rotated(agent - position, -turn) + centre
            nearest = np.clip(local, low, high)
            gap = local - nearest
            distance = np.maximum(np.hypot(gap[:, 0], gap[:, 1]), 1e-9)
            depth = np.maximum(AGENT_RADIUS_PX - distance, 0.0)
            normal = -gap / distance[:, None]
            arm = nearest - centre
            lever = arm[:, 0] * normal[:, 1] - arm[:, 1] * normal[:, 0]
            impulse = depth / (1.0 + lever**2 / INERTIA)
            position = position + rotated(normal * impulse[:, None], turn)
            turn = turn + impulse * lever / INERTIA
        poses[step, :, 2] = turn
        poses[step, :, :2] = position - rotated(centre, turn)
    return poses


def _contacts() -> tuple[Floats, Floats]:
    """Points along the T's outline (N, 2) and the outward normals there (N, 2)."""
    points, normals = [], []
    for corner, following in zip(T_OUTLINE, np.roll(T_OUTLINE, -1, axis=0), strict=True):
        edge = following - corner
        length = float(np.hypot(*edge))
        count = round(length / CONTACT_SPACING_PX)
        places = (np.arange(count) + 0.5) / count
        points.append(corner + places[:, None] * edge)
        normals.append(np.tile([edge[1] / length, -edge[0] / length], (count, 1)))
    return np.concatenate(points), np.concatenate(normals)


@dataclass(frozen=True)
class PushTable:
    """All primitives P with their outcomes at lengths L, in the frame of the T before the push."""

    standoff: Floats
    """Where the agent's centre starts (P, 2)."""
    direction: Floats
    """Unit direction of the push (P, 2)."""
    length_px: Floats
    """Agent motion from the stand-off point (L,)."""
    pose: Floats
    """Pose of the T afterwards (P, L, 3)."""
    features: Floats
    """Row [p, l] @ `distance_weights` is the squared distance to a goal (P, L, 6)."""
    moves: NDArray[np.bool_]
    """The T moves by MIN_MOTION_PX or more (P, L)."""

    def agent_after(self, primitive: NDArray[np.intp], length: NDArray[np.intp]) -> Floats:
        """Agent's centre after pushes (...,) in the frame of the T before the push (..., 2)."""
        end: Floats = self.standoff[primitive] + self.direction[primitive] * self.length_px[length][..., None]
        return end


def distance_weights(pose: Floats, goal: Floats) -> Floats:
    """Weights (6, B) that turn PushTable.features into squared pose distances for T poses (B, 3) before a push."""
    towards = to_block(to_world(OUTLINE_MEAN, goal), pose)
    turn = pose[:, 2] - goal[2]
    spread = 2.0 * OUTLINE_SPREAD_PX2
    return np.stack(
        [
            np.ones(len(pose)),
            -2.0 * towards[:, 0],
            -2.0 * towards[:, 1],
            -spread * np.cos(turn),
            spread * np.sin(turn),
            (towards**2).sum(axis=1) + spread,
        ]
    )


def pose_features(pose: Floats) -> Floats:
    """Features (..., 6) of T poses (..., 3) relative to the pose before a push; see `distance_weights`."""
    mean = to_world(OUTLINE_MEAN, pose)
    turn = pose[..., 2]
    columns = [(mean**2).sum(-1), mean[..., 0], mean[..., 1], np.cos(turn), np.sin(turn), np.ones_like(turn)]
    return np.stack(columns, axis=-1)


@functools.cache
def push_table() -> PushTable:
    """The table of all primitives; built once per process in a few dozen milliseconds."""
    points, normals = _contacts()
    direction = np.concatenate([rotated(-normals, angle) for angle in PUSH_ANGLES_RAD])
    points, normals = (np.tile(array, (len(PUSH_ANGLES_RAD), 1)) for array in (points, normals))
    standoff = points + normals * AGENT_RADIUS_PX - direction * STANDOFF_PX
    low, high = T_BOXES[:, 0] - CLEARANCE_PX, T_BOXES[:, 1] + CLEARANCE_PX
    between: NDArray[np.bool_] = (standoff[:, None] > low) & (standoff[:, None] < high)
    inside = np.any(np.all(between, axis=2), axis=1)
    standoff, direction = standoff[~inside], direction[~inside]
    pose = np.swapaxes(simulate_pushes(standoff, direction, MAX_PUSH_PX + STANDOFF_PX), 0, 1)[:, 1:]
    length_px = MODEL_STEP_PX * np.arange(1, pose.shape[1] + 1)
    moves = pose_distance_px(pose, np.zeros(3)) >= MIN_MOTION_PX
    return PushTable(standoff, direction, length_px, pose, pose_features(pose), moves)
