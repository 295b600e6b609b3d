"""`dp-ros bench runtime` as a person runs it."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import pytest

from dp_ros.benchmark import episode
from dp_ros.benchmark.stages import STAGES
from dp_ros.cli import bench
from dp_ros.cli.main import main
from dp_ros.inference.manifest import load_manifest
from dp_ros.paths import share_dir
from dp_ros.sim.pusht_rollout import rollout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "ticks,stage"], "'stage'"),
        (["--only", "seam", "--record"], "--record"),
        (["--repeats", "0"], "--repeats"),
        (["--infer-every", "99"], "--infer-every"),
        (["--seconds", "0.1"], "--seconds"),
        (["--hz", "100,fast"], "--hz"),
        (["--hz", "0.5"], "--hz"),
        (["--seeds", "9:9"], "empty"),
        (["--model", "no_such_model"], "no_such_model"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "runtime", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "runtime", "--json", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the shipped model, which may be written to."""
    return Path(shutil.copytree(share_dir() / "models/pusht_state", tmp_path / "pusht_state"))


@pytest.fixture
def short_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episode, "rollout", functools.partial(rollout, max_steps=20))


@pytest.mark.usefixtures("short_episodes")
def test_seams_and_scores_are_stored_and_drawn_and_the_choice_is_recorded(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "infer_every_candidates", lambda n_action_steps: (n_action_steps, 4))
    stored, drawn = tmp_path / "out" / "runtime.json", tmp_path / "runtime.png"
    arguments = ["--only", "seam,delay", "--seeds", "100001", "--repeats", "1", "--jobs", "1", "--record"]
    arguments += ["--model", str(model), "--json", str(stored), "--plot", str(drawn)]
    assert main(["bench", "runtime", *arguments]) == 0
    data = json.loads(stored.read_text())
    manifest = load_manifest(model)
    modes = ["naive", "replace", "ensemble"] + ["rtc"] * (manifest.prefix != "none")
    assert list(data["seam"]) == list(data["delay"]) == modes
    for mode in modes[1:]:
        assert data["seam"][mode]["position_jump_max"] < 0.01 < data["seam"]["naive"]["position_jump_max"]
        assert 4 * data["seam"][mode]["velocity_jump_max"] < data["seam"]["naive"]["velocity_jump_max"]
    for by_ms in data["delay"].values():
        assert list(by_ms) == ["0", "100", "200", "400"]
        assert all(0.0 <= cell["mean_score"] <= 1.0 and cell["episodes"] == 1 for cell in by_ms.values())
    assert {"ticks", "stages_ms"}.isdisjoint(data)
    assert data["meta"]["model_id"] == manifest.model_id
    assert len(data["execution"]["candidates"]) == 2 * (len(modes) - 1)
    assert manifest.execution is not None
    assert manifest.execution.mode == data["execution"]["mode"]
    assert manifest.execution.infer_every == data["execution"]["infer_every"]
    assert data["execution"]["reason"] in capsys.readouterr().out
    assert drawn.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("short_episodes")
def test_seconds_end_the_scores_after_a_whole_row_of_start_states(model: Path, tmp_path: Path) -> None:
    stored = tmp_path / "runtime.json"
    arguments = [
        "--model",
        str(model),
        "--only",
        "delay",
        "--seconds",
        "1",
        "--jobs",
        "1",
        "--json",
        str(stored),
    ]
    assert main(["bench", "runtime", *arguments]) == 0
    data = json.loads(stored.read_text())
    counts = {cell["episodes"] for by_ms in data["delay"].values() for cell in by_ms.values()}
    assert len(counts) == 1
    assert 1 <= counts.pop() < 50
    assert load_manifest(model).execution == load_manifest(share_dir() / "models/pusht_state").execution


@pytest.mark.usefixtures("ros_domain")
def test_ticks_and_stages_are_measured_on_the_real_nodes(tmp_path: Path) -> None:
    stored = tmp_path / "runtime.json"
    measure = ["bench", "runtime", "--only", "ticks,stages", "--seconds", "1", "--hz", "100"]
    assert main([*measure, "--json", str(stored)]) == 0
    data = json.loads(stored.read_text())
    (tick,) = data["ticks"]
    assert tick["hz"] == 100.0
    assert tick["total"] > 20
    assert 0.0 <= tick["jitter_ms"]["p50"] <= tick["jitter_ms"]["p99"] <= tick["jitter_ms"]["max"]
    assert data["meta"]["stolen_s"][0] >= 0.0
    assert list(data["stages_ms"]) == list(STAGES)
    stages = data["stages_ms"]
    assert all(stage["p50"] <= stage["p99"] for stage in stages.values())
    positive = [
        name for name in STAGES if name != "publish_to_robot"
    ]  # the robot may have it before publish returns
    assert all(stages[name]["p50"] > 0.0 for name in positive)
    assert stages["inference"]["p50"] < stages["total"]["p50"]
