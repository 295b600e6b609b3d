"""Action chunks in time, and the schedule of what is commanded when.

Action i of a chunk is meant for `start_ns + i * dt_ns`. A late action is dropped, never shifted: shifting
would move every later action away from the moment the policy meant it for. Easy to get wrong: a new chunk goes
on from what is commanded at its seam, not from what is measured, or the robot jerks by its tracking error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dp_ros.runtime.motion.commanded import HISTORY_NS, SHORTEST_NS, Commanded, Steps, outright_points
from dp_ros.runtime.motion.planning import Planner
from dp_ros.runtime.motion.spline import MotionState, QuinticPath, TrajectoryPoints
from dp_ros.task import ActionSpec

Floats = npt.NDArray[np.float64]

#: How often a change is planned whose time has come before its plan is ready.
TRIES = 3
#: Length below which four values are no orientation.
SHORTEST_QUATERNION = 1e-3


@dataclass(frozen=True)
class ActionChunk:
    """A sequence of actions with their times.

    Attributes:
        start_ns: time that the first action is meant for.
        dt_ns: time between two actions.
        values: (n, dim) float64, units of the task.
        observation_ns: capture time of the newest observation used.
        inference_ns: wall time that sampling took.
        dropped: late actions removed from the front.
        clamped: values that a limit changed.
    """

    start_ns: int
    dt_ns: int
    values: Floats
    observation_ns: int
    inference_ns: int = 0
    dropped: int = 0
    clamped: int = 0

    @property
    def end_ns(self) -> int:
        """Time of the last action plus one step; `start_ns` if the chunk is empty."""
        return self.start_ns + len(self.values) * self.dt_ns

    def without_late(self, earliest_ns: int) -> ActionChunk:
        """The chunk without the actions meant for a time before `earliest_ns`."""
        late = min(max(-((self.start_ns - earliest_ns) // self.dt_ns), 0), len(self.values))
        return replace(
            self,
            start_ns=self.start_ns + late * self.dt_ns,
            values=self.values[late:],
            dropped=self.dropped + late,
        )

    def velocities(self) -> Floats:
        """Velocity at each action, (n, dim), units/s: central differences, and zero at the last.

        A joint_trajectory_controller rejects a trajectory whose last velocity is not zero
        (ros2_controllers, joint_trajectory_controller user documentation).
        """
        velocities = np.zeros_like(self.values)
        if len(self.values) > 1:
            velocities[:-1] = np.gradient(self.values, self.dt_ns / 1e9, axis=0)[:-1]
        return velocities


@dataclass(frozen=True)
class Seam:
    """Where a chunk took over, and how smoothly.

    Attributes:
        time_ns: of the seam.
        spliced: False if no action of the chunk was still to come, so that what runs was kept.
        blend_s: time over which the offset to the new chunk decays.
        limited: whether the chunk asked for more than the limits allow and is followed as closely as they do.
        position_jump: (dim,) of what is commanded, across the seam; zero but for rounding.
        velocity_jump: (dim,) likewise.
        acceleration_jump: (dim,) likewise.
        outright_position_jump: (dim,) the same had the chunk replaced what ran without a blend.
        outright_velocity_jump: (dim,) likewise.
        outright_acceleration_jump: (dim,) likewise.
    """

    time_ns: int
    spliced: bool
    blend_s: float
    limited: bool
    position_jump: Floats
    velocity_jump: Floats
    acceleration_jump: Floats
    outright_position_jump: Floats
    outright_velocity_jump: Floats
    outright_acceleration_jump: Floats

    @classmethod
    def none(cls, time_ns: int, dim: int) -> Seam:
        """No seam: what runs was kept."""
        zero = np.zeros(dim)
        return cls(time_ns, False, 0.0, False, zero, zero, zero, zero, zero, zero)

    @classmethod
    def between(
        cls,
        time_ns: int,
        before: MotionState,
        after: MotionState,
        outright: MotionState,
        blend_s: float = 0.0,
        limited: bool = False,
    ) -> Seam:
        """The seam between what ran before it and what runs after it."""
        return cls(
            time_ns,
            True,
            blend_s,
            limited,
            *(after.position - before.position, after.velocity - before.velocity),
            after.acceleration - before.acceleration,
            *(outright.position - before.position, outright.velocity - before.velocity),
            outright.acceleration - before.acceleration,
        )


class ChunkSchedule:
    """What is commanded, by time: chunks joined into one motion that ends at rest.

    Every query works on a snapshot that a splice replaces in one assignment, so one thread may ask while another
    splices. Grippers are steps, each in force from its time on. The four values of an orientation are
    interpolated with aligned signs, and given out at unit length.

    Args:
        action: dimensions and limits. Limits that the task leaves out are derived (`MotionLimits.of`).
        smooth: False: each action is in force outright until the next one's time, and a chunk replaces what
            runs from its first action on. For lockstep evaluation, whose robot follows the actions themselves.
    """

    def __init__(self, action: ActionSpec, *, smooth: bool = True) -> None:
        self._planner = Planner(action) if smooth else None
        self._grippers = list(action.gripper_indices)
        self._quaternion = list(action.quaternion_indices)
        self._snapshot: Commanded | None = None

    def clear(self) -> None:
        """Forget everything commanded."""
        self._snapshot = None

    @property
    def commanded(self) -> Commanded | None:
        """Everything commanded, for another schedule to `command` in one assignment; None if nothing is."""
        return self._snapshot

    def command(self, commanded: Commanded | None) -> None:
        """Command what another schedule of the same action does."""
        self._snapshot = commanded

    def hold(self, position: npt.ArrayLike, time_ns: int) -> None:
        """Command standing still at a position, (dim,), from a time on, and nothing before."""
        place = np.array(position, dtype=np.float64)
        path = (
            None if self._planner is None else QuinticPath.at_rest(self._blendable(place[None])[0], time_ns)
        )
        self._snapshot = Commanded(path, Steps([time_ns], place[None]), 0, None)

    def splice(
        self,
        chunk: ActionChunk,
        *,
        not_before_ns: int | None = None,
        ready_ns: Callable[[], int] | None = None,
    ) -> Seam:
        """Command a chunk from its first action on that is not yet committed; what runs goes on until then.

        Position, velocity and acceleration go on across the seam. The offset to the chunk's own motion decays
        over the fewest whole steps for which the limits hold.

        Args:
            chunk: at least one action.
            not_before_ns: what is commanded before this time stays. Actions of the chunk meant for before it
                shape its motion, but are not commanded.
            ready_ns: from when on a change that is planned by now can be followed. A seam that has passed when its
                plan is ready would be a jump: it is planned again from later, and at last not at all. None: time
                stands still while a plan is made.

        Raises:
            ValueError: if the chunk is empty.
        """
        if not len(chunk.values):
            raise ValueError("an empty chunk cannot be commanded")
        for _ in range(TRIES):
            begun_ns = 0 if ready_ns is None else ready_ns()
            seam, commanded = self._spliced(chunk, not_before_ns)
            late_ns = 0 if ready_ns is None else ready_ns() - seam.time_ns
            if late_ns <= 0 or not seam.spliced:
                self._snapshot = commanded
                return seam
            ended_ns = seam.time_ns + late_ns
            not_before_ns = ended_ns + 2 * (ended_ns - begun_ns)
        return Seam.none(seam.time_ns, chunk.values.shape[1])

    def _spliced(self, chunk: ActionChunk, not_before_ns: int | None) -> tuple[Seam, Commanded | None]:
        """The seam of a chunk, and what is commanded with it."""
        seam_ns = chunk.start_ns if not_before_ns is None else max(chunk.start_ns, not_before_ns)
        last_ns = chunk.end_ns - chunk.dt_ns
        old = self._snapshot
        running = self._running(seam_ns)
        if seam_ns > last_ns:
            return Seam.none(seam_ns, chunk.values.shape[1]), old
        values = chunk.values if self._planner is None else self._aligned(chunk.values, running)
        index = (seam_ns - chunk.start_ns) // chunk.dt_ns
        grid = chunk.start_ns + chunk.dt_ns * np.arange(len(values), dtype=np.int64)
        added = Steps([seam_ns, *grid[index + 1 :].tolist()], values[index:])
        steps = added if old is None else old.steps.then(added)
        if self._planner is None:
            state = MotionState.at_rest(values[index])
            changed = Commanded(None, steps, chunk.dt_ns, last_ns)
            return Seam.between(seam_ns, running or state, state, state), changed
        waypoints = self._blendable(values)
        start = running or MotionState.at_rest(waypoints[index])
        plan = self._planner.approach(start, seam_ns, grid, waypoints)
        path = plan.path
        if old is not None and old.path is not None and old.path.start_ns < seam_ns:
            path = old.path.cut(max(old.path.start_ns, seam_ns - HISTORY_NS), seam_ns).then(path)
        seam = Seam.between(
            seam_ns, start, path.state_at(seam_ns), plan.chunk_state, plan.blend_s, plan.limited
        )
        return seam, Commanded(path, steps, chunk.dt_ns, last_ns)

    def state_at(self, time_ns: int) -> MotionState | None:
        """What is commanded at a time; None before anything is."""
        snapshot = self._snapshot
        return None if snapshot is None else self._state(snapshot, time_ns)

    def commanded_at(self, time_ns: int) -> Floats | None:
        """The position commanded at a time, (dim,); None before anything is."""
        state = self.state_at(time_ns)
        return None if state is None else state.position

    def remaining_s(self, now_ns: int) -> float:
        """Seconds that the policy's actions still last; the stop after them is not counted."""
        snapshot = self._snapshot
        if snapshot is None or snapshot.last_action_ns is None:
            return 0.0
        return max(snapshot.last_action_ns + snapshot.dt_ns - now_ns, 0) / 1e9

    def upcoming(self, from_ns: int, n: int) -> Floats:
        """Commanded positions at `from_ns` and each step after it, up to the policy's last action, (k <= n, dim)."""
        snapshot = self._snapshot
        dim = 0 if snapshot is None else snapshot.steps.values.shape[1]
        if snapshot is None or snapshot.last_action_ns is None or from_ns > snapshot.last_action_ns:
            return np.zeros((0, dim))
        count = min((snapshot.last_action_ns - from_ns) // snapshot.dt_ns + 1, n)
        times = [from_ns + i * snapshot.dt_ns for i in range(count)]
        states = [state.position for t in times if (state := self._state(snapshot, t)) is not None]
        return np.array(states).reshape(-1, dim)

    def brake(self, now_ns: int, *, ready_ns: Callable[[], int] | None = None) -> int:
        """Replace the rest by the shortest stop along it that limits allow.

        Args:
            now_ns: when it begins.
            ready_ns: as of `splice`, but a stop is never refused: the last one that is tried is commanded.

        Returns:
            When the motion stands still; `now_ns` if it does already.
        """
        for tried in range(TRIES):
            begun_ns = 0 if ready_ns is None else ready_ns()
            rest_ns, commanded = self._braked(now_ns)
            ended_ns = now_ns if ready_ns is None else ready_ns()
            if ended_ns <= now_ns or tried == TRIES - 1:
                break
            now_ns = ended_ns + 2 * (ended_ns - begun_ns)
        self._snapshot = commanded
        return rest_ns

    def _braked(self, now_ns: int) -> tuple[int, Commanded | None]:
        """When a stop from a time on ends, and what is commanded with it."""
        snapshot = self._snapshot
        if snapshot is None or (place := snapshot.steps.at(now_ns)) is None:
            return now_ns, snapshot
        steps = snapshot.steps.then(Steps([now_ns], place[None]))
        if self._planner is None or snapshot.path is None:
            return now_ns, replace(snapshot, steps=steps, last_action_ns=None)
        stop = self._planner.brake(snapshot.path, now_ns)
        begin_ns = max(snapshot.path.start_ns, now_ns - HISTORY_NS)
        path = snapshot.path.cut(begin_ns, now_ns).then(stop) if begin_ns < now_ns else stop
        return stop.end_ns, Commanded(path, steps, snapshot.dt_ns, None)

    def points(self, from_ns: int, to_ns: int | None = None) -> TrajectoryPoints | None:
        """What is commanded from a time on as a trajectory that a controller takes; None if nothing is.

        Interpolated by quintics, as a Jazzy joint_trajectory_controller does with accelerations, it is the
        motion of this schedule. The first point is what is commanded at `from_ns`. The last one stands still and
        lies at least `SHORTEST_NS` later, that of a stop as much after the motion stands still.

        Args:
            from_ns: time of the first point.
            to_ns: brake from here on; None: as commanded.
        """
        snapshot = self._snapshot
        if snapshot is None or (place := snapshot.steps.at(from_ns)) is None:
            return None
        if snapshot.path is None or self._planner is None:
            return outright_points(snapshot, place, from_ns, to_ns)
        path = snapshot.path.cut(from_ns, None)
        if to_ns is not None and from_ns <= to_ns < path.end_ns:
            stop = self._planner.brake(path, to_ns)
            path = path.cut(from_ns, to_ns).then(stop) if to_ns > from_ns else stop
        stops = to_ns is not None or snapshot.last_action_ns is None
        least_ns = (max(path.end_ns, from_ns) if stops else from_ns) + max(snapshot.dt_ns, SHORTEST_NS)
        if path.end_ns < least_ns:
            path = path.cut(from_ns, least_ns)
        if not self._grippers and not self._quaternion:
            return TrajectoryPoints(path.times_ns, path.positions, path.velocities, path.accelerations)
        states = [
            self._given_out(path.knot(i), snapshot.steps.at(t)) for i, t in enumerate(path.times_ns.tolist())
        ]
        return TrajectoryPoints(
            path.times_ns,
            np.array([state.position for state in states]),
            np.array([state.velocity for state in states]),
            np.array([state.acceleration for state in states]),
        )

    def _state(self, snapshot: Commanded, time_ns: int) -> MotionState | None:
        place = snapshot.steps.at(time_ns)
        if place is None or snapshot.path is None:
            return None if place is None else MotionState.at_rest(place)
        return self._given_out(snapshot.path.state_at(time_ns), place)

    def _running(self, time_ns: int) -> MotionState | None:
        """What a seam at a time has to go on from, as it is interpolated."""
        snapshot = self._snapshot
        if snapshot is None or snapshot.path is None:
            return None if snapshot is None else self._state(snapshot, time_ns)
        return snapshot.path.state_at(time_ns)

    def _blendable(self, values: Floats) -> Floats:
        """Values (n, dim) without grippers, which are steps."""
        if not self._grippers:
            return values
        blendable = values.copy()
        blendable[:, self._grippers] = 0.0
        return blendable

    def _aligned(self, values: Floats, running: MotionState | None) -> Floats:
        """Values (n, dim) with each orientation's sign such that the way from the one before is the short one."""
        if not self._quaternion:
            return values
        aligned = values.copy()
        before = aligned[0] if running is None else running.position
        for row in aligned:
            if before[self._quaternion] @ row[self._quaternion] < 0:
                row[self._quaternion] *= -1
            before = row
        return aligned

    def _given_out(self, state: MotionState, place: Floats | None) -> MotionState:
        """An interpolated state as it is commanded: grippers in force, orientation at unit length."""
        if not self._grippers and not self._quaternion:
            return state
        p, v, a = state.position.copy(), state.velocity.copy(), state.acceleration.copy()
        if place is not None:
            p[self._grippers] = place[self._grippers]
        if self._quaternion:
            q = self._quaternion
            p[q], v[q], a[q] = _unit(p[q], v[q], a[q])
        return MotionState(p, v, a)


def _unit(p: Floats, v: Floats, a: Floats) -> tuple[Floats, Floats, Floats]:
    """A moving vector scaled to length 1, with its derivatives: u = p / r, u' = (v - r' u) / r and so on."""
    r = float(np.sqrt(p @ p))
    if r < SHORTEST_QUATERNION:  # the way between opposite orientations; undefined, and not to be divided by
        return p, np.zeros_like(v), np.zeros_like(a)
    u = p / r
    r1 = float(u @ v)
    u1 = (v - r1 * u) / r
    r2 = float(u1 @ v + u @ a)
    return u, u1, (a - 2 * r1 * u1 - r2 * u) / r
