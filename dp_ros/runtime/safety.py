"""The last gate before a robot: what leaves here is finite and within the task's limits.

Positions are clamped to their range, steps to the largest speed. Easy to get wrong: the speed of the first
action counts from what is commanded now, so the gate must be told it, or a chunk's first step is unlimited.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dp_ros.task import ActionSpec

Floats = npt.NDArray[np.float64]


class BadAction(RuntimeError):
    """A policy produced something that must not reach a robot."""


class LimitGate:
    """Clamps action sequences to the limits of a task.

    Args:
        action: names the dimensions and their limits.
        dt_s: time between two actions, seconds.
    """

    def __init__(self, action: ActionSpec, dt_s: float) -> None:
        self._action = action
        self._low = np.array(action.limits.position.min, dtype=np.float64)
        self._high = np.array(action.limits.position.max, dtype=np.float64)
        velocity = action.limits.velocity
        self._step = None if velocity is None else np.array(velocity, dtype=np.float64) * dt_s

    def clamp(self, values: npt.NDArray[np.floating], commanded: Floats | None) -> tuple[Floats, int]:
        """Clamp a sequence of actions.

        Args:
            values: (n, dim), units of the task.
            commanded: (dim,) what is commanded one step before the first action, None if nothing is.

        Returns:
            The clamped values (n, dim) as float64, and how many values were changed.

        Raises:
            BadAction: if a value is not finite.
        """
        if values.ndim != 2 or values.shape[1] != self._action.dim:
            raise BadAction(f"actions have shape {list(values.shape)}, expected [n, {self._action.dim}]")
        given = values.astype(np.float64)
        if not np.isfinite(given).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(given))[0])
            raise BadAction(
                f"action {row} of {self._action.names[column]} is {given[row, column]}; nothing was sent"
            )
        safe = np.clip(given, self._low, self._high)
        if self._step is not None:
            previous = commanded
            for row in safe:
                if previous is not None:
                    np.clip(row, previous - self._step, previous + self._step, out=row)
                previous = row
            np.clip(safe, self._low, self._high, out=safe)
        return safe, int((safe != given).sum())
