"""The goal that the console has the policy run: one at a time, begun and cancelled from the page.

Easy to get wrong: a goal that was asked for and is not accepted yet is one, too.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from rclpy.action import ActionClient

from dp_ros.action import RunPolicy
from dp_ros.console.server import Answer

_TIME_LIMIT_S = 60.0


def settle(answer: Future[Answer], done: bool, text: str) -> None:
    """Give an answer, if somebody still waits for it."""
    if answer.set_running_or_notify_cancel():
        answer.set_result((bool(done), text or ("done" if done else "refused")))


class PolicyGoal:
    """Runs the policy.

    Args:
        node: an rclpy node.
        policy: name of the policy's node.
    """

    def __init__(self, node: Any, policy: str) -> None:
        self._policy = policy
        self._client = ActionClient(node, RunPolicy, f"{policy}/run")
        self._goal: Any = None  # its future, then its handle
        self.said = ""
        """How the last one ended, for a person."""

    def destroy(self) -> None:
        """Ask for nothing more."""
        self._client.destroy()

    def run(self, time_limit_s: float | None, seed: int | None, answer: Future[Answer]) -> None:
        """Begin; whether it did is the answer."""
        if self._goal is not None:
            settle(answer, False, "the policy is running already")
            return
        if not self._client.server_is_ready():
            settle(answer, False, f"{self._policy}: no policy node is active")
            return
        goal = RunPolicy.Goal(
            time_limit_s=_TIME_LIMIT_S if time_limit_s is None else time_limit_s, seed=seed or 0
        )
        self._goal = self._client.send_goal_async(goal)  # nobody else may begin one meanwhile

        def accepted(sent: Any) -> None:
            handle = sent.result()
            if not handle.accepted:
                self._goal = None
                settle(answer, False, "the policy node refused the goal; its status says why")
                return
            self._goal, self.said = handle, ""
            handle.get_result_async().add_done_callback(ended)
            settle(answer, True, "the policy runs")

        def ended(finished: Any) -> None:
            self._goal = None
            result = finished.result().result
            self.said = f"{result.reason}: {result.message}" if result.message else result.reason

        self._goal.add_done_callback(accepted)

    def cancel(self, answer: Future[Answer]) -> None:
        """End it."""
        if self._goal is None or not hasattr(self._goal, "cancel_goal_async"):
            settle(answer, False, "no goal of this console is being run")
            return
        self._goal.cancel_goal_async().add_done_callback(
            lambda done: settle(answer, True, "the policy brakes")
        )
