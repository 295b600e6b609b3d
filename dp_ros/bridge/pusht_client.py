"""Runs episodes on the simulated robot from outside: reset, `RunPolicy` goal, score.

What `dp-ros demo`, `dp-ros eval --ros` and the system tests use; a client like any other. Easy to get wrong:
after a reset the policy's buffer still holds the old world, so the goal is sent only when enough new steps
were published.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from rclpy.action import ActionClient

from dp_ros.action import RunPolicy
from dp_ros.bridge.client import RosClient
from dp_ros.bridge.clock import to_ns
from dp_ros.bridge.qos import reliable_qos
from dp_ros.bridge.readiness import PolicyReadiness
from dp_ros.errors import UserError
from dp_ros.msg import ActionChunk, EpisodeStatus
from dp_ros.sim.pusht_rollout import EpisodeResult, noise_seed
from dp_ros.srv import ResetEpisode
from dp_ros.task import TaskSpec


class PushTClient(RosClient):
    """A connection to the simulated robot and the policy node, for use in a `with` block.

    Args:
        task: rate and number of observation steps.
        check: called while waiting; raises when a process that is needed has ended.
        timeout_s: wall time that any single answer may take.
    """

    def __init__(self, task: TaskSpec, check: Callable[[], None], timeout_s: float = 30.0) -> None:
        super().__init__("pusht_client", check, timeout_s)
        self._task = task
        #: Every EpisodeStatus since the last reset.
        self.statuses: list[Any] = []
        #: Every ActionChunk since the last reset.
        self.chunks: list[Any] = []

    def __enter__(self) -> Self:
        super().__enter__()
        self.node.create_subscription(
            EpisodeStatus, "/pusht/status", self.statuses.append, reliable_qos(1000)
        )
        self.node.create_subscription(
            ActionChunk, "/policy/action_chunk", self.chunks.append, reliable_qos(1000)
        )
        self._reset_client = self.node.create_client(ResetEpisode, "/pusht/reset")
        self._run_client = ActionClient(self.node, RunPolicy, "/policy/run")
        self._readiness = PolicyReadiness(self, "/policy/status")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run_client.destroy()
        super().__exit__(kind, error, trace)

    def connect(self) -> None:
        """Wait until simulated robot and policy are there and the policy hears the robot.

        Raises:
            UserError: if they are not within the time-out.
        """
        self.wait(self._reset_client.service_is_ready, "the simulated robot (service /pusht/reset)")
        self.wait(self._run_client.server_is_ready, "the policy node (action /policy/run)")
        self.wait(lambda: self.statuses, "the simulated robot's status (/pusht/status)")
        self._readiness.wait()

    def reset(self, seed: int) -> None:
        """Put the world at a start state and wait until the policy can only see that world.

        Raises:
            UserError: if the robot refuses the seed.
        """
        answer = self.call(self._reset_client, ResetEpisode.Request(seed=seed, legacy=True), "the reset")
        if not answer.success:
            raise UserError(f"reset to seed {seed}: {answer.message}")
        self.statuses.clear()
        settled_ns = to_ns(answer.stamp) + (self._task.n_obs_steps - 1) * self._task.dt_ns
        self.wait(
            lambda: any(
                s.episode == answer.episode and to_ns(s.header.stamp) >= settled_ns for s in self.statuses
            ),
            "observations of the new episode",
        )
        self.statuses[:] = [status for status in self.statuses if status.episode == answer.episode]
        self.chunks.clear()

    def run_episode(
        self, seed: int, *, repeat: int = 0, time_limit_s: float = 40.0, wall_limit_s: float = 300.0
    ) -> tuple[EpisodeResult, str]:
        """Reset, let the policy act until the episode is over, stop it.

        Args:
            seed: of the start state.
            repeat: which draw of the sampling noise.
            time_limit_s: of the goal, simulated time.
            wall_limit_s: real time after which the episode counts as hung.

        Returns:
            The episode's result, and the reason for which the policy stopped.

        Raises:
            UserError: if the policy refuses or aborts the goal, or nothing ends within the limits.
        """
        self.reset(seed)
        handle = self.send_goal(seed=noise_seed(seed, repeat), time_limit_s=time_limit_s)
        result_future = handle.get_result_async()
        self.wait(
            lambda: result_future.done() or (self.statuses and self.statuses[-1].done),
            "the end of the episode",
            wall_limit_s,
        )
        if not result_future.done():
            cancelled = handle.cancel_goal_async()
            self.wait(cancelled.done, "the answer to the cancel request")
        result = self.wait(
            lambda: result_future.done() and result_future.result(), "the policy to stop"
        ).result
        if not (self.statuses and self.statuses[-1].done):
            raise UserError(f"seed {seed}: the policy stopped, {result.reason}: {result.message}")
        return self._episode(seed, repeat, result.late_steps), result.reason

    def send_goal(self, *, seed: int, time_limit_s: float) -> Any:
        """Let the policy act as soon as it could; returns the goal's handle.

        Raises:
            UserError: if it does not hear the robot within the time-out, or refuses.
        """
        self._readiness.wait()
        sent = self._run_client.send_goal_async(RunPolicy.Goal(time_limit_s=time_limit_s, seed=seed))
        handle = self.wait(lambda: sent.done() and sent.result(), "the policy's answer to the goal")
        if not handle.accepted:
            raise UserError("the policy node refused the goal; its log says why")
        return handle

    def wait_for_result(self, handle: Any, timeout_s: float) -> Any:
        """The goal's status and result once it has ended; processes may have ended too.

        Raises:
            UserError: after the time-out.
        """
        future = handle.get_result_async()
        check, self._check = self._check, lambda: None
        try:
            return self.wait(lambda: future.done() and future.result(), "the goal's end", timeout_s)
        finally:
            self._check = check

    def _episode(self, seed: int, repeat: int, late_steps: int) -> EpisodeResult:
        by_step = {status.step: status for status in self.statuses}
        last = by_step[max(by_step)]
        end_ns = to_ns(last.header.stamp)
        times_ms = [to_ns(c.inference_time) / 1e6 for c in self.chunks if to_ns(c.observation_stamp) < end_ns]
        return EpisodeResult(
            seed=seed,
            repeat=repeat,
            score=last.score,
            success=last.success,
            final_coverage=last.coverage,
            steps=last.step,
            inference_ms=times_ms,
            late_steps=late_steps,
            states=[np.array(by_step[step].state) for step in sorted(by_step)],
            plans=[self._plan(chunk, end_ns - last.step * self._task.dt_ns) for chunk in self.chunks],
        )

    def _plan(self, chunk: Any, begin_ns: int) -> tuple[int, npt.NDArray[np.float64]]:
        """Step from which a chunk was in force in an episode that began at `begin_ns`, and its positions."""
        step = round((to_ns(chunk.header.stamp) - begin_ns) / self._task.dt_ns)
        return step, np.array(chunk.values).reshape(-1, len(chunk.names))
