"""Tasks of two joints, and what is measured of a motion sampled at irregular times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dp_ros.runtime.motion.chunk import ChunkSchedule
from dp_ros.runtime.motion.limits import MotionLimits
from dp_ros.task import ActionSpec

Floats = npt.NDArray[np.float64]


def joints(n: int = 2, *, position: float = 2.0, **limits: Any) -> ActionSpec:
    """An action of n joints within +-position, with the given limits for each of them."""
    each = {key: [value] * n if isinstance(value, float) else value for key, value in limits.items()}
    return ActionSpec.model_validate(
        {
            "topic": "/command",
            "type": "trajectory_msgs/msg/JointTrajectory",
            "output": "trajectory",
            "names": [f"joint_{i}" for i in range(n)],
            "shape": [n],
            "limits": {"position": {"min": [-position] * n, "max": [position] * n}, **each},
        }
    )


def pose(**limits: Any) -> ActionSpec:
    """A pose within one metre, with a gripper."""
    names = ["x", "y", "z", "qx", "qy", "qz", "qw", "gripper"]
    return ActionSpec.model_validate(
        {
            "topic": "/target",
            "type": "geometry_msgs/msg/PoseStamped",
            "output": "setpoint",
            "rate_hz": 100.0,
            "frame_id": "base",
            "names": names,
            "shape": [8],
            "grippers": [
                {
                    "name": "gripper",
                    "close_above": 0.6,
                    "open_below": 0.4,
                    "open": 0.0,
                    "closed": 1.0,
                    "topic": "/gripper",
                }
            ],
            "limits": {"position": {"min": [-1.0] * 8, "max": [1.0] * 8}, **limits},
        }
    )


def divided_differences(
    times_ns: Sequence[int] | npt.NDArray[np.int64], values: Floats, order: int
) -> Floats:
    """Divided differences times order!, (n - order, dim): means of the derivative of that order."""
    times = (np.asarray(times_ns, dtype=np.int64) - int(times_ns[0])) / 1e9
    found = values
    for k in range(1, order + 1):
        found = k * np.diff(found, axis=0) / (times[k:] - times[:-k])[:, None]
    return found


def sampled(schedule: ChunkSchedule, from_ns: int, to_ns: int) -> tuple[Floats, Floats, Floats]:
    """Positions, velocities and accelerations commanded every millisecond, (n, dim) each."""
    states = [schedule.state_at(t) for t in range(from_ns, to_ns, 1_000_000)]
    known = [state for state in states if state is not None]
    assert len(known) == len(states)
    return (
        np.array([s.position for s in known]),
        np.array([s.velocity for s in known]),
        np.array([s.acceleration for s in known]),
    )


def assert_smooth(action: ActionSpec, p: Floats, v: Floats, a: Floats) -> None:
    """Limits hold at 1 ms, and each derivative is the change of the one before it."""
    limits, h = MotionLimits.of(action), 1e-3
    edge = 1e-9 * (limits.high - limits.low)
    assert (p >= limits.low - edge).all()
    assert (p <= limits.high + edge).all()
    assert (np.abs(v) <= limits.velocity * (1 + 1e-9)).all()
    assert (np.abs(a) <= limits.acceleration * (1 + 1e-9)).all()
    assert (np.abs(np.diff(a, axis=0)) <= limits.jerk * h * (1 + 1e-6)).all()
    # Trapezoids: off by at most jerk h^2 / 4 for velocities, jerk h^3 / 12 for positions.
    assert (np.abs(np.diff(v, axis=0) - (a[1:] + a[:-1]) / 2 * h) <= limits.jerk * h**2 / 4 + 1e-9).all()
    assert (np.abs(np.diff(p, axis=0) - (v[1:] + v[:-1]) / 2 * h) <= limits.jerk * h**3 / 12 + 1e-12).all()
