"""Jumps at seams: known motions give known jumps."""

from __future__ import annotations

import numpy as np
import pytest

from dp_ros.benchmark.seam import Published, jumps, seam_result, seam_samples
from dp_ros.sim.trajectory_controller import Trajectory

DT_NS = 100_000_000
S = 1_000_000_000


def straight(start_ns: int, position: float, speed: float, steps: int = 8) -> Trajectory:
    """Constant speed, as a position-only trajectory of one joint."""
    times = [i * DT_NS for i in range(steps)]
    return Trajectory(start_ns, ["x"], times, [[position + speed * t / 1e9] for t in times])


def test_constant_speed_has_no_jump() -> None:
    velocity, acceleration = jumps(np.linspace(0.0, 5.0, 100)[:, None])
    assert velocity == pytest.approx(0.0, abs=1e-8)
    assert acceleration == pytest.approx(0.0, abs=1e-5)


def test_a_change_of_speed_is_a_velocity_jump_of_its_size() -> None:
    t = np.arange(100) / 1e3
    x = np.where(t < 0.05, 3.0 * t, 0.15 + 40.0 * (t - 0.05))
    assert jumps(x[:, None])[0] == pytest.approx(37.0)


def test_a_change_of_acceleration_is_an_acceleration_jump_of_its_size() -> None:
    t = np.arange(200) / 1e3
    x = np.where(t < 0.1, 0.0, 0.5 * 600.0 * (t - 0.1) ** 2)
    velocity, acceleration = jumps(x[:, None])
    assert acceleration == pytest.approx(300.0, rel=0.01), "the samples see it in two halves"
    assert velocity == pytest.approx(0.6, rel=0.01), "acceleration times a millisecond"


def test_a_jump_of_the_position_counts_as_that_distance_in_one_millisecond() -> None:
    x = np.zeros((20, 2))
    x[10:] = [3.0, 4.0]
    assert jumps(x)[0] == pytest.approx(5000.0)


def test_too_few_samples_have_no_jump() -> None:
    assert jumps(np.zeros((1, 2))) == (0.0, 0.0)


def test_the_seam_is_between_two_trajectories_and_the_first_has_none() -> None:
    first, second = straight(S, 0.0, 10.0), straight(S + 4 * DT_NS, 4.0, -30.0)
    seams = seam_samples([Published(S, first), Published(S + 4 * DT_NS, second)], ["x"], [0.0], DT_NS)
    assert len(seams) == 1
    result = seam_result(seams)
    assert result.seams == 1
    assert result.velocity_jump_max == pytest.approx(40.0)


def test_a_late_plan_that_starts_elsewhere_counts_with_its_jump_of_position() -> None:
    first, elsewhere = straight(S, 0.0, 10.0), straight(S + 3 * DT_NS, 9.0, 10.0)
    seams = seam_samples([Published(S, first), Published(S + 4 * DT_NS, elsewhere)], ["x"], [0.0], DT_NS)
    assert seam_result(seams).velocity_jump_max == pytest.approx(6.0 / 1e-3)


def test_what_comes_after_the_next_takeover_belongs_to_the_next_seam() -> None:
    published = [Published(S + k * DT_NS, straight(S + k * DT_NS, float(k), 10.0)) for k in range(4)]
    seams = seam_samples(published, ["x"], [0.0], DT_NS)
    assert len(seams) == 3
    assert seam_result(seams).velocity_jump_max == pytest.approx(0.0, abs=1e-6)


def test_no_seam_has_no_jump() -> None:
    result = seam_result([])
    assert (result.velocity_jump_max, result.acceleration_jump_max, result.seams) == (0.0, 0.0, 0)
