"""A client of the nodes in a context of its own: a node, and waiting with a limit while it receives."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import rclpy
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import Trigger

from dp_ros.errors import UserError


class RosClient:
    """A node for use in a `with` block.

    Args:
        name: of the node.
        check: called while waiting; raises when a process that is needed has ended.
        timeout_s: wall time that any single answer may take.
    """

    def __init__(self, name: str, check: Callable[[], None] = lambda: None, timeout_s: float = 30.0) -> None:
        self._name, self._check, self._timeout_s = name, check, timeout_s
        self._context = rclpy.Context()

    def __enter__(self) -> Self:
        rclpy.init(context=self._context)
        self.node = rclpy.create_node(self._name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.node.destroy_node()
        self._executor.shutdown()
        rclpy.try_shutdown(context=self._context)

    def wait(self, condition: Callable[[], Any], what: str, timeout_s: float | None = None) -> Any:
        """Spin until `condition` gives something true, and return that.

        Raises:
            UserError: after the time-out, or when a process that is needed has ended.
        """
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        end_s = time.monotonic() + limit_s
        while not (value := condition()):
            if time.monotonic() > end_s:
                self._check()
                raise UserError(f"waited {limit_s:g} s for {what}, in vain")
            self._executor.spin_once(timeout_sec=0.05)
            if time.monotonic() % 1.0 < 0.06:
                self._check()
        return value

    def call(self, service: Any, request: Any, what: str) -> Any:
        """Call a service and wait for its answer. Raises UserError after the time-out."""
        future = service.call_async(request)
        return self.wait(lambda: future.done() and future.result(), what)

    def trigger(self, service: Any) -> None:
        """Call a `std_srvs/Trigger`.

        Raises:
            UserError: if it refuses, with its reason.
        """
        answer = self.call(service, Trigger.Request(), f"the answer of {service.srv_name}")
        if not answer.success:
            raise UserError(f"{service.srv_name}: {answer.message}")

    def trigger_patiently(self, service: Any) -> None:
        """The same until it succeeds: nodes refuse while what they need has not reached them."""
        end_s = time.monotonic() + self._timeout_s
        while True:
            try:
                return self.trigger(service)
            except UserError:
                if time.monotonic() > end_s:
                    raise
                self._executor.spin_once(timeout_sec=0.2)
