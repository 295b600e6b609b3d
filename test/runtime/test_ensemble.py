"""Temporal ensembling: weights, alignment by time, and what is never averaged."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dp_ros.runtime import rotation
from dp_ros.runtime.ensemble import TemporalEnsemble
from dp_ros.task import ActionSpec, load_task

DT = 100_000_000
T0 = 10_000_000_000


def pusht() -> ActionSpec:
    return load_task("pusht_state").action


def test_the_first_chunk_is_taken_as_it_is() -> None:
    values = np.arange(8.0).reshape(4, 2)
    assert np.array_equal(TemporalEnsemble(pusht()).add(T0, DT, values), values)


def test_predictions_of_one_moment_are_weighted_exponentially_the_oldest_most() -> None:
    m = 0.5
    ensemble = TemporalEnsemble(pusht(), decay=m)
    for k in range(3):
        averaged = ensemble.add(T0 + k * DT, DT, np.full((4, 2), float(k)))
    weights = [math.exp(-m * i) for i in range(3)]
    both = (0 * weights[0] + 1 * weights[1] + 2 * weights[2]) / sum(weights)

    two = (1 * weights[0] + 2 * weights[1]) / sum(weights[:2])
    assert averaged[:, 0] == pytest.approx([both, both, two, 2.0])


def test_chunks_are_aligned_by_time_and_interpolated_between_their_actions() -> None:
    ensemble = TemporalEnsemble(pusht(), decay=0.0)
    ramp = np.repeat(np.arange(6.0)[:, None], 2, axis=1)
    ensemble.add(T0, DT, ramp)
    averaged = ensemble.add(T0 + DT * 3 // 2, DT, ramp[:3] + 1.5)
    assert averaged[:, 0] == pytest.approx([1.5, 2.5, 3.5])


def test_what_says_nothing_about_the_present_is_forgotten() -> None:
    ensemble = TemporalEnsemble(pusht())
    ensemble.add(T0, DT, np.zeros((3, 2)))
    assert np.array_equal(ensemble.add(T0 + 3 * DT, DT, np.ones((3, 2))), np.ones((3, 2)))
    ensemble.clear()
    assert np.array_equal(ensemble.add(T0 + 3 * DT, DT, np.zeros((3, 2))), np.zeros((3, 2)))


def test_grippers_follow_the_newest_chunk_and_quaternions_stay_rotations() -> None:
    names = ["x", "y", "z", "qx", "qy", "qz", "qw", "grip"]
    spec: dict[str, Any] = {
        "topic": "/pose",
        "type": "geometry_msgs/msg/PoseStamped",
        "output": "setpoint",
        "rate_hz": 100,
        "names": names,
        "shape": [8],
        "grippers": [
            {"name": "grip", "close_above": 0.6, "open_below": 0.4, "open": 0.0, "closed": 1.0, "topic": "/g"}
        ],
        "limits": {"position": {"min": [-2.0] * 8, "max": [2.0] * 8}},
    }
    ensemble = TemporalEnsemble(ActionSpec.model_validate(spec), decay=0.0)
    turns = [rotation.from_axis_angle([0.0, 0.0, angle]) for angle in (0.2, 0.6)]
    ensemble.add(T0, DT, np.array([[0.0, 0, 0, *turns[0], 0.0]]))
    (averaged,) = ensemble.add(T0, DT, np.array([[1.0, 0, 0, *-turns[1], 1.0]]))
    assert averaged[0] == 0.5
    assert averaged[7] == 1.0
    middle = rotation.from_axis_angle([0.0, 0.0, 0.4])
    assert rotation.angle_between(averaged[3:7], middle) == pytest.approx(0.0, abs=1e-9)
