"""`dp-ros up` with the real nodes: the same nodes as the launch files, stopped together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy")

from dp_ros.bringup import Bringup, from_text  # noqa: E402
from dp_ros.paths import share_dir  # noqa: E402
from dp_ros.processes import running  # noqa: E402

from .processes_left import processes_left, processes_of_domain  # noqa: E402

pytestmark = pytest.mark.timeout(120)


def start_up(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dp_ros.cli.main", "up", *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, cwd=share_dir(), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def read_until(process: subprocess.Popen[str], *words: str) -> str:
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if all(word in seen for word in words):
            return seen
    raise AssertionError(f"{words} never came: {seen}")


def pid_of(node: str, output: str) -> int:
    return int(output.split(f"{node} started (process ")[1].split(")")[0])


def test_ctrl_c_stops_the_nodes_and_leaves_none(ros_domain: int) -> None:
    up = start_up("pusht_demo", "seed:=7")
    read_until(up, "pusht  | ", "seed 7", "policy | ", "model pusht_state")
    assert len(processes_of_domain(ros_domain)) >= 2
    up.send_signal(signal.SIGINT)
    output, _ = up.communicate(timeout=30)
    assert up.returncode == 130
    assert "Traceback" not in output
    assert processes_left(ros_domain) == []


def test_when_a_node_is_killed_the_others_stop_and_it_is_named(ros_domain: int) -> None:
    up = start_up("pusht_demo")
    seen = read_until(up, "pusht started", "policy started", "model pusht_state")
    os.kill(pid_of("pusht", seen), signal.SIGKILL)
    output, _ = up.communicate(timeout=30)
    assert up.returncode == 128 + signal.SIGKILL
    assert "pusht ended with signal SIGKILL" in output
    assert processes_left(ros_domain) == []


def test_a_node_that_refuses_its_parameters_stops_the_rest_with_its_reason(ros_domain: int) -> None:
    up = start_up("pusht_demo", "engine:=abacus")
    output, _ = up.communicate(timeout=30)
    assert up.returncode == 2
    assert "abacus" in output
    assert "policy ended with exit status 2" in output
    assert processes_left(ros_domain) == []


@pytest.mark.parametrize("name", ["pusht_demo", "collect"])
def test_every_node_has_the_parameters_that_its_bringup_sets(
    name: str, ros_domain: int, tmp_path: Path
) -> None:
    given = {"collect": {"out": str(tmp_path / "demonstrations.zarr")}}.get(name, {})
    bringup = from_text(name, given)
    with running(bringup) as processes:
        parameters = declared_parameters(bringup, processes.check)
    for node in bringup.nodes:
        assert set(node.parameters) <= parameters[node.name], node.name


def declared_parameters(bringup: Bringup, check) -> dict[str, set[str]]:  # type: ignore[no-untyped-def]
    """Names that each node answers when asked for its parameters."""
    from rcl_interfaces.srv import ListParameters

    context = rclpy.Context()
    rclpy.init(context=context)
    probe = rclpy.create_node("probe", context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(probe)
    try:
        found: dict[str, set[str]] = {}
        for node in bringup.nodes:
            client = probe.create_client(ListParameters, f"/{node.name}/list_parameters")
            deadline = time.monotonic() + 40
            answer = None
            while answer is None:  # a server that has not discovered who asks cannot answer: asked again
                check()
                assert time.monotonic() < deadline, f"{node.name} never answered"
                if client.wait_for_service(timeout_sec=0.5):
                    asked = client.call_async(ListParameters.Request())
                    executor.spin_until_future_complete(asked, timeout_sec=5)
                    answer = asked.result()
            found[node.name] = set(answer.result.names)
        return found
    finally:
        probe.destroy_node()
        rclpy.shutdown(context=context)
