"""What a person commands with a device, tick by tick: towards where the device points, within the task's limits.

A device either says where the robot is to be (a pointer, a leader arm: `place`) or how fast it is to move (a stick, a
key: `drive`). It counts while it is held and keeps speaking; a device that falls silent was let go. The motion begins
at the measured state, never exceeds the limits of the task or the operator's own speed, and stops as fast as they
allow when the device is let go. Easy to get wrong: a hand that lets go to take a new hold has not ended the episode,
so the place where the robot came to rest is commanded for a while before the operator falls silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from dp_ros.runtime import rotation
from dp_ros.runtime.action_space import ActionSpace
from dp_ros.runtime.motion.limiter import MotionLimiter
from dp_ros.runtime.motion.limits import MotionLimits
from dp_ros.runtime.motion.spline import MotionState, TrajectoryPoints
from dp_ros.task import ActionSpec, TaskSpec

Floats = npt.NDArray[np.float64]

#: How long a trajectory stands still at its end.
STAND_NS = 1_000_000_000
_TURN_NAMES = ("rx", "ry", "rz")
#: A stick or key moved beyond this opens or closes a gripper.
_GRIPPER_THRESHOLD = 0.5


def drive_names(action: ActionSpec) -> list[str]:
    """What a device can drive, in the order of `OperatorMotion.drive`: an orientation by turns about the axes."""
    if not action.is_pose:
        return list(action.command_names)
    return [*action.command_names[:3], *_TURN_NAMES, *action.command_names[7:]]


def state_stream(task: TaskSpec) -> str | None:
    """The stream that measures what is commanded: `action.state`, else the one joint state that has all the names."""
    if task.action.state is not None:
        return task.action.state
    moving = set(task.action.command_names) - {gripper.name for gripper in task.action.grippers}
    found = [key for key, spec in task.observations.items() if moving <= set(spec.joint_positions)]
    return found[0] if len(found) == 1 else None


def measured_position(task: TaskSpec, key: str, sample: npt.NDArray[np.generic]) -> Floats:
    """A sample of the state stream as command values (command_dim,); NaN for what it does not measure.

    Args:
        task: which columns are which joints.
        key: of the stream.
        sample: (dim,) of the stream.
    """
    if task.action.state == key:
        return ActionSpace(task).measured(sample)
    columns, flat = task.observations[key].joint_positions, np.asarray(sample, dtype=np.float64)
    return np.array(
        [flat[columns[name]] if name in columns else np.nan for name in task.action.command_names]
    )


class OperatorMotion:
    """The motion that an operator commands.

    Args:
        task: limits and grippers.
        tick_s: time between two calls of `tick`.
        speed: the operator's largest speed for each of `drive_names`, units/s (rad/s for turns); None: `speed_scale`
            of the task's limits.
        speed_scale: share of the task's velocity limits where `speed` is not given.
        timeout_s: a device that says nothing for so long was let go.
        hold_s: how long the place of rest is commanded after that.

    Raises:
        ValueError: a speed of the wrong number of values, or not above 0.
    """

    def __init__(
        self,
        task: TaskSpec,
        *,
        tick_s: float,
        speed: Sequence[float] | None = None,
        speed_scale: float = 0.25,
        timeout_s: float = 0.3,
        hold_s: float = 2.0,
    ) -> None:
        action = self.action = task.action
        self.names = drive_names(action)
        limits = MotionLimits.of(action)
        if speed is None:
            turning = speed_scale * 1.0  # rad/s, where nothing says how fast it may turn
            own = dict(zip(action.command_names, speed_scale * limits.velocity, strict=True))
            self._speed = np.array([own.get(name, turning) for name in self.names])
        else:
            self._speed = np.array(speed, dtype=np.float64)
        if self._speed.shape != (len(self.names),) or not (self._speed > 0).all():
            raise ValueError(
                f"speed: got {self._speed.tolist()}, expected {len(self.names)} values above 0, one for each of "
                f"{', '.join(self.names)}"
            )
        if not action.is_pose and not action.is_velocity:
            limits = replace(limits, velocity=np.minimum(limits.velocity, self._speed))
        self._limiter = MotionLimiter(action, limits.planning(tick_s))
        self.tick_s = tick_s
        self._timeout_ns, self._hold_ns = round(1e9 * timeout_s), round(1e9 * hold_s)
        self._place: Floats | None = None
        self._along: Floats | None = None  # velocity at that place
        self._rates: Floats | None = None
        self._wished_ns: int | None = None  # None: let go
        self._held_ns = 0  # when it was held last
        self._state: MotionState | None = None  # None: nothing is commanded
        by_name = {gripper.name: gripper for gripper in action.grippers}
        self._gripper_specs = [by_name[action.command_names[i]] for i in action.gripper_indices]
        self._grippers = np.array([gripper.open for gripper in self._gripper_specs])
        self.problem = ""
        """Why nothing is commanded although the device is held; empty otherwise."""

    @property
    def is_commanding(self) -> bool:
        """Whether anything is commanded."""
        return self._state is not None

    @property
    def position(self) -> Floats | None:
        """What is commanded (command_dim,); None if nothing is."""
        return None if self._state is None else self._state.position.copy()

    @property
    def is_moving(self) -> bool:
        """Whether what is commanded moves."""
        return self._state is not None and bool(np.abs(self._state.velocity).max() > 1e-9)

    def hurry(self) -> None:
        """From now on the limits of the task count and not the operator's own speed."""
        self._limiter = MotionLimiter(self.action, MotionLimits.of(self.action).planning(self.tick_s))

    def place(self, values: Sequence[float], now_ns: int, *, velocity: Floats | None = None) -> None:
        """The device is held and points there.

        Args:
            values: one for each command name; beyond the limits means at their end.
            now_ns: present time.
            velocity: of the place (command_dim,), where it is known to move on.

        Raises:
            ValueError: wrong number of values, one that is not finite, or velocities are commanded.
        """
        self._place = self.checked_place(values)
        self._along, self._rates, self._wished_ns = velocity, None, now_ns

    def drive(self, rates: Sequence[float], now_ns: int) -> None:
        """The device is held and asks for speeds, -1 to 1 of the operator's largest, for each of `names`.

        Raises:
            ValueError: wrong number of values, or one that is not finite.
        """
        self._rates = np.clip(self.checked_rates(rates), -1.0, 1.0)
        self._place, self._wished_ns = None, now_ns

    def checked_place(self, values: Sequence[float]) -> Floats:
        """What `place` takes, or its ValueError; touches nothing, so that any thread may ask."""
        if self.action.is_velocity:
            raise ValueError("this task commands velocities; drive it, no place can be pointed at")
        return _checked(values, self.action.command_names)

    def checked_rates(self, rates: Sequence[float]) -> Floats:
        """What `drive` takes, or its ValueError; touches nothing, so that any thread may ask."""
        return _checked(rates, self.names)

    def recent(self, said_ns: int, now_ns: int) -> bool:
        """Whether what a device said then still counts."""
        return 0 <= now_ns - said_ns <= self._timeout_ns

    def let_go(self) -> None:
        """The device was let go: stop."""
        self._wished_ns = None

    def abandon(self) -> None:
        """Command nothing more, at once: somebody else does."""
        self._wished_ns = self._state = None

    def tick(self, now_ns: int, measured: Floats | None) -> MotionState | None:
        """What is commanded for the end of this tick.

        Args:
            now_ns: present time; `tick_s` after the last call's.
            measured: where the robot is (command_dim,), from which a motion begins; None if that is unknown.

        Returns:
            (command_dim,) each; None if nothing is commanded.
        """
        held = self._wished_ns is not None and self.recent(self._wished_ns, now_ns)
        self.problem = ""
        if not held:
            self._wished_ns = None
            if self._state is None or now_ns - self._held_ns > self._hold_ns:
                self._state = None
                return None
            self._state = self._stopping(self._state)
            return self._state
        self._held_ns = now_ns
        if self._state is None:
            start = np.zeros(self.action.command_dim) if self.action.is_velocity else measured
            moving = self._limiter.moving
            if start is None or not np.isfinite(start[moving]).all():
                self.problem = "where the robot is, is not known (no fresh sample of its state)"
                return None
            begin = start.copy()
            begin[list(self.action.gripper_indices)] = self._grippers
            self._state = MotionState.at_rest(begin)
        self._state, _ = self._limiter.step(self._state, self._wanted(self._state), self.tick_s)
        return self._state

    def trajectory(self, now_ns: int) -> TrajectoryPoints:
        """What is commanded as a trajectory: the state at the end of this tick, the fastest stop, and a stand.

        It stands for a second, so that a controller that hears of it late does not take it for one that is over.

        Raises:
            ValueError: if nothing is commanded.
        """
        if self._state is None:
            raise ValueError("nothing is commanded")
        path = self._limiter.stopped(self._state, now_ns + round(1e9 * self.tick_s))
        rest = path.knot(-1)
        still = np.zeros_like(rest.position)
        return TrajectoryPoints(
            np.append(path.times_ns, path.end_ns + STAND_NS),
            np.vstack([path.positions, rest.position]),
            np.vstack([path.velocities, still]),
            np.vstack([path.accelerations, still]),
        )

    def _stopping(self, state: MotionState) -> MotionState:
        """A tick of the fastest stop: where velocities are commanded, of bringing them to zero."""
        if not self.action.is_velocity:
            return self._limiter.stop(state, self.tick_s)
        still = np.zeros_like(state.position)
        still[list(self.action.gripper_indices)] = self._grippers
        return self._limiter.step(state, MotionState.at_rest(still), self.tick_s)[0]

    def _wanted(self, state: MotionState) -> MotionState:
        action = self.action
        grippers = list(action.gripper_indices)
        if self._place is not None:
            wanted = self._place.copy()
            if grippers:
                self._grippers = wanted[grippers]
            at_rest = MotionState.at_rest(wanted)
            return at_rest if self._along is None else replace(at_rest, velocity=self._along.copy())
        assert self._rates is not None
        position, velocity = state.position.copy(), np.zeros_like(state.position)
        speeds = self._rates * self._speed
        if action.is_velocity:
            position[:] = speeds  # a command value is a velocity itself
        elif action.is_pose:
            velocity[:3] = speeds[:3]
            position[:3] += velocity[:3] * self.tick_s
            turned = rotation.compose(rotation.from_axis_angle(speeds[3:6] * self.tick_s), position[3:7])
            turned = rotation.align(turned, position[3:7])
            velocity[3:7] = (turned - position[3:7]) / self.tick_s
            position[3:7] = turned
        else:
            velocity[:] = speeds
            position += velocity * self.tick_s
        for k, spec in enumerate(self._gripper_specs):
            rate = self._rates[self.names.index(spec.name)]
            if abs(rate) > _GRIPPER_THRESHOLD:
                self._grippers[k] = spec.closed if rate > 0 else spec.open
        position[grippers], velocity[grippers] = self._grippers, 0.0
        return MotionState(position, velocity, np.zeros_like(position))


def _checked(values: Sequence[float], names: Sequence[str]) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (len(names),):
        raise ValueError(
            f"got {array.size} values, expected {len(names)}, one for each of {', '.join(names)}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"got {array.tolist()}, expected finite numbers")
    return array
