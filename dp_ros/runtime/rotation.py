"""Rotations as arrays: unit quaternions in ROS order (x, y, z, w), axis-angle vectors and the 6-D form.

Everything works on the last axis of an array, so a whole chunk is converted in one call. A quaternion q and
its negative are the same rotation: easy to get wrong wherever two of them are subtracted, averaged or
interpolated, which is what `align` and `align_sequence` are for. Composition follows matrices:
`compose(a, b)` turns by b first and by a second, or by a and then by b about the axes that a has turned.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Representation = Literal["quaternion", "axis_angle", "6d"]
#: Number of values of each representation.
SIZES: dict[str, int] = {"quaternion": 4, "axis_angle": 3, "6d": 6}
#: No rotation.
IDENTITY: Floats = np.array([0.0, 0.0, 0.0, 1.0])
_TINY = 1e-8


class BadRotation(ValueError):
    """Values that stand for no rotation: a quaternion of length zero, parallel 6-D columns."""


def to_quaternion(values: npt.ArrayLike, representation: str) -> Floats:
    """Rotations of any representation, (..., 3 | 4 | 6), as unit quaternions (..., 4).

    Raises:
        BadRotation: if the values stand for no rotation.
        ValueError: if the representation is unknown or has another number of values.
    """
    given = _check(values, representation)
    if representation == "quaternion":
        return normalize(given)
    return from_axis_angle(given) if representation == "axis_angle" else from_6d(given)


def from_quaternion(quaternion: npt.ArrayLike, representation: str) -> Floats:
    """Unit quaternions (..., 4) in any representation, (..., 3 | 4 | 6).

    Raises:
        ValueError: if the representation is unknown.
    """
    given = _check(quaternion, "quaternion")
    if representation == "quaternion":
        return given.copy()
    if representation not in SIZES:
        raise ValueError(f"rotation is {representation!r}, expected one of {', '.join(SIZES)}")
    return to_axis_angle(given) if representation == "axis_angle" else to_6d(given)


def normalize(quaternion: npt.ArrayLike) -> Floats:
    """Quaternions (..., 4) scaled to length 1.

    Raises:
        BadRotation: if one is shorter than 1e-8 or not finite.
    """
    given = np.asarray(quaternion, dtype=np.float64)
    norm = np.linalg.norm(given, axis=-1, keepdims=True)
    if not np.all((norm > _TINY) & np.isfinite(norm)):
        raise BadRotation(f"a quaternion of length {float(np.min(norm)):g} is no rotation")
    return given / norm


def compose(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """The rotation b and after it a, both about fixed axes: (..., 4), broadcast (Hamilton product a b)."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    a_v, a_w, b_v, b_w = a[..., :3], a[..., 3:], b[..., :3], b[..., 3:]
    vector = a_w * b_v + b_w * a_v + _cross(a_v, b_v)
    scalar = a_w * b_w - (a_v * b_v).sum(axis=-1, keepdims=True)
    return np.concatenate([vector, scalar], axis=-1)


def inverse(quaternion: npt.ArrayLike) -> Floats:
    """The rotations back, (..., 4), of unit quaternions."""
    return np.asarray(quaternion, dtype=np.float64) * np.array([-1.0, -1.0, -1.0, 1.0])


def rotate(quaternion: npt.ArrayLike, vector: npt.ArrayLike) -> Floats:
    """Vectors (..., 3) turned by unit quaternions (..., 4), broadcast."""
    q, v = np.asarray(quaternion, dtype=np.float64), np.asarray(vector, dtype=np.float64)
    twice = 2.0 * _cross(q[..., :3], v)
    return v + q[..., 3:] * twice + _cross(q[..., :3], twice)


def angle_between(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """Angle of the rotation from a to b, (...,) radians in [0, pi], of unit quaternions.

    By the half-angle formula of W. Kahan, which keeps its digits for angles near 0.
    """
    a = np.asarray(a, dtype=np.float64)
    b = align(b, a)
    return 4.0 * np.arctan2(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1))


def align(quaternion: npt.ArrayLike, reference: npt.ArrayLike) -> Floats:
    """The same rotations (..., 4), of the two signs the one nearer to `reference`."""
    q = np.asarray(quaternion, dtype=np.float64)
    opposite = (q * np.asarray(reference, dtype=np.float64)).sum(axis=-1, keepdims=True) < 0.0
    return np.where(opposite, -q, q)


def align_sequence(quaternions: npt.ArrayLike, reference: npt.ArrayLike | None = None) -> Floats:
    """The same rotations (n, 4), each with the sign nearer to the one before it.

    Args:
        quaternions: in the order of time.
        reference: (4,) what comes before the first; the first keeps its sign if None.
    """
    q = np.asarray(quaternions, dtype=np.float64)
    before = q[:1] if reference is None else np.asarray(reference, dtype=np.float64)[np.newaxis]
    dots = (q * np.concatenate([before, q[:-1]])).sum(axis=-1)
    return q * np.cumprod(np.where(dots < 0.0, -1.0, 1.0))[:, np.newaxis]


def slerp(a: npt.ArrayLike, b: npt.ArrayLike, weight: npt.ArrayLike) -> Floats:
    """From a (weight 0) to b (weight 1) the shorter way and at constant speed, (..., 4).

    Spherical linear interpolation (K. Shoemake, SIGGRAPH 1985). At weight 0 it is exactly a; at weight 1 it
    is b with the sign nearer to a. Weights beyond 0 and 1 go on at the same speed.

    Args:
        a: (..., 4) unit quaternions.
        b: the same.
        weight: broadcast against the leading axes.
    """
    a = np.asarray(a, dtype=np.float64)
    b = align(b, a)
    t = np.asarray(weight, dtype=np.float64)[..., np.newaxis]
    theta = 2.0 * np.arctan2(
        np.linalg.norm(a - b, axis=-1, keepdims=True), np.linalg.norm(a + b, axis=-1, keepdims=True)
    )
    # sin(t theta) / sin(theta) by sinc, which knows the limit at 0; theta is at most pi / 2 here.
    whole = np.sinc(theta / np.pi)
    return (1.0 - t) * (np.sinc((1.0 - t) * theta / np.pi) / whole) * a + t * (
        np.sinc(t * theta / np.pi) / whole
    ) * b


def from_axis_angle(vector: npt.ArrayLike) -> Floats:
    """Rotation vectors (..., 3), axis times angle in radians, as unit quaternions (..., 4)."""
    v = np.asarray(vector, dtype=np.float64)
    half = 0.5 * np.linalg.norm(v, axis=-1, keepdims=True)
    return np.concatenate([0.5 * np.sinc(half / np.pi) * v, np.cos(half)], axis=-1)


def to_axis_angle(quaternion: npt.ArrayLike) -> Floats:
    """Unit quaternions (..., 4) as rotation vectors (..., 3) of length pi at most."""
    q = np.asarray(quaternion, dtype=np.float64)
    q = np.where(q[..., 3:] < 0.0, -q, q)
    sine = np.linalg.norm(q[..., :3], axis=-1, keepdims=True)
    angle = 2.0 * np.arctan2(sine, q[..., 3:])
    # angle / sine goes to 2 where the angle goes to 0.
    return q[..., :3] * np.where(sine > _TINY, angle / np.maximum(sine, _TINY), 2.0)


def from_matrix(matrix: npt.ArrayLike) -> Floats:
    """Rotation matrices (..., 3, 3) as unit quaternions (..., 4).

    Of the four ways to solve for a quaternion it takes, for each matrix, the one that divides by the largest
    element (S. W. Shepperd, J. Guidance and Control 1, 1978): none fails near 180 degrees.
    """
    m = np.asarray(matrix, dtype=np.float64)
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    s01, s02, s12 = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    d21, d02, d10 = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    # Row i is 4 q_i times the quaternion, so each is right up to its length, the longest one best.
    rows = np.stack(
        [
            np.stack([1.0 + xx - yy - zz, s01, s02, d21], axis=-1),
            np.stack([s01, 1.0 - xx + yy - zz, s12, d02], axis=-1),
            np.stack([s02, s12, 1.0 - xx - yy + zz, d10], axis=-1),
            np.stack([d21, d02, d10, 1.0 + xx + yy + zz], axis=-1),
        ],
        axis=-2,
    )
    largest = np.argmax(np.diagonal(rows, axis1=-2, axis2=-1), axis=-1)
    return normalize(np.take_along_axis(rows, largest[..., np.newaxis, np.newaxis], axis=-2)[..., 0, :])


def to_matrix(quaternion: npt.ArrayLike) -> Floats:
    """Unit quaternions (..., 4) as rotation matrices (..., 3, 3)."""
    q = np.asarray(quaternion, dtype=np.float64)
    columns = [rotate(q, axis) for axis in np.eye(3)]
    return np.stack(columns, axis=-1)


def from_6d(values: npt.ArrayLike) -> Floats:
    """6-D rotations (..., 6) as unit quaternions (..., 4), by Gram and Schmidt.

    "On the Continuity of Rotation Representations in Neural Networks", Zhou et al. 2019, arXiv 1812.07035,
    equations 15 and 16: the values are the first column of the matrix and then the second, and what a network
    gives need be neither of length 1 nor orthogonal. (Some libraries take the first two rows instead.)

    Raises:
        BadRotation: if a column is zero or both are parallel.
    """
    given = np.asarray(values, dtype=np.float64)
    first = _unit(given[..., :3])
    rest = given[..., 3:]
    second = _unit(rest - (first * rest).sum(axis=-1, keepdims=True) * first)
    return from_matrix(np.stack([first, second, _cross(first, second)], axis=-1))


def to_6d(quaternion: npt.ArrayLike) -> Floats:
    """Unit quaternions (..., 4) as 6-D rotations (..., 6): first and second column of the matrix."""
    q = np.asarray(quaternion, dtype=np.float64)
    return np.concatenate([rotate(q, [1.0, 0.0, 0.0]), rotate(q, [0.0, 1.0, 0.0])], axis=-1)


def _unit(vector: Floats) -> Floats:
    norm = np.linalg.norm(vector, axis=-1, keepdims=True)
    if not np.all((norm > _TINY) & np.isfinite(norm)):
        raise BadRotation("6-D rotation values with a zero column, or with both columns parallel")
    return vector / norm


def _cross(a: Floats, b: Floats) -> Floats:
    """Cross product over the last axis, several times faster than `numpy.cross` on small arrays."""
    a0, a1, a2 = a[..., 0], a[..., 1], a[..., 2]
    b0, b1, b2 = b[..., 0], b[..., 1], b[..., 2]
    return np.stack([a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0], axis=-1)


def _check(values: npt.ArrayLike, representation: str) -> Floats:
    given = np.asarray(values, dtype=np.float64)
    if representation not in SIZES:
        raise ValueError(f"rotation is {representation!r}, expected one of {', '.join(SIZES)}")
    if given.shape[-1:] != (SIZES[representation],):
        raise ValueError(
            f"{representation} has {SIZES[representation]} values, got shape {list(given.shape)}"
        )
    return given
