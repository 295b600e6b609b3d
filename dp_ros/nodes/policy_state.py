"""What the policy node is doing, whether a goal could begin, and why simulated time does not go on.

Easy to get wrong: that a goal could begin is for the operator to see before pressing go, so everything that would
stop one at once has to be looked at here.
"""

from __future__ import annotations

from typing import Any

from dp_ros.action import RunPolicy
from dp_ros.bridge.command_stream import CommandStream
from dp_ros.nodes.policy_options import PolicyOptions
from dp_ros.runtime.controller import Controller
from dp_ros.runtime.observation import ObservationProblem
from dp_ros.runtime.outcome import Stop
from dp_ros.runtime.supervisor import (
    CLOCK_STOPPED,
    CONTROLLER_SILENT,
    INFERENCE_FAILED,
    INFERENCE_OVERDUE,
    Reaction,
    Verdict,
)
from dp_ros.task import TaskSpec

#: An inference that a goal leaves behind is waited for this long, s, by the next goal; then that is refused.
LONG_INFERENCE_S = 0.5


def state_of(controller: Controller, verdict: Verdict, active: bool, goal_running: bool) -> str:
    """The `state` of msg/PolicyStatus."""
    if not goal_running:
        return "idle" if active else "inactive"
    if verdict.reaction is Reaction.YIELD:
        return "yielded"
    if verdict.reaction in (Reaction.HOLD, Reaction.ABORT) and controller.outlet.is_open:
        return "holding"
    return "running" if controller.outlet.is_open else "waiting"


def controller_silent(commands: CommandStream, task: TaskSpec, options: PolicyOptions) -> str:
    """Why nobody would execute a command; empty if somebody would, or in lockstep, where time waits for that."""
    if options.lockstep or options.dry_run or not options.require_controller or commands.listeners:
        return ""
    return f"nobody subscribes to {task.action.topic}; is the controller active?"


def refusal(controller: Controller, options: PolicyOptions, steady_s: float, inferring_s: float) -> Verdict:
    """Why a goal must not begin; `Reaction.NONE` if it may, and wait for what is missing.

    Args:
        controller: of the node.
        options: of the node.
        steady_s: steady time.
        inferring_s: how long an inference of an earlier goal has been under way, 0 if none is.
    """
    if (verdict := controller.supervisor.refusal(steady_s)).reason:
        return verdict
    # By a clock that stands still the last samples stay fresh for ever.
    if stopped := controller.supervisor.clock_stopped():
        return Verdict(Reaction.HOLD, CLOCK_STOPPED, stopped)
    if inferring_s > LONG_INFERENCE_S and not options.lockstep:
        busy = f"an inference of the goal before has been under way for {inferring_s:.1f} s"
        return Verdict(Reaction.HOLD, INFERENCE_OVERDUE, busy)
    return Verdict()


def could_begin(
    controller: Controller,
    commands: CommandStream,
    task: TaskSpec,
    options: PolicyOptions,
    now_ns: int,
    steady_s: float,
    inferring_s: float,
) -> Verdict:
    """Why no goal could begin now, with no reason if one could."""
    refused = refusal(controller, options, steady_s, inferring_s)
    if refused.reason:
        return refused
    try:
        controller.buffer.window(now_ns)
    except ObservationProblem as problem:
        return Verdict(Reaction.HOLD, problem.reason, str(problem))
    silent = controller_silent(commands, task, options)
    return Verdict(Reaction.HOLD, CONTROLLER_SILENT, silent) if silent else Verdict()


def standstill(
    controller: Controller, task: TaskSpec, timeout_s: float, pending_ns: int | None, inferring: bool
) -> Stop:
    """Why lockstep does not go on.

    Args:
        controller: of the node.
        task: its topics.
        timeout_s: how long it has stood still.
        pending_ns: clock time that is not finished, None if none is.
        inferring: whether an inference is under way.
    """
    waited = f"for {timeout_s:g} s of wall time"
    if inferring:
        return Stop(INFERENCE_FAILED, f"the inference has not come back {waited}")
    if pending_ns is None:
        return Stop(
            RunPolicy.Result.CLOCK_STOPPED, f"/clock has stood still {waited}; is the simulation alive?"
        )
    missing = controller.buffer.incomplete_at(pending_ns)
    problem = controller.buffer.problem_of(missing)
    if problem is not None:
        return Stop(problem.reason, str(problem))
    topics = ", ".join(f"{key} ({task.observations[key].topic})" for key in missing)
    return Stop(RunPolicy.Result.STREAM_STALE, f"nothing new {waited} on {topics}")


def progress(controller: Controller, now_ns: int, inference_ms: float) -> dict[str, Any]:
    """What `~/status` and the feedback of the action have in common."""
    return {
        "inferences": controller.counts.inferences,
        "late_steps": controller.counts.late_steps,
        "queue_s": controller.schedule.remaining_s(now_ns),
        "inference_ms": inference_ms,
        "gate": controller.gate_state(),
    }
