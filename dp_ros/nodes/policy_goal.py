"""The `RunPolicy` action of the policy node: one goal at a time, and a reason for each end.

Easy to get wrong: a goal's result is sent by `execute`, which is called only when the goal has ended, so that the
node's own callbacks drive the goal and not a thread that waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse

from dp_ros.action import RunPolicy
from dp_ros.runtime.controller import RunCounts, Stop

FEEDBACK_S = 0.1


class PolicyGoal:
    """The action server.

    Args:
        node: an rclpy node.
        refusal: why no goal may begin now, empty if one may.
        begin: called with each accepted goal's request.
    """

    def __init__(self, node: Any, refusal: Callable[[], str], begin: Callable[[Any], None]) -> None:
        self._node, self._refusal, self._begin_run = node, refusal, begin
        self._handle: Any = None
        self._result = RunPolicy.Result()
        self._feedback_s = 0.0
        self._server = ActionServer(
            node,
            RunPolicy,
            "~/run",
            execute_callback=self._conclude,
            goal_callback=self._consider,
            handle_accepted_callback=self._begin,
            cancel_callback=self._cancel,
        )

    @property
    def running(self) -> bool:
        """Whether a goal is being run."""
        return self._handle is not None

    @property
    def cancel_requested(self) -> bool:
        """Whether a client wants the goal that is being run to end."""
        return self._handle is not None and self._handle.is_cancel_requested

    def finish(self, stop: Stop, counts: RunCounts, duration_s: float) -> None:
        """End the goal that is being run."""
        handle, self._handle = self._handle, None
        self._result = RunPolicy.Result(
            reason=stop.reason,
            message=stop.message,
            inferences=counts.inferences,
            late_steps=counts.late_steps,
            duration_s=duration_s,
        )
        self._node.get_logger().info(f"goal ended, {stop.reason}: {stop.message}")
        handle.execute(self._conclude)

    def publish_feedback(self, elapsed_s: float, progress: Mapping[str, Any]) -> None:
        """Tell the client how far it is, ten times a second."""
        if self._handle is not None and time.monotonic() - self._feedback_s >= FEEDBACK_S:
            self._feedback_s = time.monotonic()
            self._handle.publish_feedback(RunPolicy.Feedback(elapsed_s=elapsed_s, **progress))

    def destroy(self) -> None:
        """Remove the action server."""
        self._server.destroy()

    def _consider(self, goal: Any) -> GoalResponse:
        reason = self._refusal()
        if not reason and self._handle is not None:
            reason = "a goal is being run; cancel it first"
        if not reason and not 0.0 < goal.time_limit_s < 1e6:
            reason = f"time_limit_s is {goal.time_limit_s}, expected seconds above 0"
        if reason:
            self._node.get_logger().error(f"goal refused: {reason}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _begin(self, handle: Any) -> None:
        self._handle = handle
        self._node.get_logger().info(
            f"goal accepted: {handle.request.time_limit_s:g} s, seed {handle.request.seed}"
        )
        self._begin_run(handle.request)

    def _cancel(self, handle: Any) -> CancelResponse:
        return CancelResponse.ACCEPT if handle is self._handle else CancelResponse.REJECT

    def _conclude(self, handle: Any) -> Any:
        """Turn the reason into the goal's final state."""
        if self._result.reason == RunPolicy.Result.TIME_LIMIT:
            handle.succeed()
        elif handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return self._result
