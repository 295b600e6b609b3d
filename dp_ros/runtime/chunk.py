"""Action chunks in time, and the schedule of what is commanded when.

Action i of a chunk is meant for `start_ns + i * dt_ns`. A late action is dropped, never shifted: shifting
would move every later action away from the moment the policy meant it for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


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


class ChunkSchedule:
    """What has been commanded, by time: each new chunk replaces the old one from its first action on."""

    def __init__(self) -> None:
        self._chunks: list[ActionChunk] = []

    def clear(self) -> None:
        """Forget everything commanded."""
        self._chunks.clear()

    def splice(self, chunk: ActionChunk) -> None:
        """Command a chunk: from `chunk.start_ns` on it is the only one in force.

        Raises:
            ValueError: if the chunk is empty.
        """
        if not len(chunk.values):
            raise ValueError("an empty chunk cannot be commanded")
        kept = [old for old in self._chunks if old.start_ns < chunk.start_ns]
        self._chunks = [*kept[-1:], chunk]

    def commanded_at(self, time_ns: int) -> Floats | None:
        """The action in force at a time, (dim,): the last one meant for that time or before; None if none."""
        for chunk in reversed(self._chunks):
            if chunk.start_ns <= time_ns:
                index = (time_ns - chunk.start_ns) // chunk.dt_ns
                return chunk.values[min(index, len(chunk.values) - 1)]
        return None

    def remaining_s(self, now_ns: int) -> float:
        """Seconds that the commanded actions still last."""
        return max(self._chunks[-1].end_ns - now_ns, 0) / 1e9 if self._chunks else 0.0

    def rest(self, now_ns: int) -> ActionChunk | None:
        """What is still to come of the commanded actions, None if nothing is."""
        if not self._chunks:
            return None
        rest = self._chunks[-1].without_late(now_ns)
        return rest if len(rest.values) else None
