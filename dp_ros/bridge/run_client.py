"""Sends a `RunPolicy` goal, for the command line and for scripts."""

from __future__ import annotations

from collections.abc import Callable
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
        sent = actions.send_goal_async(goal, feedback_callback=lambda message: report(message.feedback))
        cancelled = False
        while True:  # again after Ctrl-C, which may come at any moment
            try:
                handle = client.wait(lambda: sent.done() and sent.result(), "the answer to the goal")
                if not handle.accepted:
                    raise UserError("the policy node refused the goal; its log says why")
                result = handle.get_result_async()
                if cancelled:
                    handle.cancel_goal_async()
                limit_s = timeout_s if cancelled else float("inf")
                client.wait(result.done, "the goal's end", limit_s)
                actions.destroy()
                return result.result().result
            except KeyboardInterrupt:
                if cancelled:  # a second Ctrl-C is meant
                    raise
                cancelled = True
