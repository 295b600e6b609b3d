"""The main job as a user runs it: simulated robot and policy as processes over DDS, to the end and interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")

from dp_ros.cli.ros_eval import pusht_session
from dp_ros.errors import UserError
from dp_ros.inference.load import load_engine
from dp_ros.inference.worker import sample_request
from dp_ros.paths import share_dir
from dp_ros.sim.pusht_rollout import rollout
from dp_ros.task import load_task

from .processes_left import processes_left, processes_of_domain

pytestmark = pytest.mark.timeout(180)
MODEL = "pusht_state"


def start_demo(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dp_ros.cli.main", "demo", *arguments]
    return subprocess.Popen(
        command,
        cwd=share_dir(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def wait_for_line(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if word in line:
            return line
    raise AssertionError(f"{word!r} never came: {''.join(seen)}")


def test_the_demo_runs_its_episodes_and_leaves_report_videos_and_pictures(
    ros_domain: int, tmp_path: Path
) -> None:
    av = pytest.importorskip("av")
    demo = start_demo("--episodes", "2", "--seed", "100004", "--out", str(tmp_path))
    output, _ = demo.communicate(timeout=150)
    assert demo.returncode == 0, output
    report = json.loads((tmp_path / "report.json").read_text())
    assert [episode["seed"] for episode in report["episodes"]] == [100004, 100005]
    for episode in report["episodes"]:
        assert str(episode["seed"]) in output
        assert 0 < episode["steps"] <= 300
        assert 0.0 <= episode["final_coverage"] <= 1.0
        assert 0.0 < episode["inference_ms"]["p50"] <= episode["inference_ms"]["p99"]
        assert episode["late_steps"] == 0, "nothing is late in lockstep"
        with av.open(str(tmp_path / episode["video"])) as video:
            assert sum(1 for _ in video.decode(video=0)) == episode["steps"] + 1
        assert (tmp_path / episode["contact_sheet"]).read_bytes().startswith(b"\x89PNG")
    assert processes_left(ros_domain) == []


def test_ctrl_c_ends_the_demo_and_leaves_no_process(ros_domain: int, tmp_path: Path) -> None:
    demo = start_demo("--episodes", "50", "--out", str(tmp_path))
    wait_for_line(demo, "seed 100000")
    demo.send_signal(signal.SIGINT)
    output, _ = demo.communicate(timeout=30)
    assert demo.returncode == 130, output
    assert "Traceback" not in output
    assert processes_left(ros_domain) == []


def test_a_killed_demo_leaves_no_process(ros_domain: int, tmp_path: Path) -> None:
    demo = start_demo("--episodes", "50", "--out", str(tmp_path))
    wait_for_line(demo, "seed 100000")
    demo.kill()
    demo.communicate(timeout=30)
    assert processes_left(ros_domain) == []


def test_a_killed_robot_ends_the_demo_with_its_name(ros_domain: int, tmp_path: Path) -> None:
    demo = start_demo("--episodes", "50", "--out", str(tmp_path))
    wait_for_line(demo, "seed 100000")
    robots = [p for p in processes_of_domain(ros_domain) if "pusht_node" in p]
    assert len(robots) == 1
    os.kill(int(robots[0].split(":")[0]), signal.SIGKILL)
    output, _ = demo.communicate(timeout=30)
    assert demo.returncode == 2, output
    assert "pusht" in output
    assert "Traceback" not in output
    assert processes_left(ros_domain) == []


def test_lockstep_over_ros_gives_the_same_episode_every_time_and_the_one_in_process(ros_domain: int) -> None:
    engine = load_engine(share_dir() / "models" / MODEL)
    execution = engine.manifest.execution
    assert execution is not None
    with pusht_session(model=MODEL, task="pusht_state", engine="auto") as (client, _):
        over_ros = [client.run_episode(seed)[0] for seed in (100001, 100007, 100001)]
    in_process = [
        rollout(
            engine.task,
            lambda request: sample_request(engine, request),
            seed,
            mode=execution.mode,
            infer_every=execution.infer_every,
        )
        for seed in (100001, 100007)
    ]
    states = [np.array(episode.states) for episode in over_ros]
    assert np.array_equal(states[0], states[2])
    assert np.array_equal(states[0], np.array(in_process[0].states))
    assert np.array_equal(states[1], np.array(in_process[1].states))
    assert not np.array_equal(states[0][: len(states[1])], states[1][: len(states[0])])
    assert [e.score for e in over_ros[:2]] == [e.score for e in in_process]
    assert over_ros[0].inference_ms
    assert len(over_ros[0].inference_ms) == len(in_process[0].inference_ms)


def test_a_killed_simulation_stops_the_policy_with_a_reason(ros_domain: int) -> None:
    with pusht_session(model=MODEL, task="pusht_state", engine="onnx") as (client, processes):
        client.reset(100000)
        sent = client.send_goal(seed=1, time_limit_s=1000.0)
        client.wait(lambda: client.chunks, "the policy to act")
        processes.kill("pusht")
        answer = client.wait_for_result(sent, 20.0)
        assert answer.result.reason == "CLOCK_STOPPED"
        assert "/clock" in answer.result.message
        with pytest.raises(UserError, match="pusht"):
            processes.check()


def test_real_time_runs_on_the_wall_clock_and_drops_late_actions(ros_domain: int, tmp_path: Path) -> None:
    # Samples may be 2 s old, so that a machine which stalls for a second does not end the goal.
    patient = load_task("pusht_state").model_dump(mode="json")
    for stream in patient["observations"].values():
        stream["max_age_s"] = 2.0
    task = tmp_path / "patient.yaml"
    task.write_text(yaml.safe_dump(patient))
    with pusht_session(model=MODEL, task=str(task), engine="onnx", lockstep=False) as (client, _):
        client.reset(100000)
        sent = client.send_goal(seed=1, time_limit_s=4.0)
        begin_s = time.monotonic()
        answer = client.wait_for_result(sent, 30.0)
        assert (answer.result.reason, answer.result.message) == (
            "TIME_LIMIT",
            "ran for its time limit of 4 s",
        )
        assert 3.5 < time.monotonic() - begin_s < 20.0
        assert client.statuses[-1].step > 10
        assert all(chunk.dropped >= 1 for chunk in client.chunks), "action 0 is due when it is observed"
        # One that was held up on its way for as long as it lasts is refused, and rightly so.
        assert client.statuses[-1].rejected <= 1 < len(client.chunks)
