from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_ros.runtime.prefix import Prefix, prefix_weights


def test_known_rows_weigh_one_and_rows_without_a_plan_nothing() -> None:
    weights = prefix_weights(16, 3, 9)
    assert weights.dtype == np.float32
    assert weights[:3].tolist() == [1, 1, 1]
    assert weights[9:].tolist() == [0] * 7
    assert (np.diff(weights[2:10]) < 0).all()


def test_the_weights_between_are_those_of_the_paper() -> None:
    share = 2 / 4  # row 4 of a plan of 6 rows, 3 of them known
    expected = share * (math.e**share - 1) / (math.e - 1)
    assert prefix_weights(8, 3, 6)[4] == pytest.approx(expected, rel=1e-6)


@given(horizon=st.integers(1, 64), data=st.data())
def test_weights_never_rise(horizon: int, data: st.DataObject) -> None:
    n_planned = data.draw(st.integers(0, horizon))
    n_known = data.draw(st.integers(0, n_planned))
    weights = prefix_weights(horizon, n_known, n_planned)
    assert weights.shape == (horizon,)
    assert (np.diff(weights) <= 0).all()
    assert (weights[n_known:] < 1).all()
    assert ((weights > 0) == (np.arange(horizon) < n_planned)).all()


@pytest.mark.parametrize(("n_known", "n_planned"), [(-1, 3), (4, 3), (0, 17)])
def test_numbers_that_contradict_each_other_are_refused(n_known: int, n_planned: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= n_known <= n_planned <= horizon"):
        prefix_weights(16, n_known, n_planned)


def test_a_prefix_holds_the_plan_and_finite_numbers_after_it() -> None:
    planned = np.arange(12, dtype=np.float64).reshape(6, 2)
    prefix = Prefix.from_plan(planned, n_known=2, horizon=16)
    assert prefix.actions.dtype == np.float32
    assert np.array_equal(prefix.actions[:6], planned)
    assert np.array_equal(prefix.actions[6:], np.tile(planned[-1], (10, 1)))
    assert np.array_equal(prefix.weights, prefix_weights(16, 2, 6))


def test_a_hard_prefix_leaves_all_else_free() -> None:
    prefix = Prefix.from_plan(np.ones((6, 2)), n_known=2, horizon=16, soft=False)
    assert prefix.weights.tolist() == [1, 1] + [0] * 14


def test_no_more_is_known_than_was_planned_and_no_more_planned_than_fits() -> None:
    assert Prefix.from_plan(np.ones((3, 2)), n_known=9, horizon=16).weights.tolist() == [1] * 3 + [0] * 13
    assert Prefix.from_plan(np.ones((20, 2)), n_known=4, horizon=8).actions.shape == (8, 2)


def test_a_plan_of_nothing_is_no_prefix() -> None:
    with pytest.raises(ValueError, match="at least one planned action"):
        Prefix.from_plan(np.empty((0, 2)), n_known=0, horizon=16)
