"""Between two samples: linear, the short way round for angles, on the sphere for orientations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_ros.runtime import rotation
from dp_ros.runtime.alignment import Interpolation
from dp_ros.task import ObservationSpec

POSE = [f"position.{a}" for a in "xyz"] + [f"orientation.{a}" for a in "xyzw"]
weights = st.floats(0.0, 1.0)


def spec(**values: Any) -> ObservationSpec:
    return ObservationSpec.model_validate(
        {"topic": "/t", "max_age_s": 1.0, "alignment": "interpolate", **values}
    )


JOINTS = spec(
    type="sensor_msgs/msg/JointState",
    fields=["velocity", "position"],
    names=["lift", "wrist"],
    angles=["wrist"],
    shape=[4],
)


def pose(representation: str) -> ObservationSpec:
    size = 3 + rotation.SIZES[representation]
    return spec(type="geometry_msgs/msg/PoseStamped", fields=POSE, rotation=representation, shape=[size])


def between(stream: ObservationSpec, low: Any, high: Any, weight: float) -> np.ndarray:
    value = Interpolation(stream).between(np.array(low, np.float32), np.array(high, np.float32), weight)
    assert value.dtype == np.float32
    return value


def test_only_positions_of_the_named_joints_are_angles() -> None:
    value = between(JOINTS, [3.0, 3.0, 3.0, 3.0], [-3.0, -3.0, -3.0, -3.0], 0.5)
    assert value[:3].tolist() == [0.0, 0.0, 0.0]
    assert abs(value[3]) == pytest.approx(np.pi, abs=1e-6)


@pytest.mark.parametrize(
    ("low", "high", "weight", "expected"),
    [
        (3.1, -3.1, 0.5, np.pi),
        (3.1, -3.1, 0.9, -3.1083),
        (0.1, 6.2, 0.25, 0.0542),  # a sensor that counts from 0 to 2 pi
        (0.1, 6.2, 0.9, 6.2183),
        (7.0, 7.5, 0.5, 7.25),  # one that counts turns
        (-0.2, 0.4, 0.5, 0.1),
    ],
)
def test_angles_go_the_short_way_and_stay_in_the_range_of_the_sensor(
    low: float, high: float, weight: float, expected: float
) -> None:
    value = float(between(JOINTS, [0, 0, 0, low], [0, 0, 0, high], weight)[3])
    if abs(expected) == np.pi:
        value = abs(value)
    assert value == pytest.approx(expected, abs=1e-3)


@given(low=st.floats(-3.14, 3.14), high=st.floats(-3.14, 3.14), weight=weights)
def test_an_angle_between_two_is_on_the_shorter_arc(low: float, high: float, weight: float) -> None:
    value = float(between(JOINTS, [0, 0, 0, low], [0, 0, 0, high], weight)[3])

    def arc(a: float, b: float) -> float:
        return abs((b - a + np.pi) % (2 * np.pi) - np.pi)

    assert -np.pi - 1e-6 <= value <= np.pi + 1e-6
    assert arc(low, value) + arc(value, high) == pytest.approx(arc(low, high), abs=1e-4)
    assert arc(low, value) == pytest.approx(weight * arc(low, high), abs=1e-4)


@pytest.mark.parametrize("representation", ["quaternion", "axis_angle", "6d"])
@given(seed=st.integers(0, 10_000), weight=weights, flip=st.booleans())
def test_an_orientation_between_two_lies_on_the_shorter_arc_whatever_its_sign(
    representation: str, seed: int, weight: float, flip: bool
) -> None:
    rng = np.random.default_rng(seed)
    a, b = rotation.normalize(rng.normal(size=(2, 4)))
    values = [
        np.concatenate([rng.normal(size=3), rotation.from_quaternion(q, representation)])
        for q in (a, -b if flip and representation == "quaternion" else b)
    ]
    value = between(pose(representation), *values, weight)
    np.testing.assert_allclose(value[:3], (1 - weight) * values[0][:3] + weight * values[1][:3], atol=1e-5)
    turned = rotation.to_quaternion(value[3:], representation)
    whole = float(rotation.angle_between(a, b))
    assert float(rotation.angle_between(a, turned)) == pytest.approx(weight * whole, abs=2e-3)
    assert float(rotation.angle_between(turned, b)) == pytest.approx((1 - weight) * whole, abs=2e-3)
    if representation == "quaternion":
        assert np.linalg.norm(value[3:]) == pytest.approx(1.0, abs=1e-6)
        assert value[6] >= 0.0


def test_each_pose_of_an_array_has_its_own_orientation() -> None:
    stream = spec(
        type="geometry_msgs/msg/PoseArray",
        fields=["orientation.w", "orientation.x", "orientation.y", "orientation.z"],
        shape=[8],
    )
    half = np.sqrt(0.5)
    value = between(stream, [1, 0, 0, 0, 1, 0, 0, 0], [half, half, 0, 0, -half, 0, 0, half], 0.5)
    c, s = np.cos(np.pi / 8), np.sin(np.pi / 8)
    np.testing.assert_allclose(value, [c, s, 0, 0, c, 0, 0, -s], atol=1e-6)
