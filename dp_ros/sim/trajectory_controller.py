"""Trajectory execution as a Jazzy joint_trajectory_controller does it, for the simulated robot.

Validates, replaces outright, interpolates and holds at the end (ros2_controllers user documentation, sections
"Trajectory representation" and "Trajectory replacement"). Easy to get wrong: the new trajectory is not
blended with the old one; before its first point the motion runs from what was commanded last to that point.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trajectory:
    """A trajectory as it comes in a message.

    Attributes:
        stamp_ns: header stamp; 0 means that it starts when it is first sampled.
        names: joint names, any order.
        times_ns: time_from_start of each point.
        positions: one sequence of len(names) for each point.
        velocities: the same, or an empty sequence for a point without velocities.
        accelerations: the same, or an empty sequence for a point without accelerations.
    """

    stamp_ns: int
    names: Sequence[str]
    times_ns: Sequence[int]
    positions: Sequence[Sequence[float]]
    velocities: Sequence[Sequence[float]] = field(default_factory=tuple)
    accelerations: Sequence[Sequence[float]] = field(default_factory=tuple)


class TrajectoryController:
    """Holds and samples the trajectory in force.

    Args:
        names: joints of the robot, in the order of the sampled positions.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self.hold(np.zeros(len(self._names)))

    def hold(self, position: npt.ArrayLike) -> None:
        """Drop the trajectory and hold a position, (len(names),)."""
        self._desired = np.array(position, dtype=np.float64)
        self._before = self._desired
        self._before_ns: int | None = None
        self._waiting: Trajectory | None = None
        self._times: list[int] = []

    def accept(self, trajectory: Trajectory, now_ns: int) -> str | None:
        """Take a trajectory in place of the one in force.

        Returns:
            None if it was taken, else why it was rejected, for a person.
        """
        problem = self._problem(trajectory, now_ns)
        if problem is not None:
            return problem
        order = [list(trajectory.names).index(name) for name in self._names]
        self._positions = np.array(trajectory.positions, dtype=np.float64)[:, order]
        with_velocities = len(trajectory.velocities) > 0 and all(len(v) for v in trajectory.velocities)
        self._velocities = (
            np.array(trajectory.velocities, dtype=np.float64)[:, order] if with_velocities else None
        )
        self._times = []
        self._waiting = trajectory
        return None

    def sample(self, now_ns: int) -> Floats:
        """Desired position at `now_ns`, (len(names),); exactly a point's position at that point's time."""
        if self._waiting is not None:
            start_ns = self._waiting.stamp_ns or now_ns
            self._times = [start_ns + t for t in self._waiting.times_ns]
            self._before, self._before_ns = self._desired, now_ns
            self._waiting = None
        if self._times:
            self._desired = self._interpolate(now_ns)
        return self._desired.copy()

    def _interpolate(self, now_ns: int) -> Floats:
        after = bisect_right(self._times, now_ns)
        if after == len(self._times) or (after > 0 and self._times[after - 1] == now_ns):
            return self._positions[after - 1]
        if after == 0:
            # From what was commanded when the trajectory came in to its first point.
            begin_ns = self._before_ns if self._before_ns is not None else now_ns
            span_ns = self._times[0] - begin_ns
            weight = (now_ns - begin_ns) / span_ns if span_ns > 0 else 1.0
            return self._before + weight * (self._positions[0] - self._before)
        low, high = self._positions[after - 1], self._positions[after]
        span_ns = self._times[after] - self._times[after - 1]
        u = (now_ns - self._times[after - 1]) / span_ns
        if self._velocities is None:
            return low + u * (high - low)
        span_s = span_ns / 1e9
        v_low, v_high = self._velocities[after - 1] * span_s, self._velocities[after] * span_s
        # Cubic Hermite segment: positions and velocities at both ends.
        return (
            low
            + u * v_low
            + u**2 * (3 * (high - low) - 2 * v_low - v_high)
            + u**3 * (-2 * (high - low) + v_low + v_high)
        )

    def _problem(self, trajectory: Trajectory, now_ns: int) -> str | None:
        names, times = list(trajectory.names), list(trajectory.times_ns)
        if sorted(names) != sorted(self._names):
            return f"joint names are {names}, this robot has {self._names}"
        if not times:
            return "it has no points"
        if len(trajectory.positions) != len(times):
            return f"it has {len(times)} times and {len(trajectory.positions)} positions"
        if times[0] < 0 or any(b <= a for a, b in zip(times, times[1:], strict=False)):
            return "time_from_start must increase from point to point"
        for index, position in enumerate(trajectory.positions):
            if len(position) != len(names):
                return f"point {index} has {len(position)} positions for {len(names)} joints"
            if not np.isfinite(position).all():
                return f"point {index} has a position that is not finite: {list(position)}"
        for index, velocity in enumerate(trajectory.velocities):
            if len(velocity) not in (0, len(names)):
                return f"point {index} has {len(velocity)} velocities for {len(names)} joints"
            if not np.isfinite(velocity).all():
                return f"point {index} has a velocity that is not finite: {list(velocity)}"
        if len(trajectory.velocities) and np.abs(trajectory.velocities[-1]).sum() > 1e-6:
            return f"the last point has velocity {list(trajectory.velocities[-1])}; it must be zero"
        if trajectory.stamp_ns and trajectory.stamp_ns + times[-1] < now_ns:
            late_s = (now_ns - trajectory.stamp_ns - times[-1]) / 1e9
            return f"it is stamped and ended {late_s:.3f} s ago"
        return None
