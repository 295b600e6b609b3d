"""Rotations: every representation says the same thing, near no turn and near half a turn too."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dp_ros.runtime import rotation as rot

several = settings(max_examples=40)

REPRESENTATIONS = ("quaternion", "axis_angle", "6d")
#: Angles where formulas tend to divide by zero, and everything between.
ANGLES = st.one_of(
    st.sampled_from([0.0, 1e-300, 1e-12, 1e-8, 1e-6, np.pi - 1e-6, np.pi - 1e-9, np.pi]),
    st.floats(0.0, np.pi),
)
AXES = arrays(np.float64, 3, elements=st.floats(-1.0, 1.0)).filter(lambda v: np.linalg.norm(v) > 1e-3)


def turn(axis: object, angle: float) -> np.ndarray:
    """Unit quaternion by definition."""
    unit = np.asarray(axis, dtype=float) / np.linalg.norm(axis)
    return np.array([*(np.sin(angle / 2) * unit), np.cos(angle / 2)])


TURNS = st.builds(lambda axis, angle, sign: sign * turn(axis, angle), AXES, ANGLES, st.sampled_from([1, -1]))


def same(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-12) -> bool:
    """Whether two quaternions are one rotation, whatever their sign."""
    return bool(min(np.abs(a - b).max(), np.abs(a + b).max()) < tolerance)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@several
@given(quaternion=TURNS)
def test_a_rotation_survives_the_way_into_a_representation_and_back(
    representation: str, quaternion: np.ndarray
) -> None:
    values = rot.from_quaternion(quaternion, representation)
    assert values.shape == (rot.SIZES[representation],)
    assert same(rot.to_quaternion(values, representation), quaternion)


@several
@given(quaternion=TURNS)
def test_both_signs_of_a_quaternion_are_one_rotation(quaternion: np.ndarray) -> None:
    assert np.allclose(rot.to_matrix(quaternion), rot.to_matrix(-quaternion), atol=1e-15)
    assert np.allclose(rot.to_6d(quaternion), rot.to_6d(-quaternion), atol=1e-15)
    if abs(quaternion[3]) > 1e-6:  # at half a turn both directions are right
        assert np.allclose(rot.to_axis_angle(quaternion), rot.to_axis_angle(-quaternion))


@several
@given(axis=AXES, angle=st.floats(0.0, np.pi))
def test_the_length_of_a_rotation_vector_is_the_angle(axis: np.ndarray, angle: float) -> None:
    vector = rot.to_axis_angle(turn(axis, angle))
    assert np.linalg.norm(vector) == pytest.approx(angle, abs=1e-12)
    assert np.linalg.norm(vector) <= np.pi + 1e-12


@several
@given(vector=arrays(np.float64, 3, elements=st.floats(-20.0, 20.0)))
def test_a_rotation_vector_of_several_turns_is_the_rotation_it_ends_in(vector: np.ndarray) -> None:
    quaternion = rot.from_axis_angle(vector)
    assert np.linalg.norm(quaternion) == pytest.approx(1.0, abs=1e-12)
    assert same(rot.from_axis_angle(rot.to_axis_angle(quaternion)), quaternion)


@several
@given(quaternion=TURNS)
def test_matrices_are_rotations_and_come_back(quaternion: np.ndarray) -> None:
    matrix = rot.to_matrix(quaternion)
    assert np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1.0)
    assert same(rot.from_matrix(matrix), quaternion)
    assert np.allclose(rot.to_6d(quaternion), matrix[:, :2].T.reshape(6), atol=1e-12)


@several
@given(a=TURNS, b=TURNS, v=arrays(np.float64, 3, elements=st.floats(-10, 10)))
def test_composition_follows_matrices_and_the_inverse_undoes_it(
    a: np.ndarray, b: np.ndarray, v: np.ndarray
) -> None:
    assert np.allclose(rot.to_matrix(rot.compose(a, b)), rot.to_matrix(a) @ rot.to_matrix(b), atol=1e-12)
    assert np.allclose(rot.rotate(a, v), rot.to_matrix(a) @ v, atol=1e-12)
    assert same(rot.compose(rot.compose(a, b), rot.inverse(b)), a)
    assert same(rot.compose(a, rot.inverse(a)), rot.IDENTITY)


def test_a_quarter_turn_about_z_takes_x_to_y() -> None:
    quarter = rot.from_axis_angle([0.0, 0.0, np.pi / 2])
    assert np.allclose(quarter, [0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)])
    assert np.allclose(rot.rotate(quarter, [1.0, 0.0, 0.0]), [0.0, 1.0, 0.0])


@several
@given(
    quaternion=TURNS,
    scale=st.tuples(st.floats(0.01, 50.0), st.floats(0.01, 50.0)),
    shear=st.floats(-5.0, 5.0),
)
def test_what_a_network_gives_as_6d_is_made_orthogonal(
    quaternion: np.ndarray, scale: tuple[float, float], shear: float
) -> None:
    first, second = rot.to_6d(quaternion).reshape(2, 3)
    crooked = np.concatenate([scale[0] * first, scale[1] * second + shear * first])
    assert same(rot.from_6d(crooked), quaternion, 1e-9)


@several
@given(a=TURNS, b=TURNS, weight=st.floats(0.0, 1.0))
def test_slerp_goes_the_shorter_way_at_constant_speed(a: np.ndarray, b: np.ndarray, weight: float) -> None:
    whole = rot.angle_between(a, b)
    middle = rot.slerp(a, b, weight)
    assert np.linalg.norm(middle) == pytest.approx(1.0, abs=1e-12)
    assert rot.angle_between(a, middle) == pytest.approx(weight * whole, abs=1e-9)
    assert rot.angle_between(middle, b) == pytest.approx((1.0 - weight) * whole, abs=1e-9)


@several
@given(a=TURNS, b=TURNS)
def test_slerp_begins_at_a_and_ends_at_b(a: np.ndarray, b: np.ndarray) -> None:
    assert np.array_equal(rot.slerp(a, b, 0.0), a)
    assert np.allclose(rot.slerp(a, b, 1.0), rot.align(b, a), atol=1e-15)


def test_slerp_between_nearly_equal_rotations_keeps_its_digits() -> None:
    a, b = turn([1, 2, 3], 1.0), turn([1, 2, 3], 1.0 + 1e-9)
    assert rot.angle_between(a, rot.slerp(a, b, 0.25)) == pytest.approx(0.25e-9, rel=1e-5)


@several
@given(st.lists(TURNS, min_size=1, max_size=6), TURNS)
def test_an_aligned_sequence_never_jumps_to_the_other_sign(
    turns: list[np.ndarray], before: np.ndarray
) -> None:
    given_ = np.array(turns)
    aligned = rot.align_sequence(given_, before)
    steps = np.concatenate([before[np.newaxis], aligned])
    assert ((steps[1:] * steps[:-1]).sum(axis=1) >= 0.0).all()
    assert all(same(a, b, 1e-15) for a, b in zip(aligned, given_, strict=True))
    assert np.array_equal(rot.align_sequence(given_)[0], given_[0])


@several
@given(arrays(np.float64, (3, 5, 4), elements=st.floats(-1.0, 1.0)))
def test_whole_arrays_give_what_single_rotations_give(values: np.ndarray) -> None:
    values = values + np.array([0.0, 0.0, 0.0, 3.0])
    q = rot.normalize(values)
    for one in (rot.to_axis_angle, rot.to_6d, rot.to_matrix, rot.inverse):
        assert np.array_equal(one(q)[2, 4], one(q[2, 4]))
    assert np.array_equal(rot.compose(q, q[::-1])[1, 3], rot.compose(q[1, 3], q[1, 3]))
    weights = np.linspace(0, 1, 5)
    assert np.allclose(rot.slerp(q, q[:, ::-1], weights)[1, 3], rot.slerp(q[1, 3], q[1, 1], 0.75), atol=1e-15)
    assert np.allclose(rot.from_6d(rot.to_6d(q)), rot.align(q, rot.from_6d(rot.to_6d(q))), atol=1e-12)


@pytest.mark.parametrize(
    ("values", "representation"),
    [
        ([0.0, 0.0, 0.0, 0.0], "quaternion"),
        ([np.nan, 0.0, 0.0, 1.0], "quaternion"),
        ([0.0, 0.0, 0.0, 1.0, 0.0, 0.0], "6d"),
        ([1.0, 2.0, 3.0, 2.0, 4.0, 6.0], "6d"),
    ],
)
def test_values_that_stand_for_no_rotation_are_refused(values: list[float], representation: str) -> None:
    with pytest.raises(rot.BadRotation):
        rot.to_quaternion(values, representation)


def test_an_unknown_representation_or_a_wrong_number_of_values_is_named() -> None:
    with pytest.raises(ValueError, match="rotation is 'euler', expected one of quaternion, axis_angle, 6d"):
        rot.to_quaternion([0.0, 0.0, 0.0], "euler")
    with pytest.raises(ValueError, match=r"6d has 6 values, got shape \[4\]"):
        rot.to_quaternion([0.0, 0.0, 0.0, 1.0], "6d")
