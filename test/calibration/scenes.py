"""Small grey pictures of a moving arm: from a camera that stands, and from one on the wrist."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 48, 64
Floats = NDArray[np.float64]


def fixed_camera(path: Floats, noise: float = 4.0, seed: int = 0) -> NDArray[np.uint8]:
    """A bright ball on a textured table, at `path` (n, 2) from -1 to 1."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((HEIGHT, WIDTH))
    table = rng.integers(60, 120, (HEIGHT, WIDTH))
    frames = np.empty((len(path), HEIGHT, WIDTH), dtype=np.uint8)
    for i, (x, y) in enumerate(path):
        ball = np.clip(6 - np.hypot(columns - 32 - 18 * x, rows - 24 - 14 * y), 0, 1)
        frames[i] = np.clip(
            table * (1 - ball) + 220 * ball + noise * rng.standard_normal(table.shape), 0, 255
        )
    return frames


def wrist_camera(path: Floats, noise: float = 4.0, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth scene of which a window at `path` (n, 2) from -1 to 1 is seen."""
    rng = np.random.default_rng(seed)
    scene = np.kron(rng.integers(0, 255, (30, 40)), np.ones((8, 8)))
    for axis in (0, 1):
        scene = sum(np.roll(scene, shift, axis) for shift in range(-4, 5)) / 9
    frames = np.empty((len(path), HEIGHT, WIDTH), dtype=np.uint8)
    for i, (x, y) in enumerate(path):
        row, column = 80 + 30 * y, 100 + 40 * x
        top, left = int(row), int(column)
        a, b = row - top, column - left
        part = scene[top : top + HEIGHT + 1, left : left + WIDTH + 1]
        part = (1 - a) * part[:-1] + a * part[1:]
        part = (1 - b) * part[:, :-1] + b * part[:, 1:]
        frames[i] = np.clip(part + noise * rng.standard_normal(part.shape), 0, 255)
    return frames
