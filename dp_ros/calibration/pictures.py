"""Motion in pictures as signals: where the moving thing is, how the whole picture shifts, how much changes.

Three simple measurements, of which a calibration takes the one that says most. `target_position` follows what
differs from the background, which suits a fixed camera that sees the arm or something it holds; `picture_shift`
suits a camera on the wrist; `motion_energy` asks least of the scene. Easy to get wrong: what happened between
two frames belongs to the time half way between them; at the stamp of the later one it would add half a period
to the latency.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_ros.calibration.signals import CalibrationError, Signal

#: Longer side of the grey pictures that are kept of a camera's.
THUMBNAIL_PX = 64
_NOISE = 3.0  # differences below so many standard deviations of the picture noise are not motion
_PASS = 0.15  # standard deviation of the low-pass on picture shifts, cycles per pixel
Pixels = NDArray[np.uint8]


def thumbnail(pixels: NDArray[Any]) -> Pixels:
    """A small grey picture (h, w) uint8 of one of any kind (height, width, channels), by averaging blocks.

    Depth and 16-bit pictures are divided by their own largest value of the type that makes them 8-bit.
    """
    grey = pixels.astype(np.float32).mean(axis=2)
    if pixels.dtype != np.uint8:
        top = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 10.0
        grey = np.clip(np.nan_to_num(grey) / top, 0.0, 1.0) * 255.0
    factor = max(-(-max(grey.shape) // THUMBNAIL_PX), 1)
    height, width = (size // factor for size in grey.shape)
    blocks = grey[: height * factor, : width * factor].reshape(height, factor, width, factor)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)


def motion_energy(times_s: NDArray[np.float64], frames: Pixels) -> Signal:
    """Mean absolute change between consecutive frames, per second, at the times half way between them.

    Args:
        times_s: (n,) strictly increasing.
        frames: (n, height, width) grey.
    """
    _require(frames)
    middle, step_s, usual = _between(times_s)
    change = np.abs(np.diff(frames.astype(np.float32), axis=0))
    change = np.maximum(change - _NOISE * np.median(change), 0.0).mean(axis=(1, 2)) / step_s
    return Signal(middle[usual], change[usual, None].astype(np.float64), ("motion energy",))


def picture_shift(times_s: NDArray[np.float64], frames: Pixels) -> Signal:
    """How fast the picture moves as a whole, in pixels per second, half way between consecutive frames.

    The shift is the peak of the phase correlation (Kuglin and Hines, 1975) of the windowed frames, to a fraction
    of a pixel by parabolas; high frequencies, which are noise here, are left out.

    Args:
        times_s: (n,) strictly increasing.
        frames: (n, height, width) grey.
    """
    _require(frames)
    middle, step_s, usual = _between(times_s)
    height, width = frames.shape[1:]
    window = np.hanning(height)[:, None] * np.hanning(width)
    scene = frames.astype(np.float32)
    spectra = np.fft.rfft2((scene - scene.mean(axis=(1, 2), keepdims=True)) * window)
    cross = spectra[1:] * spectra[:-1].conj()
    size = np.abs(cross)
    cross /= size + 1e-3 * size.mean(axis=(1, 2), keepdims=True) + 1e-12
    cross *= np.exp(-(np.fft.fftfreq(height)[:, None] ** 2 + np.fft.rfftfreq(width) ** 2) / (2 * _PASS**2))
    surfaces = np.fft.irfft2(cross, s=(height, width))
    shifts = np.array([_peak_of(surface) for surface in surfaces])
    return Signal(middle[usual], (shifts / step_s[:, None])[usual], ("picture shift x", "picture shift y"))


def _between(
    times_s: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Times half way between frames, the steps, and which are usual: over a lost frame anything may happen."""
    step_s = np.diff(times_s)
    return (times_s[1:] + times_s[:-1]) / 2, step_s, step_s < 1.5 * np.median(step_s)


def _peak_of(surface: NDArray[np.float64]) -> tuple[float, float]:
    """Shift (x, y) of the highest point of a correlation surface, signed."""
    row, column = (int(i) for i in np.unravel_index(surface.argmax(), surface.shape))
    shift = []
    for line, place in ((surface[row], column), (surface[:, column], row)):
        before, top, after = line[place - 1], line[place], line[(place + 1) % len(line)]
        bend = before - 2 * top + after
        fine = place + (0.5 * (before - after) / bend if bend < 0 else 0.0)
        shift.append((fine + len(line) / 2) % len(line) - len(line) / 2)
    return shift[0], shift[1]


def target_position(times_s: NDArray[np.float64], frames: Pixels) -> Signal:
    """Centre of what differs from the background (the median picture), in pixels, where there is anything.

    Args:
        times_s: (n,) strictly increasing.
        frames: (n, height, width) grey.
    """
    _require(frames)
    background = np.median(frames[:: max(len(frames) // 200, 1)], axis=0)
    difference = np.abs(frames.astype(np.float32) - background)
    weight = np.maximum(difference - _NOISE * max(float(np.median(difference)), 1.0), 0.0)
    total = weight.sum(axis=(1, 2))
    seen = total > 0.2 * np.median(total)
    if seen.sum() < 2:
        return Signal(times_s[:0], np.zeros((0, 2)), ("target x", "target y"))
    rows, columns = np.indices(frames.shape[1:])
    total = np.maximum(total, 1e-9)
    centre = np.stack([(weight * axis).sum(axis=(1, 2)) / total for axis in (columns, rows)], axis=1)
    return Signal(times_s[seen], centre[seen], ("target x", "target y"))


def _require(frames: Pixels) -> None:
    if len(frames) < 10 or not np.ptp(frames, axis=0).any():
        raise CalibrationError(
            f"{len(frames)} picture(s), in which nothing changes: is the camera running, and does it see the motion?"
        )
