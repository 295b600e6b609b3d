"""The whole loop by its commands: record over ROS, train for a moment, export, run the model through the nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("torch")

from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.inference.manifest import ExecutionSpec, load_manifest, write_manifest
from dp_ros.paths import share_dir

from ..processes_left import processes_left

pytestmark = pytest.mark.timeout(300)


def dp_ros(*arguments: object) -> str:
    """Run a verb as a user does; returns what it prints."""
    ended = subprocess.run(
        [sys.executable, "-m", "dp_ros.cli.main", *map(str, arguments)],
        cwd=share_dir(),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def test_what_was_recorded_over_ros_can_be_learnt_from_and_run_over_ros(
    ros_domain: int, tmp_path: Path
) -> None:
    data, run, model = tmp_path / "demos.zarr", tmp_path / "run", tmp_path / "model"
    dp_ros("collect", "--task", "pusht_state", "--episodes", 2, "--seed", 1000, "--out", data)
    recorded = ReplayBuffer.open(data)
    assert recorded.n_episodes == 2

    dp_ros(
        *("train", "--task", "pusht_state", "--data", data, "--out", run),
        *("--widths", "8,16", "--steps", 100, "--batch-size", 32, "--eval-every", 100, "--eval-episodes", 1),
    )
    dp_ros("export", run, model)
    manifest = load_manifest(model)
    assert manifest.provenance is not None
    assert manifest.provenance.data_digest == recorded.digest()
    assert manifest.provenance.n_episodes == 2

    equal_in_process_and_over_ros(model, tmp_path / "replace")
    execution = ExecutionSpec(mode="rtc", infer_every=4)
    write_manifest(model, manifest.model_copy(update={"execution": execution}))
    equal_in_process_and_over_ros(model, tmp_path / "rtc")
    assert processes_left(ros_domain) == []


def equal_in_process_and_over_ros(model: Path, folder: Path) -> None:
    results = []
    folder.mkdir()
    for name, options in (("process", []), ("ros", ["--ros"])):
        report = folder / f"{name}.json"
        dp_ros("eval", "--model", model, "--seeds", "100000:100001", "--json", report, *options)
        results.append(json.loads(report.read_text()))
    in_process, over_ros = results
    assert over_ros["episodes"] == in_process["episodes"], "lockstep gives the very same episodes"
    assert over_ros["mean_score"] == in_process["mean_score"]
    assert set(over_ros["inference_ms"]) == {"p50", "p99"}
