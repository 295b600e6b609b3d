"""`dp-ros bench` on a model and on random weights, as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from dp_ros.cli.main import main  # noqa: E402


def test_random_weights_are_measured_with_each_number_of_threads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pieces_exported_once: None
) -> None:
    arguments = ["bench", "--widths", "8,16", "--threads", "1,2", "--seconds", "0.01"]
    written = ["--json", str(tmp_path / "speed.json"), "--plot", str(tmp_path / "speed.png")]
    assert main([*arguments, *written]) == 0
    found = json.loads((tmp_path / "speed.json").read_text())
    assert {"p50", "p99", "max"} <= set(found["total_ms"]) & set(found["eager_ms"])
    assert found["speedup"] > 0.0
    assert found["max_abs_diff"] < 1e-4
    assert 0.0 < found["roofline_fraction"]
    assert [run["threads"] for run in found["runs"]] == [1, 2]
    assert found["model"] == "random weights, widths 8,16"
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert "times as fast as" in capsys.readouterr().out


def test_of_a_model_with_pictures_the_encoder_is_measured_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pieces_exported_once: None
) -> None:
    path = tmp_path / "speed.json"
    arguments = ["--model", "pusht_image", "--encoder", "small", "--widths", "8,16", "--seconds", "0.01"]
    assert main(["bench", *arguments, "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["engine"] == "native"
    assert found["model"] == "random weights, widths 8,16, encoder small"
    assert found["max_abs_diff"] < 1e-4
    assert found["encoder_speedup"] > 0.0
    assert found["encoder_ms"]["p50"] > 0.0
    assert found["sampler_ms"]["p50"] < found["total_ms"]["p50"], "it does not encode again"
    assert "pictures, eager" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "0"], "--threads: got '0', expected numbers such as 1,2"),
        (["--widths", "wide"], "--widths: got 'wide', expected numbers such as 256,512,1024"),
        (["--widths", "7,14"], "widths: got [7, 14], expected at least one multiple of groups = 8"),
        (["--encoder", "resnet18"], "observes no pictures; give one that does, such as pusht_image"),
        (["--seconds", "0"], "--seconds: got 0, expected up to 3600"),
        (["--model", "nowhere"], "nowhere"),
        (["--json", "/proc/speed.json"], "/proc/speed.json"),
    ],
)
def test_bad_input_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) != 0
    assert message in " ".join(capsys.readouterr().err.split())
