"""What moves in pictures, and the camera latency that follows from it."""

from __future__ import annotations

import numpy as np
import pytest

from dp_ros.calibration.pictures import motion_energy, picture_shift, target_position, thumbnail
from dp_ros.calibration.signals import CalibrationError
from test.calibration.scenes import fixed_camera, wrist_camera


def test_a_thumbnail_is_grey_and_small() -> None:
    picture = np.zeros((480, 640, 3), dtype=np.uint8)
    picture[:, 320:] = (30, 60, 90)
    small = thumbnail(picture)
    assert small.shape == (48, 64)
    assert small.dtype == np.uint8
    assert (small[0, 0], small[0, -1]) == (0, 60)


@pytest.mark.parametrize(("dtype", "value", "grey"), [("uint16", 65535, 255), ("float32", 5.0, 128)])
def test_a_depth_picture_has_a_thumbnail_too(dtype: str, value: float, grey: int) -> None:
    assert thumbnail(np.full((96, 96, 1), value, dtype=dtype)).max() == grey


def test_the_change_between_two_pictures_lies_half_way_between_them() -> None:
    times = 0.1 * np.arange(12)
    frames = np.zeros((12, 20, 20), dtype=np.uint8)
    frames[6:, 5, 5] = 200
    energy = motion_energy(times, frames)
    assert energy.times_s[np.argmax(energy.values)] == pytest.approx(0.55)


def test_a_lost_picture_is_no_motion() -> None:
    times = np.delete(0.1 * np.arange(20), 10)
    frames = np.random.default_rng(0).integers(0, 255, (19, 8, 8)).astype(np.uint8)
    assert len(motion_energy(times, frames).times_s) == 17


def test_the_target_is_where_the_picture_differs_from_the_background() -> None:
    times = np.arange(0, 10, 0.1)
    path = np.stack([np.sin(times), 0.5 * np.cos(1.7 * times)], axis=1)
    found = target_position(times, fixed_camera(path, noise=3.0))
    for column in range(2):
        assert np.corrcoef(found.values[:, column], path[:, column])[0, 1] > 0.99


def test_the_shift_of_a_picture_is_how_fast_the_camera_moves() -> None:
    times = np.arange(0, 10, 1 / 30)
    path = np.stack([0.5 * np.sin(times), 0.3 * np.cos(1.7 * times)], axis=1)
    found = picture_shift(times, wrist_camera(path, noise=3.0))
    moved_px = np.diff(path * [40, 30], axis=0) * 30  # the scene passes the other way
    for seen, moved in zip(found.values.T, -moved_px.T, strict=True):
        assert np.polyfit(moved, seen, 1)[0] == pytest.approx(1.0, abs=0.1)
        assert np.corrcoef(seen, moved)[0, 1] > 0.9


def test_pictures_in_which_nothing_changes_are_refused() -> None:
    still = np.full((30, 20, 20), 7, dtype=np.uint8)
    for measure in (motion_energy, picture_shift, target_position):
        with pytest.raises(CalibrationError, match="nothing changes"):
            measure(0.1 * np.arange(30), still)
