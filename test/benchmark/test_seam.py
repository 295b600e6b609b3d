"""Jumps at seams: known motions give known jumps."""

from __future__ import annotations

import numpy as np
import pytest

from dp_ros.benchmark.report import SeamResult
from dp_ros.benchmark.seam import Published, Seam, jumps, seam_result, seams_of
from dp_ros.sim.trajectory_controller import Trajectory

DT_NS = 100_000_000
S = 1_000_000_000


def straight(start_ns: int, position: float, speed: float, steps: int = 8) -> Trajectory:
    """Constant speed, as a position-only trajectory of one joint."""
    times = [i * DT_NS for i in range(steps)]
    return Trajectory(start_ns, ["x"], times, [[position + speed * t / 1e9] for t in times])


def split(x: np.ndarray, at: int) -> Seam:
    """Samples (n,) of one joint with a takeover."""
    return Seam(x[:at, None], x[at:, None])


def test_constant_speed_has_no_jump() -> None:
    position, velocity, acceleration = jumps(split(np.linspace(0.0, 5.0, 100), 4))
    assert position == pytest.approx(0.0, abs=1e-10)
    assert velocity == pytest.approx(0.0, abs=1e-8)
    assert acceleration == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("at", [4, 50, 51])
def test_a_change_of_speed_is_a_velocity_jump_of_its_size(at: int) -> None:
    t = np.arange(100) / 1e3
    x = np.where(t < 0.05, 3.0 * t, 0.15 + 40.0 * (t - 0.05))
    assert jumps(split(x, at))[1] == pytest.approx(37.0)


def test_a_change_of_acceleration_is_an_acceleration_jump_of_its_size() -> None:
    t = np.arange(200) / 1e3
    x = np.where(t < 0.1, 0.0, 0.5 * 600.0 * (t - 0.1) ** 2)
    _, velocity, acceleration = jumps(split(x, 4))
    assert acceleration == pytest.approx(300.0, rel=0.01), "the samples see it in two halves"
    assert velocity == pytest.approx(0.6, rel=0.01), "acceleration times a millisecond"


def test_a_step_at_the_takeover_is_a_jump_of_the_position_and_of_nothing_else() -> None:
    x = np.arange(20) * 0.01
    x[10:] += 5.0
    assert jumps(split(x, 10)) == pytest.approx((5.0, 0.0, 0.0), abs=1e-6)


def test_the_seam_is_between_two_trajectories_and_the_first_has_none() -> None:
    first, second = straight(S, 0.0, 10.0), straight(S + 4 * DT_NS, 4.0, -30.0)
    seams = seams_of([Published(S, first), Published(S + 4 * DT_NS, second)], ["x"], [0.0], DT_NS)
    assert len(seams) == 1
    result = seam_result(seams)
    assert result.seams == 1
    assert result.velocity_jump_max == pytest.approx(40.0)


def test_a_late_plan_that_starts_elsewhere_jumps_in_position() -> None:
    first, elsewhere = straight(S, 0.0, 10.0), straight(S + 3 * DT_NS, 9.0, 10.0)
    seams = seams_of([Published(S, first), Published(S + 4 * DT_NS, elsewhere)], ["x"], [0.0], DT_NS)
    result = seam_result(seams)
    assert result.position_jump_max == pytest.approx(6.0)
    assert result.velocity_jump_max == pytest.approx(0.0, abs=1e-6)


def test_what_comes_after_the_next_takeover_belongs_to_the_next_seam() -> None:
    published = [Published(S + k * DT_NS, straight(S + k * DT_NS, float(k), 10.0)) for k in range(4)]
    seams = seams_of(published, ["x"], [0.0], DT_NS)
    assert len(seams) == 3
    assert seam_result(seams).velocity_jump_max == pytest.approx(0.0, abs=1e-6)


def test_no_seam_has_no_jump() -> None:
    assert seam_result([]) == SeamResult(0.0, 0.0, 0.0, 0)


def test_a_trajectory_that_the_robot_would_refuse_is_an_error() -> None:
    backwards = Trajectory(S, ["x"], [DT_NS, 0], [[0.0], [1.0]])
    with pytest.raises(ValueError, match="refused"):
        seams_of([Published(S, backwards)], ["x"], [0.0], DT_NS)
