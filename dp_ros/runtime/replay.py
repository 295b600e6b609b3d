"""A recorded episode on the robot again: first to where it began, slowly, then its commands at their times.

The recording is the operator: it says where the robot is to be, and `OperatorMotion` goes there within the limits of
the task, from where the robot is. Easy to get wrong: what a robot does not follow it must not be sent on with; the
replay ends where the measured state is missing, or further from its command than the task's `tracking_error` allows.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

import numpy as np
import numpy.typing as npt

from dp_ros.runtime.action_space import ActionSpace
from dp_ros.runtime.operator import OperatorMotion
from dp_ros.runtime.tracking import beyond_tracking_error, difference
from dp_ros.task import TaskSpec

Floats = npt.NDArray[np.float64]
Phase = Literal["approach", "playing", "stopping", "done", "failed"]
#: Of the range of each value: as close to the first command as the approach has to come.
NEAR = 0.005
#: The approach may take so long; then something holds the robot.
APPROACH_LIMIT_S = 60.0


def commands_of(task: TaskSpec, actions: npt.NDArray[np.floating]) -> Floats:
    """Recorded actions (n, dim) as commands (n, command_dim): recordings are absolute, also of relative tasks."""
    return ActionSpace.absolute(task).to_commands(np.asarray(actions, dtype=np.float64))


class EpisodeReplay:
    """Tells an operator's motion where to be.

    Args:
        task: limits and rate.
        commands: (n, command_dim), one each `task.dt_ns`.
        motion: of an operator who is slow enough for the approach.
        speed: of the replay; 1 is as recorded.

    Raises:
        ValueError: velocities are commanded, there are no commands, or the speed is not above 0.
    """

    def __init__(
        self, task: TaskSpec, commands: Floats, motion: OperatorMotion, *, speed: float = 1.0
    ) -> None:
        if task.action.is_velocity:
            raise ValueError("this task commands velocities, which lead elsewhere from another start")
        if not len(commands):
            raise ValueError("the episode has no commands")
        if not speed > 0:
            raise ValueError(f"speed: got {speed:g}, expected above 0")
        self._task, self._commands, self._motion = task, commands, motion
        self._tick_ns, self._speed = round(1e9 * motion.tick_s), speed
        limits = task.action.limits.position
        self._near = NEAR * (np.array(limits.max) - np.array(limits.min))
        self._grippers = list(task.action.gripper_indices)
        self._begun_ns: int | None = None  # of the approach, then of the episode
        self._sent: deque[tuple[int, Floats]] = deque(maxlen=512)
        self.phase: Phase = "approach"
        self.problem = ""
        """Why it failed, for a person."""
        self.progress_s = 0.0
        """How far into the episode the replay is, seconds of the recording."""

    def stop(self, why: str) -> None:
        """End the replay: the robot is brought to rest."""
        if self.phase not in ("done", "failed"):
            self.phase, self.problem = "failed", why
            self._motion.let_go()

    def tick(self, now_ns: int, measured: Floats | None, measured_ns: int) -> None:
        """Say where to be at the end of this tick; before the motion's own tick.

        Args:
            now_ns: present time.
            measured: where the robot is (command_dim,); None if that is unknown.
            measured_ns: when it was there.
        """
        if self.phase in ("done", "failed"):
            return
        if measured is None:
            self.stop("where the robot is, is not known (no fresh sample of its state)")
            return
        if problem := self._off_course(measured, measured_ns):
            self.stop(problem)
            return
        if self._begun_ns is None:
            self._begun_ns = now_ns
        if self.phase == "approach":
            self._approach(now_ns)
        elif self.phase == "playing":
            self._play(now_ns)
        elif not self._motion.is_moving:
            self.phase = "done"
            self._motion.let_go()
        if self.phase == "stopping":
            self._motion.place(self._commands[-1].tolist(), now_ns)
        position = self._motion.position
        if position is not None:
            self._sent.append((now_ns, position))

    def _approach(self, now_ns: int) -> None:
        first, at = self._commands[0], self._motion.position
        assert self._begun_ns is not None
        if at is not None and not self._motion.is_moving:
            apart = difference(self._task.action, first, at)
            apart[self._grippers] = 0.0
            if (apart <= self._near).all():
                self.phase, self._begun_ns = "playing", now_ns
                self._motion.hurry()
                self._play(now_ns)
                return
        if now_ns - self._begun_ns > round(1e9 * APPROACH_LIMIT_S):
            self.stop(f"the episode's first command was not reached within {APPROACH_LIMIT_S:g} s")
            return
        self._motion.place(first.tolist(), now_ns)

    def _play(self, now_ns: int) -> None:
        assert self._begun_ns is not None
        last = len(self._commands) - 1
        row = (now_ns + self._tick_ns - self._begun_ns) * self._speed / self._task.dt_ns
        self.progress_s = min(row, last) * self._task.dt_ns / 1e9
        if row >= last:
            self.phase = "stopping"
            return
        k = int(row)
        a, b = self._commands[k], self._commands[k + 1]
        place = a + (row - k) * (b - a)
        velocity = (b - a) * self._speed * 1e9 / self._task.dt_ns
        place[self._grippers], velocity[self._grippers] = a[self._grippers], 0.0
        self._motion.place(place.tolist(), now_ns, velocity=velocity)

    def _off_course(self, measured: Floats, measured_ns: int) -> str:
        then_ns = measured_ns - round(1e9 * self._task.action.latency_s)
        commanded = next((at for time_ns, at in reversed(self._sent) if time_ns <= then_ns), None)
        return "" if commanded is None else beyond_tracking_error(self._task.action, commanded, measured)
