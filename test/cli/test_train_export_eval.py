"""The commands as a person runs them: train, export, eval."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

from dp_ros.cli.main import main  # noqa: E402
from dp_ros.inference.manifest import ExecutionSpec, load_manifest  # noqa: E402
from test.training.recordings import record_circles  # noqa: E402

SMALL = ["--widths", "8,16", "--batch-size", "16", "--eval-episodes", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_circles(tmp_path_factory.mktemp("data") / "circles.zarr")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["train", "--task", "pusht_state", "--data", str(data), "--out", str(folder)]
    assert main([*arguments, *SMALL, "--steps", "20"]) == 0
    return folder


@pytest.fixture(scope="module")
def model(run: Path, pieces_exported_once: None) -> Path:
    folder = run.parent / "models" / "circles"
    assert main(["export", str(run), str(folder)]) == 0
    return folder


def test_the_manifest_says_where_the_model_came_from(model: Path, run: Path) -> None:
    manifest = load_manifest(model)
    record = json.loads((run / "run.json").read_text())
    assert manifest.name == "circles"
    assert manifest.provenance is not None
    assert manifest.provenance.steps == 20
    assert manifest.provenance.samples == 320
    assert manifest.provenance.n_episodes == 6
    assert manifest.provenance.data_digest == record["data_digest"]
    assert manifest.provenance.checkpoint == "best"
    assert manifest.network.widths == (8, 16)


def test_any_of_the_checkpoints_that_a_run_kept_is_exported(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    arguments = ["train", "--task", "pusht_state", "--data", str(data), "--out", str(run), *SMALL]
    assert main([*arguments, "--steps", "6", "training.eval_every=2", "training.keep_best=3"]) == 0
    exported = {}
    for step in ("2", "4"):
        assert main(["export", str(run), str(tmp_path / step), "--checkpoint", step]) == 0
        exported[step] = load_manifest(tmp_path / step)
        assert exported[step].provenance.checkpoint == "kept"
        assert exported[step].provenance.steps == int(step)
    assert len({manifest.files["weights.safetensors"].sha256 for manifest in exported.values()}) == 2
    for unknown in ("3", "worst", "-2"):
        assert main(["export", str(run), str(tmp_path / "none"), f"--checkpoint={unknown}"]) != 0
        assert f"has no checkpoint {unknown}; take one of best, last, 2, 4, 6" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_model_is_exported_again_with_another_sampler(model: Path, tmp_path: Path) -> None:
    arguments = ["export", str(model), str(tmp_path / "ddpm"), "--sampler", "ddpm"]
    assert main([*arguments, "--num-inference-steps", "3", "--infer-every", "4"]) == 0
    old, new = load_manifest(model), load_manifest(tmp_path / "ddpm")
    assert (new.sampler.method, new.sampler.num_inference_steps) == ("ddpm", 3)
    assert new.provenance == old.provenance
    assert new.files["weights.safetensors"] == old.files["weights.safetensors"]
    assert old.execution is None
    assert new.execution == ExecutionSpec(mode="replace", infer_every=4)
    assert new.scores == [], "what the other sampler scored says nothing of this one"


def test_a_policy_trained_with_prefixes_says_so(data: Path, tmp_path: Path) -> None:
    run, model = tmp_path / "run", tmp_path / "model"
    arguments = ["train", "--task", "pusht_state", "--data", str(data), "--out", str(run), *SMALL]
    assert main([*arguments, "--steps", "2", "--prefix-steps", "5"]) == 0
    assert main(["export", str(run), str(model), "--num-inference-steps", "2"]) == 0
    manifest = load_manifest(model)
    assert manifest.prefix == "trained"
    assert manifest.network.prefix_steps == 5
    assert manifest.sampler.num_inference_steps == 2


def test_a_model_is_evaluated_into_json_figure_and_manifest(model: Path, tmp_path: Path) -> None:
    result, figure = tmp_path / "deep" / "eval.json", tmp_path / "eval.png"
    arguments = ["eval", "--model", str(model), "--seeds", "5:7", "--repeats", "2", "--json", str(result)]
    assert main([*arguments, "--figure", str(figure), "--record"]) == 0
    data = json.loads(result.read_text())
    assert [(e["seed"], e["repeat"]) for e in data["episodes"]] == [(5, 0), (5, 1), (6, 0), (6, 1)]
    assert data["mean_score"] == pytest.approx(sum(e["score"] for e in data["episodes"]) / 4)
    assert data["interval_95"][0] <= data["mean_score"] <= data["interval_95"][1]
    assert data["engine"] == "native"
    assert data["model_id"] == load_manifest(model).model_id
    assert data["provenance"]["steps"] == 20
    assert figure.read_bytes().startswith(b"\x89PNG")
    (score,) = load_manifest(model).scores
    assert score.mean_score == data["mean_score"]
    assert main([*arguments, "--record"]) == 0
    assert len(load_manifest(model).scores) == 1, "a newer score of the same kind replaces the older"
    again = json.loads(result.read_text())
    assert again["episodes"] == data["episodes"], "the same seeds give the same episodes"


def test_the_table_shows_every_seed(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--model", str(model), "--seeds", "11,13"]) == 0
    shown = capsys.readouterr().out
    assert "11" in shown
    assert "13" in shown
    assert "mean score" in shown
    assert "95 % interval" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--out", "{tmp}/r"], "--task and --data: missing"),
        (["train", "--task", "pusht_state", "--out", "{tmp}/r"], "--data: missing"),
        (
            ["train", "--task", "pusht_state", "--data", "{tmp}/no.zarr", "--out", "{tmp}/r"],
            "no.zarr: is not there",
        ),
        (
            ["train", "--out", "{run}", "--resume", "--steps", "30"],
            "was started with training.steps 20 (given 30)",
        ),
        (["train", "--out", "{run}", "--resume", "--config", "x"], "--config cannot be given with --resume"),
        (
            ["train", "--out", "{run}", "--resume", "--start-from", "{run}"],
            "--start-from cannot be given with --resume",
        ),
        (["train", "--out", "{run}", "--resume", "--task", "pusht_image"], "was started for another task"),
        (["export", "{tmp}", "{tmp}/m"], "is not a training run (no run.json)"),
        (["export", "{run}", "{model}"], "is already there; give another name, or --force"),
        (["export", "{model}", "{tmp}/m", "--checkpoint", "last"], "is a model and has no checkpoints"),
        (
            ["export", "{run}", "{tmp}/m", "--num-inference-steps", "101"],
            "num_inference_steps 101 is more than train_steps 100",
        ),
        (
            ["export", "{run}", "{tmp}/m", "--infer-every", "16"],
            "infer_every: got 16, expected 0 (back to back) to 15",
        ),
        (["eval", "--model", "{tmp}/none"], "is not there, expected a model folder"),
        (["eval", "--model", "{model}", "--seeds", "3:1"], "seeds: 3:1 is empty"),
        (["eval", "--model", "{model}", "--repeats", "0"], "--repeats: got 0"),
        (["eval", "--model", "{model}", "--processes", "0"], "--processes: got 0, expected at least 1"),
        (
            ["eval", "--model", "{model}", "--ros", "--processes", "2"],
            "--processes cannot be given with --ros",
        ),
        (["dagger", "--out", "{tmp}/d"], "--run: missing"),
        (["dagger", "--out", "{tmp}/d", "--resume"], "has no dagger.json"),
        (["dagger", "--out", "{tmp}/d", "--run", "{run}", "--rounds", "0"], "--rounds: got 0"),
        (["dagger", "--out", "{tmp}/d", "--run", "{run}", "--takeover-steps", "9:5"], "from step 9 to 5"),
        (["eval", "--model", "{model}", "--json", "{tmp}"], "is a folder, expected a file to write"),
    ],
)
def test_what_a_person_gets_wrong_is_said_without_a_traceback(
    arguments: list[str],
    message: str,
    run: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [part.format(tmp=tmp_path, run=run, model=model) for part in arguments]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_ctrl_c_leaves_a_run_that_can_be_resumed(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "dp_ros.cli.main", "train", "--task", "pusht_state", "--data", str(data)]
    command += ["--out", str(run), *SMALL, "--steps", "150", "--checkpoint-every", "1000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        deadline = time.monotonic() + 60
        while not (run / "last.safetensors").exists():  # that of step 0
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "go on with: dp-ros train --out" in " ".join(output.split())
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert main(["train", "--out", str(run), "--resume"]) == 0, "a finished run has nothing left to do"
