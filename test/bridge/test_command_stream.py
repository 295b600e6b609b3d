"""Who listens to the commands: a controller, or somebody who only watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy")

from trajectory_msgs.msg import JointTrajectory  # noqa: E402

from dp_ros.bridge.command_stream import CommandStream  # noqa: E402
from dp_ros.bridge.qos import reliable_qos  # noqa: E402
from dp_ros.bridge.watchers import WATCHERS  # noqa: E402
from dp_ros.runtime.motion.chunk import ChunkSchedule  # noqa: E402
from dp_ros.runtime.outlet import Outlet  # noqa: E402
from dp_ros.task import load_task  # noqa: E402

ACTION = load_task("pusht_state").action


class Graph:
    """Nodes with subscriptions to the commands, by name, and one that commands, for which they are in a namespace."""

    def __init__(self) -> None:
        self.node = rclpy.create_node(
            "policy", cli_args=["--ros-args", "-r", "pusht/joint_trajectory:=/commands"]
        )
        self._nodes: dict[str, Any] = {}

    def listen(self, name: str) -> None:
        node = self._nodes[name] = rclpy.create_node(name, namespace="/cell")
        node.create_subscription(JointTrajectory, "/commands", lambda _: None, reliable_qos())

    def leave(self, name: str) -> None:
        self._nodes.pop(name).destroy_node()

    def until(self, condition: Callable[[], bool], what: str) -> None:
        end_s = time.monotonic() + 20.0
        while not condition():
            assert time.monotonic() < end_s, f"waited in vain for {what}"
            rclpy.spin_once(self.node, timeout_sec=0.01)

    def close(self) -> None:
        for name in list(self._nodes):
            self.leave(name)
        self.node.destroy_node()


@pytest.fixture
def graph(ros_domain: int) -> Iterator[Graph]:
    rclpy.init()
    made = Graph()
    yield made
    made.close()
    rclpy.shutdown()


def test_who_only_watches_is_no_controller(graph: Graph) -> None:
    outlet = Outlet(ACTION, ChunkSchedule(ACTION))
    action = ACTION.model_copy(update={"topic": "pusht/joint_trajectory"})
    stream = CommandStream(
        graph.node, action, outlet, dry_run=False, realtime_priority=0, on_error=lambda error: None
    )
    for name in [*sorted(WATCHERS), "_ros2cli_4711"]:
        graph.listen(name)
    graph.until(lambda: graph.node.count_subscribers("/commands") == len(WATCHERS) + 1, "those who watch")
    assert stream.listeners == 0
    graph.listen("recorder_of_somebody_else")
    graph.until(lambda: stream.listeners == 1, "a controller")
    graph.leave("recorder_of_somebody_else")
    graph.until(lambda: stream.listeners == 0, "its end")
    stream.destroy(0)


def test_a_setpoint_must_reach_a_controller_that_is_known(graph: Graph) -> None:
    action = ACTION.model_copy(update={"output": "setpoint", "topic": "/commands"})
    stream = CommandStream.__new__(CommandStream)
    stream._node, stream._action, stream._dry_run = graph.node, action, False
    stream._setpoints = SimpleNamespace(listeners=1)  # type: ignore[assignment]
    graph.listen("recorder")
    graph.until(lambda: graph.node.count_subscribers("/commands") == 1, "the recorder")
    assert stream.listeners == 0, "what it reaches is the recorder"
    graph.listen("controller")
    graph.until(lambda: stream.listeners == 1, "a controller")
    stream._setpoints.listeners = 0  # type: ignore[union-attr]
    assert stream.listeners == 0, "it is there, but not reached yet"
