"""Paths that a robot can follow: into a new chunk without a jump, along a path to a stop, and to the end at rest.

All of them keep the limits they are given, with the position, velocity and acceleration of the state they start
from. Easy to get wrong: the way into a chunk is not a detour of its own but the chunk's own motion plus an
offset that dies away, so that the chunk's detail survives however long the blend has to be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dp_ros.runtime.limiter import MotionLimiter
from dp_ros.runtime.limits import MotionLimits
from dp_ros.runtime.spline import MotionState, QuinticPath, through_waypoints
from dp_ros.task import ActionSpec

Floats = npt.NDArray[np.float64]

#: Finest time at which paths are planned, seconds.
TICK_S = 0.005
#: Brakes tried along a path: each this much longer than the one before.
LONGER = 1.1
#: Durations tried for coming to rest.
LONGEST_SETTLE = 40


@dataclass(frozen=True)
class Approach:
    """A path into a chunk.

    Attributes:
        path: from the seam on, ends at rest.
        chunk_state: of the chunk's own motion at the seam, which an outright splice would jump to.
        blend_s: time over which the offset between the two decays; the whole path's where it is limited.
        limited: whether no blend keeps the limits, so that the chunk is followed as closely as they allow.
    """

    path: QuinticPath
    chunk_state: MotionState
    blend_s: float
    limited: bool


class Planner:
    """Plans within the limits of a task.

    Args:
        action: what is commanded, and its limits.
    """

    def __init__(self, action: ActionSpec) -> None:
        self._action = action
        self._limits = MotionLimits.of(action)
        self._returns_to_zero = action.is_velocity
        moving = np.ones(action.command_dim, dtype=bool)
        moving[list(action.gripper_indices)] = False
        self.moving = np.flatnonzero(moving)

    def approach(
        self, start: MotionState, seam_ns: int, times_ns: npt.ArrayLike, waypoints: Floats
    ) -> Approach:
        """From a state at the seam into a chunk.

        Args:
            start: what is commanded at the seam.
            seam_ns: its time, at or before the last waypoint's.
            times_ns: (n,) equally spaced times of the chunk's waypoints; some may lie before the seam.
            waypoints: (n, dim).
        """
        times = np.asarray(times_ns, dtype=np.int64)
        step_ns = int(times[1] - times[0]) if len(times) > 1 else 0
        tick_s = max(step_ns / 5e9, TICK_S) if step_ns else 4 * TICK_S
        limits = self._limits.planning(tick_s)
        actions = through_waypoints(times, waypoints)
        own = actions.then(self._settle(actions.knot(-1), actions.end_ns, limits)).cut(seam_ns, None)
        begin = own.knot(0)
        offset = (
            start.position - begin.position,
            start.velocity - begin.velocity,
            start.acceleration - begin.acceleration,
        )
        limiter = MotionLimiter(self._action, limits)
        if not any(part.any() for part in offset) and self._keeps(limiter, own):
            return Approach(own, begin, 0.0, False)
        for end_ns in own.times_ns[own.times_ns >= seam_ns + max(step_ns, 1)].tolist():
            path = _blended(own, offset, end_ns)
            if self._keeps(limiter, path):
                return Approach(path, begin, (end_ns - seam_ns) / 1e9, False)
        # Without the stop behind it, which is long if the actions are too fast to be followed.
        rest = np.zeros_like(waypoints[-1]) if self._returns_to_zero else waypoints[-1]
        path, _ = limiter.follow(actions.cut(seam_ns, None), start, round(tick_s * 1e9), rest)
        return Approach(path, begin, (path.end_ns - seam_ns) / 1e9, True)

    def _keeps(self, limiter: MotionLimiter, path: QuinticPath) -> bool:
        return limiter.limits.hold(path.bounds(), self.moving) and limiter.clear(path)

    def brake(self, path: QuinticPath, now_ns: int) -> QuinticPath:
        """The shortest stop from `now_ns` on, along the path where limits let it; for velocities, to zero.

        Where a path has no more room than it needs for its own end, that end is the stop.
        """
        own = path.cut(now_ns, None)
        if len(own.times_ns) == 1 and not self._returns_to_zero:
            return own
        limits = self._limits.planning(TICK_S)
        span_s = 2 * TICK_S
        while not self._returns_to_zero and now_ns + round(span_s * 0.5e9) < own.end_ns:
            stop = _slowed(own, round(span_s * 1e9))
            if limits.hold(stop.bounds(), self.moving):
                return stop
            span_s *= LONGER
        limiter = MotionLimiter(self._action, limits)
        stop = self._settle(own.knot(0), now_ns, limits)
        if not self._returns_to_zero and not self._keeps(limiter, stop):
            # At the edge of the limits no smooth shape fits; the fastest stop does.
            stop = limiter.stopped(own.knot(0), now_ns, round(TICK_S * 1e9))
        within = self._limits.hold(stop.bounds(), self.moving) and limiter.clear(stop)
        return stop if within and stop.end_ns < own.end_ns else own

    def _settle(self, state: MotionState, time_ns: int, limits: MotionLimits) -> QuinticPath:
        """From a state to rest as soon as limits allow, velocity falling as a cubic; for velocities, to zero.

        A cubic from v to 0 in T has peaks 1.5 v / T and 6 v / T^2; what the acceleration at its start adds is
        found by trying longer ones.
        """
        at, zero = state.position, np.zeros_like(state.position)
        speed, moving = np.abs(state.velocity), self.moving
        spans = [1.5 * speed / limits.acceleration, np.sqrt(6 * speed / limits.jerk)]
        spans += [3 * np.abs(state.acceleration) / limits.jerk]
        if self._returns_to_zero:  # peaks of a minimum-jerk motion over a distance
            spans += [1.875 * np.abs(at) / limits.velocity, np.sqrt(5.78 * np.abs(at) / limits.acceleration)]
            spans += [np.cbrt(60 * np.abs(at) / limits.jerk)]
        span_s = max((float(span[moving].max(initial=0.0)) for span in spans), default=0.0)
        if span_s == 0.0:
            return QuinticPath([time_ns], at[None], zero[None], zero[None])
        for _ in range(LONGEST_SETTLE):
            span_ns = max(int(np.ceil(span_s * 1e9)), 1000)
            t = span_ns / 1e9
            place = at + t / 2 * state.velocity + t**2 / 12 * state.acceleration
            end = zero if self._returns_to_zero else place
            path = QuinticPath(
                [time_ns, time_ns + span_ns],
                np.stack([at, end]),
                np.stack([state.velocity, zero]),
                np.stack([state.acceleration, zero]),
            )
            if limits.hold(path.bounds(), moving):
                break
            span_s *= LONGER
        return path


def _blended(path: QuinticPath, offset: tuple[Floats, Floats, Floats], end_ns: int) -> QuinticPath:
    """A path plus an offset of position, velocity and acceleration at its start that is gone at `end_ns`.

    The offset is one quintic, so that the sum is a quintic on each piece of the path.
    """
    zero = np.zeros_like(offset[0])
    offsets = QuinticPath([path.start_ns, end_ns], *(np.stack([part, zero]) for part in offset)).states_at(
        path.times_ns
    )
    return QuinticPath(
        path.times_ns,
        path.positions + offsets[0],
        path.velocities + offsets[1],
        path.accelerations + offsets[2],
    )


def _slowed(path: QuinticPath, span_ns: int) -> QuinticPath:
    """The start of a path, driven ever slower so that it stands still after `span_ns`.

    The path's own time runs as s(t), with s' = 1 at first and 0 at the end and s'' = 0 at both (a cubic for s'),
    so that half of `span_ns` of the path is covered. By the chain rule v = x' s', a = x'' s'^2 + x' s''.
    """
    n = max(8, int(np.ceil(span_ns / (2e9 * TICK_S))))
    u = np.linspace(0.0, 1.0, n + 1)[:, None]
    times = path.start_ns + np.rint(u[:, 0] * span_ns).astype(np.int64)
    u = ((times - path.start_ns) / span_ns)[:, None]
    own_ns = path.start_ns + span_ns * (u - u**3 + u**4 / 2)[:, 0]
    rate, rate_change = 1 - 3 * u**2 + 2 * u**3, (6 * u**2 - 6 * u) / (span_ns / 1e9)
    position, velocity, acceleration = path.states_at(np.rint(own_ns).astype(np.int64))
    return QuinticPath(times, position, velocity * rate, acceleration * rate**2 + velocity * rate_change)
