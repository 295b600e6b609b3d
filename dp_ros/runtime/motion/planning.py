"""Paths that a robot can follow: into a new chunk without a jump, along a path to a stop, and to the end at rest.

All of them keep the limits they are given, with the position, velocity and acceleration of the state they start
from. Easy to get wrong: the way into a chunk is not a detour of its own but the chunk's own motion plus an
offset that dies away, so that the chunk's detail survives however long the blend has to be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dp_ros.runtime.motion.limiter import MOST_TICKS, MotionLimiter, limiter_for
from dp_ros.runtime.motion.limits import MotionLimits
from dp_ros.runtime.motion.spline import MotionState, QuinticPath, through_waypoints
from dp_ros.task import ActionSpec

Floats = npt.NDArray[np.float64]

#: Finest time at which paths are planned, seconds.
TICK_S = 0.005
#: A path that asks for more than the limits allow is followed at this time or finer, or a step of the chunk over 2.5.
COARSE_S = 0.02
#: Durations tried for coming to rest, each this much longer than the one before.
LONGER, LONGEST_SETTLE = 1.2, 20
#: Shortest way to rest: over a shorter one the rounding of a speed near zero is a jerk.
SHORTEST_NS = 1_000_000
#: Brakes tried along a path: at first each this much longer than the one before, then between the last two.
BRACKET, BRACKETS, HALVINGS = 1.6, 3, 3
#: Ticks by which a brake off the path may begin later: between two of them a path may be a hair too fast to stop.
LATER_TICKS = 4


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
        #: What stops are planned with: softer ones where the motion was planned that way, and only they fit.
        self._all_stops = [
            MotionLimiter(action, self._limits.planning(times * TICK_S)) for times in (1, 4, 16)
        ]
        self._stops = self._all_stops[0]

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
        waypoints = (
            waypoints.copy()
        )  # an action at the very end of a range must not be out of it for planning
        waypoints[:, self.moving] = np.clip(waypoints, limits.low, limits.high)[:, self.moving]
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
        if (blend := self._shortest_blend(limiter, own, offset, max(step_ns, 1))) is not None:
            path, end_ns = blend
            return Approach(path, begin, (end_ns - seam_ns) / 1e9, False)
        # Without the stop behind it, which is long if the actions are too fast to be followed.
        rest = np.zeros_like(waypoints[-1]) if self._returns_to_zero else waypoints[-1]
        wanted = actions.cut(seam_ns, None)
        enough_s = (wanted.end_ns - seam_ns) / 1e9 * len(self.moving) / MOST_TICKS
        coarse_s = max(min(enough_s, max(COARSE_S, step_ns / 2.5e9)), tick_s)
        ticks_s = sorted({coarse_s, tick_s, 2 * TICK_S, TICK_S}, reverse=True)
        limiter, tick_s = limiter_for(self._action, self._limits, start, ticks_s)
        path, _ = limiter.follow(wanted, start, round(tick_s * 1e9), rest)
        return Approach(path, begin, (path.end_ns - seam_ns) / 1e9, True)

    def _shortest_blend(
        self, limiter: MotionLimiter, own: QuinticPath, offset: tuple[Floats, Floats, Floats], least_ns: int
    ) -> tuple[QuinticPath, int] | None:
        """The blend into a path with the earliest end that keeps the limits, and that end; None if none was found.

        Ends twice as far as the one before are tried first, and the last two, then those between. An end that fits
        among others that do not may be missed.
        """
        ends = own.times_ns[own.times_ns >= own.start_ns + least_ns].tolist()
        if len(own.times_ns) > 1:  # what breaks the limits by itself has to be blended
            broken = np.flatnonzero(~limiter.limits.hold_each(own.pieces(), self.moving))
            if len(broken):
                ends = [end for end in ends if end >= own.times_ns[broken[-1] + 1]]
        blends = [(_blended(own, offset, end), end) for end in ends]
        blends = [blend for blend in blends if limiter.limits.hold_at_knots(blend[0], self.moving)]
        count = len(blends)
        powers = [2**k - 1 for k in range(count.bit_length()) if 2**k - 1 < count - 2]
        tries = [*powers, *range(max(count - 2, 0), count)]
        first = next((k for k, index in enumerate(tries) if self._keeps(limiter, blends[index][0])), None)
        if first is None:
            return None
        too_short, index = (tries[first - 1] if first else -1), tries[first]
        while index - too_short > 1:
            middle = (too_short + index) // 2
            if self._keeps(limiter, blends[middle][0]):
                index = middle
            else:
                too_short = middle
        return blends[index]

    def _keeps(self, limiter: MotionLimiter, path: QuinticPath) -> bool:
        """Whether a path keeps the limits, keeps out of the boxes, and can be stopped anywhere."""
        limits = limiter.limits
        return (
            limits.hold_at_knots(path, self.moving)
            and limits.hold(path.bounds(), self.moving)
            and limiter.clear(path)
            and (self._returns_to_zero or self._stops.stoppable(path, round(TICK_S * 1e9)))
        )

    def brake(self, path: QuinticPath, now_ns: int) -> QuinticPath:
        """The shortest stop from `now_ns` on, along the path where limits let it; for velocities, to zero.

        Where a path has no more room than it needs for its own end, that end is the stop.
        """
        own = path.cut(now_ns, None)
        if len(own.times_ns) == 1 and not self._returns_to_zero:
            return own
        limiter = self._stops
        if self._returns_to_zero:
            stop = self._settle(own.knot(0), now_ns, limiter.limits)
            kept = self._limits.hold(stop.bounds(), self.moving) and limiter.clear(stop)
            return stop if kept and stop.end_ns < own.end_ns else own
        if (along := self._shortest_slowed(own)) is not None:
            return along
        settled = self._settle(own.knot(0), now_ns, limiter.limits)
        if limiter.limits.hold(settled.bounds(), self.moving) and limiter.clear(settled):
            return settled if settled.end_ns < own.end_ns else own
        # At the edge of the limits no smooth shape fits; the fastest stop does, from one tick or the next.
        for later in range(LATER_TICKS + 1):
            begin_ns = now_ns + later * round(TICK_S * 1e9)
            if begin_ns >= own.end_ns:
                break
            for limiter in self._all_stops:
                stop = limiter.stopped(own.state_at(begin_ns), begin_ns)
                if self._limits.hold(stop.bounds(), self.moving) and limiter.clear(stop):
                    stop = own.cut(now_ns, begin_ns).then(stop) if later else stop
                    return stop if stop.end_ns < own.end_ns else own
        return own

    def _shortest_slowed(self, own: QuinticPath) -> QuinticPath | None:
        """The shortest stop along a path that keeps the limits; None where none of those tried does."""
        limits, state = self._stops.limits, own.knot(0)
        shortest_s = max(self._least_span_s(state, limits), 2 * TICK_S)
        too_short_s, found = shortest_s / BRACKET, None
        for span_s in (shortest_s * BRACKET**k for k in range(BRACKETS)):
            if round(span_s * 0.5e9) >= own.end_ns - own.start_ns:
                return None
            found = self._slowed_within(own, span_s)
            if found is not None:
                break
            too_short_s = span_s
        if found is None or span_s == shortest_s:
            return found
        for _ in range(HALVINGS):
            middle_s = 0.5 * (too_short_s + span_s)
            tried = self._slowed_within(own, middle_s)
            if tried is None:
                too_short_s = middle_s
            else:
                found, span_s = tried, middle_s
        return found

    def _slowed_within(self, own: QuinticPath, span_s: float) -> QuinticPath | None:
        """The stop along a path within a time, None if it breaks a limit."""
        stop, limits = _slowed(own, round(span_s * 1e9)), self._stops.limits
        kept = limits.hold_at_knots(stop, self.moving) and limits.hold(stop.bounds(), self.moving)
        return stop if kept else None

    def _least_span_s(self, state: MotionState, limits: MotionLimits) -> float:
        """Seconds that any stop with a velocity that falls as a cubic takes: peaks are 1.5 v / T and 6 v / T^2."""
        speed, pull = np.abs(state.velocity), np.abs(state.acceleration)
        spans = np.maximum(1.5 * speed / limits.acceleration, np.sqrt(6 * speed / limits.jerk))
        return float(np.maximum(spans, 3 * pull / limits.jerk)[self.moving].max(initial=0.0))

    def _settle(self, state: MotionState, time_ns: int, limits: MotionLimits) -> QuinticPath:
        """From a state to rest as soon as limits allow, velocity falling as a cubic; for velocities, to zero.

        A cubic from v to 0 in T has peaks 1.5 v / T and 6 v / T^2; what the acceleration at its start adds is
        found by trying longer ones.
        """
        at, zero = state.position, np.zeros_like(state.position)
        moving = self.moving
        span_s = self._least_span_s(state, limits)
        if self._returns_to_zero:  # peaks of a minimum-jerk motion over a distance
            way = np.abs(at)
            spans = [1.875 * way / limits.velocity, np.sqrt(5.78 * way / limits.acceleration)]
            spans += [np.cbrt(60 * way / limits.jerk)]
            span_s = max(span_s, *(float(span[moving].max(initial=0.0)) for span in spans))
        if span_s == 0.0:
            return QuinticPath([time_ns], at[None], zero[None], zero[None])
        for _ in range(LONGEST_SETTLE):
            span_ns = max(int(np.ceil(span_s * 1e9)), SHORTEST_NS)
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
