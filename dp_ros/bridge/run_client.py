"""Sends a `RunPolicy` goal, for the command line and for scripts."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rclpy.action import ActionClient

from dp_ros.action import RunPolicy
from dp_ros.bridge.client import RosClient
from dp_ros.bridge.readiness import PolicyReadiness
from dp_ros.errors import UserError


def run_policy(
    *, action: str, time_limit_s: float, seed: int, report: Callable[[Any], None], timeout_s: float = 10.0
) -> Any:
    """Let a policy act until its goal ends; Ctrl-C cancels the goal and waits for its end, a second one does not.

    Args:
        action: name of the action, `/policy/run`.
        time_limit_s: of the goal, seconds of ROS time.
        seed: of the sampling noise.
        report: called with each feedback.
        timeout_s: how long the policy node may take to answer, and to hear every stream.

    Returns:
        The `RunPolicy` result.

    Raises:
        UserError: if there is no policy node, it does not hear the robot's streams, or it refuses the goal.
    """
    with RosClient("run_policy", timeout_s=timeout_s) as client:
        actions = ActionClient(client.node, RunPolicy, action)
        readiness = PolicyReadiness(client, action.rsplit("/", 1)[0] + "/status")
        client.wait(
            actions.server_is_ready, f"a policy node (action {action}); is one running and configured?"
        )
        readiness.wait()
        goal = RunPolicy.Goal(time_limit_s=time_limit_s, seed=seed)
        with first_ctrl_c() as interrupted:
            sent = actions.send_goal_async(goal, feedback_callback=lambda message: report(message.feedback))
            handle = client.wait(lambda: sent.done() and sent.result(), "the answer to the goal")
            if not handle.accepted:
                raise UserError("the policy node refused the goal; its log says why")
            result = handle.get_result_async()
            client.wait(lambda: result.done() or interrupted.is_set(), "the goal's end", float("inf"))
            if not result.done():
                handle.cancel_goal_async()
                client.wait(result.done, "the goal's end", timeout_s)
        actions.destroy()
        return result.result().result


@contextmanager
def first_ctrl_c() -> Iterator[threading.Event]:
    """Note the first Ctrl-C instead of raising it, at whatever moment it comes; the second one is meant."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def note(*_: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
