"""Replays an episode from outside: an operator on the robot's command topic, which stops where anything is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event

import numpy as np
import numpy.typing as npt

from dp_ros.bridge.client import RosClient
from dp_ros.bridge.emergency_stop import EmergencyStopWatch
from dp_ros.bridge.operator_output import OperatorOutput, command_rate
from dp_ros.errors import UserError
from dp_ros.runtime.operator import OperatorMotion
from dp_ros.runtime.replay import EpisodeReplay
from dp_ros.task import TaskSpec

#: So long a policy that runs may take to be heard of, s.
_POLICY_S = 1.0


def replay_episode(
    client: RosClient,
    task: TaskSpec,
    commands: npt.NDArray[np.float64],
    *,
    speed: float,
    approach: float,
    interrupted: Event,
    report: Callable[[EpisodeReplay], None],
) -> None:
    """Drive the robot to the first command and then along all of them; returns when it stands still.

    Args:
        client: an entered client.
        task: that was recorded.
        commands: (n, command_dim), one a step.
        speed: 1 is as recorded.
        approach: share of the velocity limits with which the robot goes to the first one.
        interrupted: set to end the replay.
        report: called now and then.

    Raises:
        UserError: the robot does not listen or is not measured, it does not follow, or the emergency stop is or becomes
            latched, by topic, service or the policy itself.
    """
    tick_s = 1.0 / command_rate(task)
    try:
        motion = OperatorMotion(task, tick_s=tick_s, speed_scale=approach, timeout_s=1.0, hold_s=0.5)
        replay = EpisodeReplay(task, commands, motion, speed=speed)
    except ValueError as error:
        raise UserError(f"the episode cannot be replayed: {error}") from None
    begun = False

    def tick(now_ns: int) -> None:
        if interrupted.is_set():
            replay.stop("interrupted")
        if begun:
            replay.tick(now_ns, output.measured(now_ns), output.measured_ns)

    output = OperatorOutput(client.node, task, motion, on_tick=tick)
    watch = EmergencyStopWatch(client.node, on_stop=lambda: replay.stop(watch.problem))
    client.wait(lambda: output.measured_ns, "the robot's state")
    client.wait(
        lambda: client.node.count_subscribers(task.action.topic),
        f"somebody who listens to {task.action.topic}",
    )
    heard_s = time.monotonic() + _POLICY_S
    client.wait(lambda: time.monotonic() > heard_s and not watch.unheard, "the policy's status")
    if watch.problem:
        raise UserError(f"nothing was moved: {watch.problem}")
    begun = True

    def over() -> bool:
        report(replay)
        return replay.phase in ("done", "failed") and not motion.is_moving

    client.wait(over, "the end of the replay", float("inf"))
    if replay.phase == "failed":
        raise UserError(f"the replay ended after {replay.progress_s:.1f} s: {replay.problem}")
