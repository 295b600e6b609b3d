"""Signals keep their stamps, and what is done to them moves nothing in time."""

from __future__ import annotations

import numpy as np
import pytest

from dp_ros.calibration.signals import GRID_S, Signal


def test_samples_are_sorted_and_those_without_stamp_or_value_left_out() -> None:
    signal = Signal.of(
        [3_000_000_000, 1_000_000_000, 0, 1_000_000_000, 2_000_000_000],
        [3.0, 1.0, 9.0, 8.0, np.nan],
        ("q",),
        origin_ns=1_000_000_000,
    )
    assert signal.times_s.tolist() == [0.0, 2.0]
    assert signal.values[:, 0].tolist() == [1.0, 3.0]


def test_smoothing_moves_no_peak() -> None:
    times = np.arange(0, 4, 0.01)
    bump = np.exp(-(((times - 2.0) / 0.2) ** 2))[:, None]
    grid = Signal(times, bump, ("q",)).on_grid()
    assert grid.times_s[np.argmax(grid.values[:, 0])] == pytest.approx(2.0, abs=GRID_S)


def test_smoothing_keeps_a_straight_line() -> None:
    times = np.arange(0, 4, 0.01)
    grid = Signal(times, 3.0 * times[:, None], ("q",)).on_grid()
    assert grid.values[:, 0] == pytest.approx(3.0 * grid.times_s, abs=1e-9)


def test_speed_is_the_size_of_the_velocity() -> None:
    times = np.arange(0, 4, 0.01)
    speed = Signal(times, np.sin(times)[:, None], ("q",)).speed().between(1.0, 3.0)
    assert speed.values[:, 0] == pytest.approx(np.abs(np.cos(speed.times_s)), abs=0.01)


def test_the_integral_of_a_velocity_is_the_position() -> None:
    times = np.arange(0, 4, 0.01)
    position = Signal(times, np.cos(times)[:, None], ("v",)).integral()
    assert position.values[:, 0] == pytest.approx(np.sin(times), abs=1e-4)


def test_a_silence_cuts_a_signal() -> None:
    times = np.concatenate([np.arange(0, 2, 0.01), np.arange(4, 6, 0.01)])
    pieces = Signal(times, times[:, None], ("q",)).pieces()
    assert [round(piece.duration_s, 2) for piece in pieces] == [1.99, 1.99]
