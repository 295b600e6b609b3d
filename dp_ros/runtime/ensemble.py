"""Temporal ensembling: what several chunks say about the same moment, averaged.

"Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware" (Zhao et al. 2023, arXiv 2304.13705), section
IV-A: predictions for one moment are weighted by exp(-m i), i = 0 for the oldest one. Chunks are aligned by time and
not by index, since the camera's grid is not exact; between two actions an older chunk is interpolated. Easy to
get wrong: an average of open and closed is neither, so grippers follow the newest chunk alone, and quaternions
are averaged with aligned signs.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from dp_ros.runtime import rotation
from dp_ros.task import ActionSpec

Floats = npt.NDArray[np.float64]


class TemporalEnsemble:
    """Remembers chunks as long as they say something about the present.

    Args:
        action: which values are grippers and which an orientation.
        decay: m, by how much a newer prediction counts less than the one before it; 0: all the same.
    """

    def __init__(self, action: ActionSpec, decay: float = 0.01) -> None:
        self._decay = decay
        self._grippers = list(action.gripper_indices)
        self._quaternion = list(action.quaternion_indices)
        self._chunks: deque[tuple[npt.NDArray[np.int64], Floats]] = deque()

    def clear(self) -> None:
        """Forget every chunk."""
        self._chunks.clear()

    def add(self, start_ns: int, dt_ns: int, values: Floats) -> Floats:
        """Take a chunk and average it with the ones before it.

        Args:
            start_ns: time of its first action.
            dt_ns: time between its actions.
            values: (n, dim) commands.

        Returns:
            (n, dim): for each action of this chunk the average of all that is said about its time.
        """
        times = start_ns + dt_ns * np.arange(len(values), dtype=np.int64)
        while self._chunks and self._chunks[0][0][-1] < start_ns:
            self._chunks.popleft()
        self._chunks.append((times, values))
        rank = np.zeros(len(values))  # of the next prediction of each moment, 0 for the oldest
        total, weights = np.zeros_like(values), np.zeros((len(values), 1))
        for chunk_times, chunk_values in self._chunks:
            said = self._at(times, chunk_times, chunk_values)
            there = (times >= chunk_times[0]) & (times <= chunk_times[-1])
            if self._quaternion:
                q = self._quaternion
                said[:, q] = rotation.align(said[:, q], values[:, q])
            weight = np.where(there, np.exp(-self._decay * rank), 0.0)[:, None]
            total += weight * said
            weights += weight
            rank += there
        averaged = total / weights
        if self._quaternion:
            averaged[:, self._quaternion] = rotation.normalize(averaged[:, self._quaternion])
        averaged[:, self._grippers] = values[:, self._grippers]
        return averaged

    def _at(self, times: npt.NDArray[np.int64], known: npt.NDArray[np.int64], values: Floats) -> Floats:
        offsets, grid = (times - known[0]) / 1e9, (known - known[0]) / 1e9
        return np.column_stack([np.interp(offsets, grid, column) for column in values.T])
