"""The gate: nothing that leaves it breaks a limit, whatever goes in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dp_ros.runtime.safety import BadAction, LimitGate
from dp_ros.task import ActionSpec

DT_S = 0.1


def gate(velocity: list[float] | None = None) -> LimitGate:
    limits = {"position": {"min": [-1.0, 0.0], "max": [1.0, 10.0]}, "velocity": velocity}
    return LimitGate(
        ActionSpec.model_validate(
            {
                "topic": "/command",
                "type": "trajectory_msgs/msg/JointTrajectory",
                "output": "trajectory",
                "names": ["a", "b"],
                "shape": [2],
                "limits": limits,
            }
        ),
        DT_S,
    )


def test_positions_beyond_a_limit_are_clamped_and_counted() -> None:
    safe, changed = gate().clamp(np.array([[0.5, 5.0], [2.0, -1.0]], np.float32), None)
    assert safe.tolist() == [[0.5, 5.0], [1.0, 0.0]]
    assert changed == 2


def test_the_first_step_counts_from_what_is_commanded_now() -> None:
    safe, _ = gate([1.0, 10.0]).clamp(np.array([[1.0, 5.0], [1.0, 5.0]]), np.array([0.0, 5.0]))
    assert safe[:, 0].tolist() == pytest.approx([0.1, 0.2])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_never_passes(bad: float) -> None:
    with pytest.raises(BadAction, match="action 1 of b"):
        gate().clamp(np.array([[0.0, 1.0], [0.0, bad]]), None)


def test_actions_of_the_wrong_width_never_pass() -> None:
    with pytest.raises(BadAction, match=r"\[3, 3\]"):
        gate().clamp(np.zeros((3, 3)), None)


@given(
    values=hnp.arrays(np.float64, (8, 2), elements=st.floats(-1e6, 1e6)),
    commanded=st.tuples(st.floats(-1.0, 1.0), st.floats(0.0, 10.0)),
)
def test_no_position_and_no_step_leaves_beyond_its_limit(
    values: np.ndarray[tuple[int, int], np.dtype[np.float64]], commanded: tuple[float, float]
) -> None:
    start = np.array(commanded)
    safe, _ = gate([1.0, 10.0]).clamp(values, start)
    assert (safe >= [-1.0, 0.0]).all()
    assert (safe <= [1.0, 10.0]).all()
    steps = np.abs(np.diff(np.vstack([start, safe]), axis=0))
    assert (steps <= np.array([0.1, 1.0]) + 1e-9).all()
