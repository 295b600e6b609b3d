"""Windows from a recording: both ways give the same; the figures reach the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dp_ros.benchmark.windows import PlainWindows, made_up_recording, measure
from dp_ros.cli.main import main
from dp_ros.data.windows import cut_windows, load_demonstrations
from test.data.recorded import small_task


def test_both_ways_give_the_same_windows(tmp_path: Path) -> None:
    path, task = str(tmp_path / "x.zarr"), small_task()
    made_up_recording(path, task, 3, 20)
    ours = cut_windows(load_demonstrations(path, task), task, range(3))
    plain, chosen = PlainWindows(path, task), np.arange(len(ours))[::-1]
    for a, b in zip(ours.at(chosen)[0].items(), plain.at(chosen)[0].items(), strict=True):
        assert a[0] == b[0] and a[1].dtype == b[1].dtype
        np.testing.assert_array_equal(a[1], b[1], a[0])
    np.testing.assert_array_equal(ours.at(chosen)[1], plain.at(chosen)[1])
    speed = measure(path, task, batch=4, seconds=0.0)
    assert speed.turns == 3 and min(speed) > 0


def test_the_figures_reach_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, task = tmp_path / "x.zarr", small_task()
    made_up_recording(str(path), task, 2, 20)
    out = tmp_path / "windows.json"
    arguments = ["bench", "windows", "--data", str(path), "--seconds", "0.1", "--batch", "8"]
    assert main([*arguments, "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["task"] == "small" and result["speedup"] > 0 and result["batch"] == 8
    assert "windows/s" in capsys.readouterr().out
    assert main([*arguments, "--batch", "0"]) == 2
