"""`dp-ros bench` on a model and on random weights, as a person runs it."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

from dp_ros.cli.main import main  # noqa: E402
from dp_ros.inference.load import load_engine  # noqa: E402
from dp_ros.inference.manifest import load_manifest  # noqa: E402
from dp_ros.paths import share_dir  # noqa: E402


def test_random_weights_are_measured_with_each_number_of_threads(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    pieces_exported_once: None,
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
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
    said = " ".join(capsys.readouterr().out.split())
    assert "times as fast as" in said
    assert "p99/p50" in said
    assert found["p99_over_p50"] >= 1.0
    assert said.count("MiB resident (") == 2, "start-up with each number of threads"


def test_the_action_error_of_an_engine_is_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dp_ros")
    model = tmp_path / "pusht_state"
    shutil.copytree(share_dir() / "models" / "pusht_state", model)
    manifest = json.loads((model / "manifest.json").read_text())
    del manifest["action_errors"]
    (model / "manifest.json").write_text(json.dumps({**manifest, "scores": []}))
    arguments = ["bench", "--model", str(model), "--engine", "native_int8", "--seconds", "0.01", "--record"]
    assert main([*arguments, "--json", str(tmp_path / "speed.json")]) == 0
    recorded = load_manifest(model).action_errors["native_int8"]
    assert recorded == json.loads((tmp_path / "speed.json").read_text())["max_abs_diff"] > 1e-5
    assert "action error not measured for this model: dp-ros bench --model MODEL" in caplog.text
    caplog.clear()
    load_engine(model, "native_int8")
    assert f"actions differ by up to {recorded:.1e} of their range of 2" in caplog.text
    assert "score not measured for this model: dp-ros eval --model MODEL --engine native_int8" in caplog.text
    assert "action error not measured" not in caplog.text


@pytest.mark.parametrize("engine", ["native", "onnx"])
def test_of_a_model_with_pictures_the_encoder_is_measured_too(
    engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], pieces_exported_once: None
) -> None:
    path = tmp_path / "speed.json"
    arguments = ["--model", "pusht_image", "--encoder", "small", "--widths", "8,16", "--seconds", "0.01"]
    written = ["--json", str(path), "--plot", str(tmp_path / "speed.png")]
    assert main(["bench", *arguments, "--engine", engine, *written]) == 0
    found = json.loads(path.read_text())
    assert found["engine"] == engine
    assert found["model"] == "random weights, widths 8,16, encoder small"
    assert found["max_abs_diff"] < 1e-4
    assert found["encoder_speedup"] > 0.0
    assert found["encoder_ms"]["p50"] > 0.0
    assert found["sampler_ms"]["p50"] > 0.0
    assert "pictures, eager" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "0"], "--threads: got '0', expected numbers such as 1,2"),
        (["--widths", "wide"], "--widths: got 'wide', expected numbers such as 256,512,1024"),
        (["--widths", "7,14"], "widths: got [7, 14], expected at least one multiple of groups = 8"),
        (["--encoder", "resnet18"], "observes no pictures; give one that does, such as pusht_image"),
        (["--record", "--widths", "8,16"], "leave --widths and --encoder out"),
        (["--seconds", "0"], "--seconds: got 0, expected up to 3600"),
        (["--model", "nowhere"], "nowhere"),
        (["--json", "/proc/speed.json"], "/proc/speed.json"),
    ],
)
def test_bad_input_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) != 0
    assert message in " ".join(capsys.readouterr().err.split())
