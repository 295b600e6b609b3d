"""A node with the command stream whose setpoints are sent by a process, and what a listener hears of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from rclpy.executors import SingleThreadedExecutor

from dp_ros.bridge.command_stream import CommandStream
from dp_ros.bridge.qos import reliable_qos
from dp_ros.runtime.motion.chunk import ChunkSchedule
from dp_ros.runtime.outlet import Outlet
from dp_ros.task import ActionSpec

LIMIT_S = 60.0
Heard = TypeVar("Heard")


class SetpointBench(Generic[Heard]):
    """What is commanded is put into `schedule` and let out by `outlet`; rclpy is initialised already.

    Args:
        node: where the command stream and the listener are.
        action: what is commanded.
        topic: the name of it after all remappings.
        message: its class.
        read: what is kept of a message, in `heard`.
    """

    def __init__(
        self, node: Any, action: ActionSpec, topic: str, message: type, read: Callable[[Any], Heard]
    ) -> None:
        self.node, self.action = node, action
        self.heard: list[Heard] = []
        self.errors: list[Exception] = []
        node.create_subscription(message, topic, lambda m: self.heard.append(read(m)), reliable_qos(1000))
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(node)
        self.schedule = ChunkSchedule(action)
        self.outlet = Outlet(action, self.schedule)
        self.stream: CommandStream | None = None

    @property
    def setpoints(self) -> Any:
        """This end of the process, of which tests touch the insides."""
        assert self.stream is not None
        return self.stream._setpoints

    def now_ns(self) -> int:
        """Present time of the node."""
        return int(self.node.get_clock().now().nanoseconds)

    def start(self, **options: Any) -> CommandStream:
        """Start the process; `options` of `CommandStream`."""
        options = {"dry_run": False, "realtime_priority": 0, "on_error": self.errors.append, **options}
        self.stream = CommandStream(self.node, self.action, self.outlet, **options)
        return self.stream

    def until(self, condition: Callable[[], Any], what: str) -> None:
        """Take messages until the condition holds."""
        end_s = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < end_s, f"waited in vain for {what}; {self.errors}"
            self.executor.spin_once(timeout_sec=0.02)

    def close(self) -> None:
        """End the process and the node."""
        if self.stream is not None:
            self.outlet.close()
            self.stream.destroy(self.now_ns())
        self.node.destroy_node()
