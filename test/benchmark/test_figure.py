"""The picture is drawn whatever was measured; what it looks like is for people to judge."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from dp_ros.benchmark.figure import draw
from dp_ros.benchmark.report import RuntimeReport
from test.benchmark.reports import full_report


def picture_of(report: RuntimeReport, folder: Path) -> np.ndarray:
    draw(report, folder / "report.png")
    picture = cv2.imread(str(folder / "report.png"))
    assert picture is not None
    return picture


def coloured(picture: np.ndarray) -> int:
    """Pixels that are not grey."""
    return int((np.ptp(picture.astype(int), axis=2) > 30).sum())


def test_all_four_panels_are_drawn(tmp_path: Path) -> None:
    picture = picture_of(full_report(), tmp_path)
    height, width = picture.shape[0] // 2, picture.shape[1] // 2
    for rows in (slice(0, height), slice(height, None)):
        for columns in (slice(0, width), slice(width, None)):
            assert coloured(picture[rows, columns]) > 500


def test_a_report_without_anything_is_drawn_without_numbers(tmp_path: Path) -> None:
    assert coloured(picture_of(RuntimeReport(meta={}), tmp_path)) == 0
