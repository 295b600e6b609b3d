"""The PushT world: a round agent pushes a T onto its goal pose, seen from above.

Given the same start state and actions it reproduces the environment of Diffusion Policy (Chi et al., 2023,
arXiv 2303.04137) to the last bit, so scores can be compared with published ones. Lengths are pixels of a 512
x 512 plane with y pointing down. Easy to get wrong: the T's centre of mass lies 45 px from its origin, and
the paper tests with a reset that sets the origin first and turns the T about its centre of mass afterwards
(`legacy=True`); to put the world back into a state that was read from it, reset with `legacy=False`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pymunk
import shapely
from numpy.typing import ArrayLike, NDArray

from dp_ros.errors import UserError

WORLD_SIZE_PX = 512
AGENT_RADIUS_PX = 15.0
WALL_RADIUS_PX = 2.0
WALL_MIN_PX = 5.0  # centre lines of the four walls
WALL_MAX_PX = 506.0
GOAL_POSE = (256.0, 256.0, math.pi / 4)  # x, y, angle of the T's origin

PHYSICS_HZ = 100
CONTROL_HZ = 10
PHYSICS_STEPS = PHYSICS_HZ // CONTROL_HZ  # of a control step
MAX_STEPS = 300  # control steps an episode of the paper's evaluation lasts at most
SUCCESS_COVERAGE = 0.95

PD_STIFFNESS = 100.0  # acceleration per px of distance to the target, 1/s^2
PD_DAMPING = 20.0  # acceleration per px/s of velocity, 1/s

# The T in its own frame: a lying bar and a stem below it (y grows downwards), px.
BAR_BOX = ((-60.0, 30.0), (60.0, 30.0), (60.0, 0.0), (-60.0, 0.0))
STEM_BOX = ((-15.0, 30.0), (-15.0, 120.0), (15.0, 120.0), (15.0, 30.0))
CENTRE_OF_MASS = (0.0, 45.0)  # mean of the two boxes' centres, not weighted by area

# The nine points of the T that the low-dimensional observation consists of, in the T's frame and in the order
# of the paper's data set ("keypoint"): farthest-point samples of its picture, hence the uneven numbers.
BLOCK_KEYPOINTS: NDArray[np.float64] = np.array(
    [
        [9.269786713763871, 90.04097352393619],
        [-60.983472364471474, -1.1867297607997276],
        [60.91275557727772, -1.3933642242328201],
        [-0.2705034390160016, 25.54362499146542],
        [-14.064927576212233, 122.81585355412153],
        [39.002738500170146, 32.857404276587566],
        [-39.966414424694534, 32.729655446429945],
        [-16.82434437939744, 62.86317892234989],
        [23.54146122024909, -1.7002881094626152],
    ]
)
BLOCK_KEYPOINTS.setflags(write=False)


class StepResult(NamedTuple):
    """What one control step led to."""

    reward: float
    """Coverage over SUCCESS_COVERAGE, clipped to 0..1."""
    coverage: float
    """Share of the goal's area that the T covers, 0..1."""
    done: bool
    """Coverage is above SUCCESS_COVERAGE. The limit of MAX_STEPS is the caller's to keep."""


def start_state(seed: int) -> NDArray[np.float64]:
    """Draw the start state (agent x, y, block x, y, angle) that the paper's evaluation uses for `seed`.

    The paper's test seeds are 100000 to 100049. Raises UserError unless 0 <= seed < 2**32.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"PushT seed {seed} is out of range; give an integer from 0 to {2**32 - 1}")
    draw = np.random.RandomState(seed)
    agent = draw.randint(50, 450), draw.randint(50, 450)
    block = draw.randint(100, 400), draw.randint(100, 400)
    angle = draw.randn() * 2 * np.pi - np.pi
    return np.array([*agent, *block, angle], dtype=np.float64)


def transform_points(points: NDArray[np.float64], pose: ArrayLike) -> NDArray[np.float64]:
    """Move `points` (N, 2) of the T's frame into the world for the T's pose (x, y, angle)."""
    x, y, angle = np.asarray(pose, dtype=np.float64)
    cos, sin = math.cos(angle), math.sin(angle)
    moved: NDArray[np.float64] = points @ np.array([[cos, sin], [-sin, cos]]) + (x, y)
    return moved


def keypoints_of(block_pose: ArrayLike) -> NDArray[np.float64]:
    """Nine keypoints (9, 2) of the T in world px for its pose (x, y, angle)."""
    return transform_points(BLOCK_KEYPOINTS, block_pose)


class PushT:
    """The simulated world: `reset` starts an episode, `step` lasts one control period (1 / CONTROL_HZ s)."""

    def __init__(self) -> None:
        self.seed: int | None = None
        self._goal = _goal_polygon(_make_block()[1])
        self._goal_area = self._goal.area
        self.reset(state=(256.0, 400.0, 256.0, 300.0, 0.0), legacy=False)

    def reset(
        self,
        seed: int | None = None,
        *,
        state: Sequence[float] | NDArray[np.float64] | None = None,
        legacy: bool = True,
    ) -> None:
        """Start an episode from `seed`, from `state` (agent x, y, block x, y, angle) or from a random seed.

        `legacy` sets the block's position before its angle, which is how the paper tests; the block then ends
        up elsewhere than `state` says, because it turns about its centre of mass. One physics step follows,
        as in the reference. Raises UserError for a seed out of range, a state of wrong shape, or both at
        once.
        """
        if state is None:
            self.seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else int(seed)
            state = start_state(self.seed)
        elif seed is not None:
            raise UserError("PushT reset: give a seed or a state, not both")
        else:
            self.seed = None
        agent_x, agent_y, block_x, block_y, angle = _finite_vector(state, 5, "PushT start state")
        self._build()
        self._agent.position = agent_x, agent_y
        if legacy:
            self._block.position = block_x, block_y
            self._block.angle = angle
        else:
            self._block.angle = angle
            self._block.position = block_x, block_y
        self._space.step(1.0 / PHYSICS_HZ)
        self.steps = 0
        self.score = 0.0
        self._driven = 0  # physics steps of the control step in progress
        self._coverage: float | None = None

    def step(self, action: ArrayLike) -> StepResult:
        """Drive the agent towards the target `action` (x, y in px) for one control period.

        Targets outside the walls are accepted, as in the reference. Raises UserError for a wrong shape or a
        number that is not finite; the world is untouched then.
        """
        result = self.drive(action, PHYSICS_STEPS - self._driven)
        assert result is not None
        return result

    def drive(self, action: ArrayLike, physics_steps: int) -> StepResult | None:
        """Drive the agent for a part of a control period: `physics_steps` of its PHYSICS_STEPS.

        Returns what the control step led to when it is complete, else None. Raises UserError as `step` does,
        and if more physics steps are asked for than the control step has left.
        """
        target_x, target_y = _finite_vector(action, 2, "PushT action (target x, y)")
        if not 0 < physics_steps <= PHYSICS_STEPS - self._driven:
            left = PHYSICS_STEPS - self._driven
            raise UserError(f"PushT physics steps: got {physics_steps}, expected 1 to {left}")
        agent, dt_s = self._agent, 1.0 / PHYSICS_HZ
        for _ in range(physics_steps):
            (x, y), (vx, vy) = agent.position, agent.velocity
            ax = PD_STIFFNESS * (target_x - x) + PD_DAMPING * (0 - vx)
            ay = PD_STIFFNESS * (target_y - y) + PD_DAMPING * (0 - vy)
            agent.velocity = vx + ax * dt_s, vy + ay * dt_s
            self._space.step(dt_s)
        self._coverage = None
        self._driven += physics_steps
        if self._driven < PHYSICS_STEPS:
            return None
        self._driven = 0
        self.steps += 1
        self.score = max(self.score, self.reward)
        return StepResult(self.reward, self.coverage(), self.success)

    def coverage(self) -> float:
        """Share of the goal's area that the T covers now, 0..1."""
        if self._coverage is None:
            block = _world_polygon(self._block, self._block_shapes)
            self._coverage = float(self._goal.intersection(block).area / self._goal_area)
        return self._coverage

    @property
    def reward(self) -> float:
        """Coverage over SUCCESS_COVERAGE, clipped to 0..1; `score` is the highest one since the reset."""
        return float(np.clip(self.coverage() / SUCCESS_COVERAGE, 0, 1))

    @property
    def success(self) -> bool:
        """The T covers more than SUCCESS_COVERAGE of its goal now."""
        return self.coverage() > SUCCESS_COVERAGE

    @property
    def agent_pos(self) -> NDArray[np.float64]:
        """Centre of the agent (2,), px."""
        return np.array(self._agent.position)

    @property
    def agent_vel(self) -> NDArray[np.float64]:
        """Velocity of the agent (2,), px/s."""
        return np.array(self._agent.velocity)

    @property
    def block_pose(self) -> NDArray[np.float64]:
        """Pose of the T's origin (3,): x, y in px and the angle in rad, not wrapped."""
        return np.array([*self._block.position, self._block.angle])

    @property
    def state(self) -> NDArray[np.float64]:
        """Agent x, y, block x, y in px and block angle wrapped to 0..2 pi (5,)."""
        return np.array([*self._agent.position, *self._block.position, self._block.angle % (2 * np.pi)])

    @property
    def keypoints(self) -> NDArray[np.float64]:
        """The T's nine keypoints (9, 2), px."""
        return keypoints_of(self.block_pose)

    def _build(self) -> None:
        """Make a fresh space: walls, agent, T. The order of creation is part of the bit-for-bit result."""
        space = self._space = pymunk.Space()
        space.gravity = 0, 0
        space.damping = 0  # what is not pushed stops at once
        low, high = WALL_MIN_PX, WALL_MAX_PX
        for start, end in (
            ((low, high), (low, low)),
            ((low, low), (high, low)),
            ((high, low), (high, high)),
            ((low, high), (high, high)),
        ):
            space.add(pymunk.Segment(space.static_body, start, end, WALL_RADIUS_PX))
        self._agent = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
        space.add(self._agent, pymunk.Circle(self._agent, AGENT_RADIUS_PX))
        self._block, self._block_shapes = _make_block()
        space.add(self._block, *self._block_shapes)


def _make_block() -> tuple[pymunk.Body, tuple[pymunk.Poly, ...]]:
    """Body of the T and its two boxes; its inertia counts the bar twice and the stem never, as the reference."""
    mass = 1.0
    inertia = pymunk.moment_for_poly(mass, BAR_BOX)
    body = pymunk.Body(mass, inertia + inertia)
    bar, stem = pymunk.Poly(body, BAR_BOX), pymunk.Poly(body, STEM_BOX)
    body.center_of_gravity = CENTRE_OF_MASS
    return body, (bar, stem)


def _world_polygon(body: pymunk.Body, shapes: Sequence[pymunk.Poly]) -> shapely.MultiPolygon:
    """Outlines of `shapes` where `body` is, as one geometry."""
    outlines = [[body.local_to_world(vertex) for vertex in shape.get_vertices()] for shape in shapes]
    return shapely.MultiPolygon([shapely.Polygon(outline) for outline in outlines])


def _goal_polygon(shapes: Sequence[pymunk.Poly]) -> shapely.MultiPolygon:
    """The T at GOAL_POSE, on a body of its own whose centre of mass is its origin."""
    body = pymunk.Body(1.0, 1.0)
    body.position = GOAL_POSE[:2]
    body.angle = GOAL_POSE[2]
    return _world_polygon(body, shapes)


def _finite_vector(values: ArrayLike, length: int, what: str) -> list[float]:
    """`values` as `length` floats. Raises UserError that names `what`."""
    try:
        vector = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{what}: expected {length} numbers, got {values!r}") from None
    if vector.shape != (length,):
        raise UserError(f"{what}: expected {length} numbers, got an array of shape {vector.shape}")
    if not np.isfinite(vector).all():
        raise UserError(f"{what}: every number must be finite, got {vector.tolist()}")
    return [float(value) for value in vector]
