"""Demonstrations recorded through real nodes on real DDS."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dp_ros.cli.main import main
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.paths import share_dir
from dp_ros.task import load_task

pytest.importorskip("rclpy")

from dp_ros import bringup  # noqa: E402
from dp_ros.bridge.collect_client import CollectClient  # noqa: E402
from dp_ros.errors import UserError  # noqa: E402
from dp_ros.processes import running  # noqa: E402


@pytest.mark.timeout(180)
@pytest.mark.parametrize("task", ["pusht_state", "pusht_image"])
def test_an_episode_over_ros_is_the_in_process_one_to_the_last_bit(
    ros_domain: int, tmp_path: Path, task: str
) -> None:
    arguments = ["collect", "--task", task, "--episodes", "2", "--seed", "1", "--noise-px", "4", "--out"]
    assert main([*arguments, str(tmp_path / "ros.zarr")]) == 0
    assert main([*arguments, str(tmp_path / "fast.zarr"), "--fast"]) == 0
    over_ros, fast = ReplayBuffer.open(tmp_path / "ros.zarr"), ReplayBuffer.open(tmp_path / "fast.zarr")
    assert over_ros.episode_seeds.tolist() == fast.episode_seeds.tolist() == [1, 2]
    assert over_ros.episode_ends.tolist() == fast.episode_ends.tolist()
    for key in fast:
        np.testing.assert_array_equal(over_ros[key], fast[key], key)
    assert over_ros.digest() == fast.digest()


@pytest.mark.timeout(180)
def test_a_killed_recorder_ends_the_collection_and_loses_no_saved_episode(
    ros_domain: int, tmp_path: Path
) -> None:
    out, task = tmp_path / "x.zarr", load_task("pusht_state")
    with running(bringup.collect(out=str(out))) as nodes, CollectClient(task, nodes.check) as client:
        client.connect()
        client.demonstrate(1, keep_failures=False)
        client.reset(2)
        nodes.kill("recorder")
        with pytest.raises(UserError, match="node recorder ended with signal SIGKILL"):
            client.demonstrate(2, keep_failures=False)
    buffer = ReplayBuffer.open(out)
    assert buffer.episode_seeds.tolist() == [1]
    assert main(["collect", "--fast", "--episodes", "1", "--out", str(out)]) == 0
    assert ReplayBuffer.open(out).episode_seeds.tolist() == [1, 2]


@pytest.mark.timeout(180)
def test_in_real_time_an_episode_is_recorded_on_an_even_grid(ros_domain: int, tmp_path: Path) -> None:
    """Whatever holds a node up for less than 5 s costs no row; that a longer gap ends an episode is tested
    elsewhere."""
    out, task_file = tmp_path / "x.zarr", tmp_path / "patient.yaml"
    text = (share_dir() / "config/tasks/pusht_state.yaml").read_text()
    task_file.write_text(text.replace("max_age_s: 0.25", "max_age_s: 5.0"))
    task = load_task(task_file)
    description = bringup.collect(out=str(out), task=str(task_file), lockstep=False)
    nodes_of = tuple(
        replace(node, parameters={**node.parameters, "hold_steps": 50.0}) if node.name == "recorder" else node
        for node in description.nodes
    )
    with running(replace(description, nodes=nodes_of)) as nodes, CollectClient(task, nodes.check) as client:
        client.connect()
        begin_s = time.monotonic()
        outcome = client.demonstrate(1, keep_failures=True)
        elapsed_s = time.monotonic() - begin_s
    episode = ReplayBuffer.open(out).episode(0)
    np.testing.assert_allclose(np.diff(episode["timestamp"]), 0.1, atol=1e-9)
    # A simulated robot that is held up skips time, so there may be more grid times than steps, never fewer;
    # the best-effort sample that the grid would have begun with may be lost.
    assert len(episode["action"]) >= outcome.steps - 1
    assert episode["timestamp"][-1] <= elapsed_s
    # What was commanded at a step is where the agent is heading.
    heading, way = episode["action"][:-1] - episode["agent_pos"][:-1], np.diff(episode["agent_pos"], axis=0)
    moving = np.linalg.norm(way, axis=1) > 1.0
    assert np.mean(np.sum(heading * way, axis=1)[moving] > 0) > 0.9


@pytest.mark.timeout(180)
def test_ctrl_c_stops_every_node_and_keeps_the_saved_episodes(ros_domain: int, tmp_path: Path) -> None:
    out = tmp_path / "x.zarr"
    command = [sys.executable, "-m", "dp_ros.cli.main", "collect", "--episodes", "50", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        while not (out.exists() and ReplayBuffer.open(out).n_episodes):
            assert process.poll() is None
            time.sleep(0.05)  # leaves the core to the nodes
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    buffer = ReplayBuffer.open(out)
    assert f"interrupted: {buffer.n_episodes} of 50 episodes recorded and kept" in said
    assert buffer.unfinished_steps == 0
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(out) not in listed
