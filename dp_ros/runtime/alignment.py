"""Values between two samples of a stream: linear, on the sphere for orientations, the short way for angles.

Which columns of a sample are angles or an orientation follows from the task alone. Easy to get wrong: 3.1 and
-3.1 rad are 0.08 apart, and a quaternion and its negative are the same rotation; a mean of either pair is
nonsense. Orientations come out with w >= 0, so that equal rotations are equal numbers in every episode.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dp_ros.runtime import rotation
from dp_ros.task import ObservationSpec

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float64]
_ORIENTATION = [f"orientation.{axis}" for axis in "xyzw"]


def orientation_fields(spec: ObservationSpec) -> list[int]:
    """Which of a stream's fields are x, y, z, w of its orientation; empty unless all four are taken."""
    taken = set(_ORIENTATION) <= set(spec.fields)
    return [spec.fields.index(field) for field in _ORIENTATION] if taken else []


def orientation_columns(spec: ObservationSpec) -> list[list[int]]:
    """Columns of each orientation in a sample: one list of 3, 4 or 6 for a pose, more for an array of poses.

    Empty where a stream does not take all four fields of an orientation.
    """
    if spec.is_pose and spec.rotation != "quaternion":
        return [list(range(3, 3 + rotation.SIZES[spec.rotation]))]
    columns, width = orientation_fields(spec), len(spec.fields)
    return [[first + column for column in columns] for first in range(0, spec.dim, width)] if columns else []


def angle_columns(spec: ObservationSpec) -> list[int]:
    """Columns of a sample that hold angles, rad: the positions of joints, or fields."""
    if spec.names:
        return [column for name, column in spec.joint_positions.items() if name in spec.angles]
    return [i for i in range(spec.dim) if spec.fields and spec.fields[i % len(spec.fields)] in spec.angles]


def with_positive_w(quaternion: Floats) -> Floats:
    """The same rotations (..., 4), of the two signs the one with w >= 0."""
    return np.where(quaternion[..., 3:] < 0.0, -quaternion, quaternion)


class Interpolation:
    """Interpolates between two samples of a stream.

    Args:
        spec: the stream.
    """

    def __init__(self, spec: ObservationSpec) -> None:
        self._angles = angle_columns(spec)
        self._orientations = orientation_columns(spec)
        self._rotation = spec.rotation if spec.is_pose else "quaternion"

    def between(self, low: Array, high: Array, weight: float) -> Array:
        """The value at `weight` (0 to 1) of the way from `low` to `high`, each (n,), in the type of `low`.

        Raises:
            rotation.BadRotation: if an orientation is none.
        """
        value = (low + weight * (high - low)).astype(low.dtype)  # type: ignore[operator]
        a, b = low.astype(np.float64), high.astype(np.float64)
        if self._angles:
            value[self._angles] = _angles_between(a[self._angles], b[self._angles], weight)
        for columns in self._orientations:
            turned = rotation.slerp(
                rotation.to_quaternion(a[columns], self._rotation),
                rotation.to_quaternion(b[columns], self._rotation),
                weight,
            )
            value[columns] = rotation.from_quaternion(
                with_positive_w(rotation.normalize(turned)), self._rotation
            )
        return value


def _angles_between(low: Floats, high: Floats, weight: float) -> Floats:
    """Angles on the shorter way, in the range of the samples: -pi to pi, 0 to 2 pi, or as they come."""
    way = np.remainder(high - low + np.pi, 2.0 * np.pi) - np.pi
    value = low + weight * way
    around_zero = np.maximum(np.abs(low), np.abs(high)) <= np.pi + 1e-6
    positive = (np.minimum(low, high) >= 0.0) & (np.maximum(low, high) <= 2.0 * np.pi)
    wrapped = np.where(positive, np.remainder(value, 2.0 * np.pi), value)
    return np.where(around_zero, np.remainder(value + np.pi, 2.0 * np.pi) - np.pi, wrapped)
