"""The policy node's lifecycle in this process: what is configured is released."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402

from dp_ros.nodes.policy_node import PolicyNode  # noqa: E402
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


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.timeout(180)
def test_a_hundred_rounds_leak_no_thread_descriptor_or_memory(node: PolicyNode) -> None:
    def one_round() -> None:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS

    for _ in range(WARM_UP):
        one_round()
    gc.collect()
    threads, files, memory = threading.active_count(), open_files(), memory_mb()
    for _ in range(ROUNDS - WARM_UP):
        one_round()
    gc.collect()
    assert threading.active_count() == threads
    assert open_files() == files
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
