"""The policy node's lifecycle in this process: what is configured is released."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

rclpy = pytest.importorskip("rclpy")

from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from dp_ros.nodes.policy_loop import PolicyLoop  # noqa: E402
from dp_ros.nodes.policy_node import PolicyNode  # noqa: E402
from dp_ros.runtime.outcome import Tick  # noqa: E402
from dp_ros.runtime.safety import BadAction  # noqa: E402
from dp_ros.task import load_task  # noqa: E402
from test.system.constant_model import make_constant_image_model  # noqa: E402

ROUNDS = 100
WARM_UP = 20


@pytest.fixture
def node(ros_domain: int, tmp_path: Path) -> Iterator[PolicyNode]:
    model, task = make_constant_image_model(tmp_path)
    parameters = [f"model:={model}", f"task:={task}", "engine:=onnx"]
    rclpy.init(args=["--ros-args", *(word for text in parameters for word in ("-p", text))])
    node = PolicyNode()
    yield node
    node.destroy_node()
    rclpy.shutdown()


def configured(node: PolicyNode) -> PolicyLoop:
    if node._loop is None:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node._loop is not None
    return node._loop


def system_threads() -> int:
    """Those of libraries as well."""
    return len(os.listdir("/proc/self/task"))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


#: In place of the process that sends setpoints, whose start takes a second: it is ready, and ends when it is told to.
STAND_IN = """
import socket, sys
link = socket.socket(fileno=int(sys.argv[1]))
link.recv(1 << 22)
link.send(b'{"ready": true, "priority": 0}')
while link.recv(1 << 22):
    pass
"""


@pytest.fixture(params=["trajectory", "setpoint"])
def output(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a node commands that is made after this: writes the task file for it."""
    if request.param == "setpoint":
        _, task = make_constant_image_model(tmp_path)
        data = load_task(task).model_dump(mode="json")
        data["action"].update(type="std_msgs/msg/Float64MultiArray", output="setpoint", rate_hz=50)
        (tmp_path / "setpoint.yaml").write_text(yaml.safe_dump(data))
        popen = subprocess.Popen

        def stand_in(command: list[str], **options: Any) -> Any:
            return popen([sys.executable, "-S", "-c", STAND_IN, command[-1]], **options)

        monkeypatch.setattr("dp_ros.bridge.setpoint_process.subprocess.Popen", stand_in)
    return str(request.param)


def children() -> int:
    return len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.mark.timeout(180)
def test_a_hundred_rounds_leak_no_thread_process_descriptor_or_memory(
    node: PolicyNode, output: str, tmp_path: Path
) -> None:
    rounds, warm_up = ROUNDS, WARM_UP
    if output == "setpoint":
        rounds, warm_up = rounds // 3, warm_up // 3  # each starts a process
        node.set_parameters([Parameter("task", value=str(tmp_path / "setpoint.yaml"))])

    def one_round() -> None:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS

    for _ in range(warm_up):
        one_round()
    gc.collect()
    before = threading.active_count(), system_threads(), open_files(), children()
    memory = memory_mb()
    for _ in range(rounds - warm_up):
        one_round()
    gc.collect()
    after = threading.active_count(), system_threads(), open_files(), children()
    assert after == before, "threads, threads of the system, descriptors, processes"
    assert memory_mb() - memory < 20.0, "a model or a buffer of pictures a round would be more"


def test_what_was_refused_at_configuration_leaves_nothing_behind(node: PolicyNode) -> None:
    from rclpy.parameter import Parameter

    threads = threading.active_count()
    node.set_parameters([Parameter("mode", value="rtc")])
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert "can take no prefix" in node.last_error
    assert threading.active_count() == threads
    node.set_parameters([Parameter("mode", value="ensemble")])
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS


@pytest.mark.parametrize("slash", ["/", ""])
def test_an_operator_on_the_policys_own_topic_is_refused_at_configuration(
    node: PolicyNode, slash: str
) -> None:
    from rclpy.parameter import Parameter

    topic = slash + configured(node)._task.action.topic.lstrip("/")
    assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    node.set_parameters([Parameter("operator_topic", value=topic)])
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert f"operator_topic: got {topic}" in node.last_error


def test_a_brake_that_cannot_be_sent_does_not_end_the_node(
    node: PolicyNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(now_ns: int) -> None:
        raise BadAction("point 0 of x has nan; nothing was sent")

    loop = configured(node)
    monkeypatch.setattr(loop._controller, "tick", lambda now_ns, steady_s: Tick(braked=True))
    monkeypatch.setattr(loop._commands, "update", refuse)
    loop._tick(node.get_clock().now().nanoseconds)


def test_no_goal_begins_while_an_inference_of_the_last_one_is_long_under_way(node: PolicyNode) -> None:
    loop = configured(node)
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    now_ns = node.get_clock().now().nanoseconds
    assert loop._refusal() == ""
    loop._inferring, loop._asked_s = True, time.monotonic()
    assert loop._refusal() == "", "one that has just begun is waited for"
    loop._asked_s -= 2.0
    assert loop._refusal().startswith("INFERENCE_OVERDUE: an inference of the goal before")
    assert loop._could_begin(now_ns).reason == "INFERENCE_OVERDUE", "the status says so as well"
    loop._inferring = False
    assert loop._refusal() == ""


def test_no_goal_begins_while_the_clock_stands_still(node: PolicyNode) -> None:
    loop = configured(node)
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    now_ns = node.get_clock().now().nanoseconds
    for wait_s in (0.0, 0.6):
        loop._controller.watch_clock(now_ns, time.monotonic() + wait_s)
    assert loop._refusal().startswith("CLOCK_STOPPED: ")
    assert loop._could_begin(now_ns).reason == "CLOCK_STOPPED"
    loop._controller.watch_clock(now_ns + 650_000_000, time.monotonic() + 0.65)
    assert loop._refusal() == ""
