"""Where the robot is, and how far that is from where it was told to be.

Easy to get wrong: a command takes effect `action.latency_s` later, and a measured state carries the time of its
capture, so a measurement belongs to the command of that much earlier, not to the newest one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dp_ros.runtime import rotation
from dp_ros.runtime.action_space import ActionSpace
from dp_ros.runtime.motion.chunk import ChunkSchedule
from dp_ros.runtime.observation import ObservationBuffer
from dp_ros.runtime.supervisor import CLOCK_JUMP, CLOCK_STOPPED, CONTROLLER_SILENT, Supervisor
from dp_ros.task import ActionSpec, TaskSpec

Floats = npt.NDArray[np.float64]


class Measured(NamedTuple):
    """State of the robot as command values (command_dim,), NaN for grippers, and the time of its capture."""

    stamp_ns: int
    position: Floats


def measured_state(
    space: ActionSpace, task: TaskSpec, buffer: ObservationBuffer, now_ns: int
) -> Measured | None:
    """The newest measured state; None if no stream measures it, or it is missing or older than its maximum age.

    Of commanded velocities no stream does: `action.state` measures positions.
    """
    key = task.action.state
    if key is None or task.action.is_velocity:
        return None
    stamp_ns = buffer.newest_ns(key)
    if stamp_ns is None or now_ns - stamp_ns > round(task.observations[key].max_age_s * 1e9):
        return None
    return Measured(stamp_ns, space.measured(buffer.sample(key, stamp_ns)))


def difference(action: ActionSpec, commanded: Floats, measured: Floats) -> Floats:
    """How far measured is from commanded, (command_dim,), 0 or more; 0 where nothing measures it."""
    apart = np.abs(commanded - measured)
    if action.quaternion_indices:
        q = list(action.quaternion_indices)
        apart[q] = np.abs(commanded[q] - rotation.align(measured[q], commanded[q]))
    return np.nan_to_num(apart, nan=0.0)


def tracking_problem(action: ActionSpec, schedule: ChunkSchedule, measured: Measured | None) -> str:
    """Which value is further from its command than the task allows, for a person; empty if none is."""
    if action.limits.tracking_error is None or measured is None:
        return ""
    commanded = schedule.commanded_at(measured.stamp_ns - round(action.latency_s * 1e9))
    if commanded is None:
        return ""
    return beyond_tracking_error(action, commanded, measured.position)


def beyond_tracking_error(action: ActionSpec, commanded: Floats, measured: Floats) -> str:
    """The same for the command that a measurement belongs to, (command_dim,) each."""
    allowed = action.limits.tracking_error
    if allowed is None:
        return ""
    apart = difference(action, commanded, measured)
    excess = apart / np.array(allowed)
    worst = int(np.argmax(excess))
    if excess[worst] <= 1.0:
        return ""
    return (
        f"{action.command_names[worst]} is {apart[worst]:g} away from its command, "
        f"limits.tracking_error allows {allowed[worst]:g}"
    )


def standing_at(action: ActionSpec, measured: Measured | None, commanded: Floats | None) -> Floats | None:
    """Where a motion from rest begins, (command_dim,), NaN for grippers; None if nothing measures it.

    The position commanded last, where the measured one is within the tracking error of it: a robot that holds a
    command stands a little beside it, and would jerk if it were told to stay there.
    """
    if measured is None:
        return None
    allowed = action.limits.tracking_error
    if commanded is None or allowed is None:
        return measured.position
    near = (difference(action, commanded, measured.position) <= np.array(allowed)).all()
    return commanded if near else measured.position


class Whereabouts:
    """Where the robot stands, and whether it may have been moved since it was commanded.

    Args:
        task: which stream measures the robot.
        space: of the task.
        buffer: its samples.
        supervisor: that has seen its controller and its time go.
    """

    def __init__(
        self, task: TaskSpec, space: ActionSpace, buffer: ObservationBuffer, supervisor: Supervisor
    ) -> None:
        self._task, self._space, self._buffer, self._supervisor = task, space, buffer, supervisor
        self._seen: tuple[int, ...] = ()

    def measured(self, now_ns: int) -> Measured | None:
        """The newest measured state, if it is known."""
        return measured_state(self._space, self._task, self._buffer, now_ns)

    def off_course(self, schedule: ChunkSchedule, now_ns: int) -> str:
        """Which value is further from its command than the task allows, for a person; empty if none is."""
        return tracking_problem(self._task.action, schedule, self.measured(now_ns))

    def commanded(self) -> None:
        """Something was commanded: what was absent before does not count any more."""
        self._seen = self._absences()

    def was_away(self, now_ns: int) -> bool:
        """Whether the robot may stand elsewhere than it was commanded to, and where it stands is known."""
        return self.measured(now_ns) is not None and self._absences() != self._seen

    def standing_at(self, now_ns: int, commanded: Floats | None) -> Floats | None:
        """Where a motion from rest begins, (command_dim,), NaN for grippers; None if nothing measures it.

        Where velocities are commanded that is zero, wherever the robot is.
        """
        action = self._task.action
        if action.is_velocity:
            rest = np.zeros(action.command_dim)
            rest[list(action.gripper_indices)] = np.nan
            return rest
        # A robot that was away since it was commanded may stand elsewhere, if only by less than the tracking error.
        known = commanded if self._absences() == self._seen else None
        return standing_at(action, self.measured(now_ns), known)

    def _absences(self) -> tuple[int, ...]:
        """How often the robot's state, its controller and its time have been gone so far."""
        state, counters = self._task.action.state, self._supervisor.counters
        gaps = 0 if state is None else self._buffer.counts[state].gaps
        clock = counters[CLOCK_JUMP] + counters[CLOCK_STOPPED]
        return gaps, self._buffer.epoch, clock, counters[CONTROLLER_SILENT]
