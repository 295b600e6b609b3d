"""What a configured policy node does: observations in, inferences, commands out, inside a goal only.

The loop itself is `runtime.Controller`; this file connects it to topics, to the worker thread, to the command stream
and, in lockstep simulation, to the clock. Easy to get wrong: a callback may come after `destroy`, which the executor
had taken up before; it must find nothing to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rclpy.clock import Clock, ClockType

from dp_ros.action import RunPolicy
from dp_ros.bridge.command_stream import CommandStream
from dp_ros.bridge.lockstep import LockstepParticipant
from dp_ros.bridge.observations import ObservationIntake
from dp_ros.bridge.safety_inputs import SafetyInputs
from dp_ros.errors import UserError
from dp_ros.inference.engine import Engine
from dp_ros.inference.worker import InferenceResult, InferenceWorker
from dp_ros.nodes.policy_goal import PolicyGoal
from dp_ros.nodes.policy_options import read_setup
from dp_ros.nodes.policy_state import controller_silent, could_begin, progress, refusal, standstill, state_of
from dp_ros.nodes.policy_view import PolicyView
from dp_ros.runtime.controller import Controller, Stop
from dp_ros.runtime.motion.chunk import ActionChunk
from dp_ros.runtime.observation import BadObservation
from dp_ros.runtime.outlet import outright
from dp_ros.runtime.safety import BadAction
from dp_ros.runtime.supervisor import CONTROLLER_SILENT, INFERENCE_FAILED, Reaction, StopLatch, Verdict

#: Period of the watch that works also when simulated time stands still, wall time.
WATCH_S = 0.05
#: Planning and sending the first chunk and the first stop, on a busy machine.
FIRST_LEAD_S = 0.05
#: How much longer than planned a stop may take, wall time, until the goal's end is reported all the same.
LONGER_STOP_S = 1.0
#: Ends that are reported at once: time stands still, nothing brakes any more, or the node will be gone.
_AT_ONCE = (RunPolicy.Result.CLOCK_STOPPED, RunPolicy.Result.OUTPUT_FAILED, RunPolicy.Result.DEACTIVATED)
IDLE_STATUS_S = 0.25  # period of the status between goals, which says whether a goal could begin


@dataclass(frozen=True)
class _Ending:
    """A goal that ends while the robot still brakes: why, after how long, for how long, and until when at most."""

    stop: Stop
    elapsed_s: float
    moves_s: float
    deadline_s: float


class PolicyLoop:
    """Made when the node is configured, destroyed when it is cleaned up.

    Args:
        node: lifecycle node with the parameters of `policy_options`.
        engine: model.
        goals_allowed: whether the node is active.
        stop_latch: of the emergency stop, which outlives this.

    Raises:
        UserError: if task, model and parameters do not go together, or commands cannot be sent; nothing is left behind.
    """

    def __init__(
        self, node: Any, engine: Engine, goals_allowed: Callable[[], bool], stop_latch: StopLatch
    ) -> None:
        self._node, self._goals_allowed = node, goals_allowed
        setup = read_setup(node, engine)
        self._task, self._engine, self._options = setup.task, engine, setup.options
        task, execution, o = setup.task, setup.execution, setup.options
        self._controller = Controller(
            task,
            immediate=o.lockstep,
            margin_s=o.margin_s,
            first_lead_s=FIRST_LEAD_S,
            execution=execution,
            safety=o.safety,
            stop_latch=stop_latch,
            followed=not o.dry_run,
            clock=None if o.lockstep else self._now,
        )
        self._pending_ns: int | None = None
        self._ending: _Ending | None = None
        self._verdict, self._inferring = Verdict(), False
        self._inference_ms = self._asked_s = 0.0
        self._output_error: Exception | None = None
        self._progress_s = self._status_s = time.monotonic()
        self._guard = self._node.create_guard_condition(self._take_results)
        try:
            self._commands = CommandStream(
                node,
                task.action,
                self._controller.outlet,
                dry_run=o.dry_run,
                realtime_priority=o.realtime_priority,
                on_error=self._output_failed,
            )
        except UserError:
            self._node.destroy_guard_condition(self._guard)
            raise
        self._closed = False
        self._view = PolicyView(node, task, o)
        self._worker = InferenceWorker(engine, self._guard.trigger)
        self._intake = ObservationIntake(
            node,
            task,
            self._controller.buffer,
            lockstep=o.lockstep,
            now_ns=self._now,
            on_sample=self._sampled,
        )
        self._participant = LockstepParticipant(node, "policy", self._lockstep_tick) if o.lockstep else None
        self._goal = PolicyGoal(node, self._refusal, self._begin)
        self._inputs = SafetyInputs(
            node,
            self._controller.supervisor,
            react=self._react,
            goal_running=lambda: self._goal.running,
            operator_topic=o.operator_topic,
            operator_type=o.operator_type or task.action.type,
        )
        self._watch_timer = self._node.create_timer(
            WATCH_S, self._watch, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._node.get_logger().info(
            f"model {engine.manifest.model_id}, task {task.name}, engine {engine.name}, {execution.words(task)}"
            + (", DRY RUN: nothing is sent to the robot" if o.dry_run else "")
        )

    def destroy(self) -> None:
        """Release the model, the topics and the threads."""
        self._closed = True
        self._node.destroy_timer(self._watch_timer)
        for what, ended in (
            ("setpoint", self._commands.destroy(self._now())),
            ("inference", self._worker.close()),
            ("decoding", self._intake.close()),
        ):
            if not ended:
                self._node.get_logger().error(f"the {what} thread did not end in time")
        self._inputs.destroy()
        self._goal.destroy()
        self._view.destroy()
        if self._participant is not None:
            self._participant.destroy()
        self._node.destroy_guard_condition(self._guard)
        del self._engine, self._worker, self._controller, self._commands, self._intake

    def change_engine(self, engine: Engine) -> None:
        """Run another model, from the next inference on; raises UserError if it is not of the same task."""
        self._task.require_same_policy(engine.task)
        self._controller.execution.require(self._task, engine.prefix)
        warm_start = engine.manifest.sampler.warm_start > 0
        self._controller.execution = replace(self._controller.execution, warm_start=warm_start)
        self._engine = engine
        self._worker.change_engine(engine)

    @property
    def engine(self) -> Engine:
        """The model in use."""
        return self._engine

    # --- goals ------------------------------------------------------------------------------------------

    def _refusal(self) -> str:
        if not self._goals_allowed():
            return "the node is not active; activate it first"
        verdict = refusal(self._controller, self._options, time.monotonic(), self._inferring_s())
        return f"{verdict.reason}: {verdict.message}" if verdict.reason else ""

    def _could_begin(self, now_ns: int) -> Verdict:
        return could_begin(
            self._controller,
            self._commands,
            self._task,
            self._options,
            now_ns,
            time.monotonic(),
            self._inferring_s(),
        )

    def _inferring_s(self) -> float:
        return time.monotonic() - self._asked_s if self._inferring else 0.0

    def _begin(self, request: Any) -> None:
        self._progress_s = time.monotonic()
        self._controller.start(self._now(), seed=request.seed, time_limit_s=request.time_limit_s)
        self._report_silence(self._progress_s)
        self._step()

    def _report_silence(self, steady_s: float) -> None:
        silent = controller_silent(self._commands, self._task, self._options)
        self._controller.supervisor.report(CONTROLLER_SILENT, silent, steady_s)

    def finish(self, stop: Stop) -> None:
        """End the goal: brake along what is commanded, and report when that stands still."""
        if not self._goal.running:
            return
        now_ns, begun_s = self._now(), time.monotonic()
        if self._ending is None:
            self._controller.stop()
            moves_s = 0.0
            if self._controller.brake(now_ns) is not None:
                self._send_brake(now_ns, begun_s)
                moves_s = self._controller.outlet.moves_for_s(now_ns)
            elapsed_s = self._controller.elapsed_s(now_ns)
            self._ending = _Ending(stop, elapsed_s, moves_s, begun_s + moves_s + LONGER_STOP_S)
            self._verdict = Verdict(Reaction.ABORT, stop.reason, stop.message)
        if stop.reason in _AT_ONCE or self._ending.moves_s == 0.0:
            self._report_end(now_ns)

    def _report_end(self, now_ns: int) -> None:
        ending, self._ending = self._ending, None
        assert ending is not None
        self._goal.finish(ending.stop, self._controller.counts, ending.elapsed_s)
        self._verdict = self._could_begin(now_ns)
        self._publish_status()

    def _brake_on(self, now_ns: int, steady_s: float) -> None:
        """While the robot brakes at the end of a goal."""
        self._controller.watch_clock(now_ns, steady_s)
        if self._ending is not None and (
            self._controller.outlet.moves_for_s(now_ns) == 0.0 or steady_s >= self._ending.deadline_s
        ):
            self._report_end(now_ns)

    def _send_brake(self, now_ns: int, begun_s: float) -> None:
        try:
            self._commands.update(now_ns)
            self._controller.lead.took(round((time.monotonic() - begun_s) * 1e9), stop=True)
        except BadAction as problem:
            self._node.get_logger().error(f"the brake could not be sent: {problem}")

    def _react(self) -> None:
        """Something came from a person: what has to be done is done at once."""
        if self._participant is None:
            self._tick(self._now())
        elif (stop := self._controller.urgent_stop(self._now(), time.monotonic())) is not None:
            self.finish(stop)

    def _output_failed(self, error: Exception) -> None:
        """In the setpoint thread, which has ended."""
        self._output_error = error
        self._guard.trigger()

    # --- observations and time --------------------------------------------------------------------------

    def _now(self) -> int:
        if self._participant is not None:
            return self._participant.now_ns
        return self._node.get_clock().now().nanoseconds

    def _sampled(self, key: str, problem: BadObservation | None) -> None:
        if self._options.lockstep or key == self._task.anchor:
            self._step()
        if problem is None and self._task.observations[key].is_image:
            ahead = self._controller.frame_ahead(key)
            if ahead is not None:
                self._worker.look_ahead(key, *ahead)

    def _lockstep_tick(self, time_ns: int) -> None:
        self._pending_ns = time_ns
        self._progress_s = time.monotonic()
        self._step()

    def _step(self) -> None:
        """Tick, if it is time to: with each new anchor sample, or in lockstep when a clock time is complete."""
        if self._participant is None:
            self._tick(self._now())
        elif (
            self._pending_ns is not None
            and not self._inferring
            and self._controller.buffer.complete_at(self._pending_ns)
        ):
            self._tick(self._pending_ns)
            if not self._inferring:
                self._lockstep_done()

    def _lockstep_done(self, command_ns: int = 0) -> None:
        if self._participant is not None and self._pending_ns is not None:
            self._participant.done(self._pending_ns, command_ns)
            self._pending_ns = None
            self._progress_s = time.monotonic()

    def _tick(self, now_ns: int) -> None:
        steady_s = time.monotonic()
        tick = self._controller.tick(now_ns, steady_s)
        self._inputs.publish_takeover(self._controller.supervisor.operator_is_live(steady_s), now_ns)
        if tick.problem is not None:
            self._node.get_logger().warning(f"no inference: {tick.problem}", throttle_duration_sec=2.0)
        if self._goal.running and self._ending is None:
            self._verdict = tick.verdict
        if tick.braked:
            self._send_brake(now_ns, steady_s)
        if tick.stop is not None:
            self.finish(tick.stop)
        if tick.request is not None:
            self._inferring, self._asked_s = True, steady_s
            self._worker.submit(tick.request)
        if self._goal.running:
            self._publish_status()
            fields = {**self._progress(), "reason": self._verdict.reason}
            self._goal.publish_feedback(self._controller.elapsed_s(now_ns), fields)

    def _take_results(self) -> None:
        if not self._closed and self._output_error is not None:
            error, self._output_error = self._output_error, None
            self.finish(Stop(RunPolicy.Result.OUTPUT_FAILED, f"{type(error).__name__}: {error}"))
        while not self._closed and (result := self._worker.take()) is not None:
            if result.alternatives is not None:
                self._view.draw(self._controller, result, self._now())
                continue
            self._inferring = False
            self._inference_ms = result.inference_ns / 1e6
            self._view.publish_sample(result)
            self._lockstep_done(self._use(result))
            self._step()
            if not self._inferring and self._view.wanted and result.actions is not None:
                self._worker.sample_alternatives(result.request, self._options.marker_samples)

    def _use(self, result: InferenceResult) -> int:
        """Publish what an inference gave; returns the stamp of the command, 0 if there is none."""
        if result.actions is None:
            self._controller.supervisor.report(INFERENCE_FAILED, result.problem, time.monotonic())
            self.finish(Stop(INFERENCE_FAILED, result.problem))
            return 0
        now_ns, begun_ns = self._now(), time.monotonic_ns()
        chunk = self._controller.accept(
            result.request, result.actions, now_ns=now_ns, inference_ns=result.inference_ns
        )
        if isinstance(chunk, Stop):
            self.finish(chunk)
        if not isinstance(chunk, ActionChunk):
            return 0
        try:
            if self._options.lockstep:
                self._commands.publish(outright(chunk))
            else:
                self._commands.update(now_ns)
                self._controller.lead.took(time.monotonic_ns() - begun_ns, stop=False)
        except BadAction as problem:
            self.finish(Stop(INFERENCE_FAILED, str(problem)))
            return 0
        self._view.publish_chunk(chunk, result.model_id)
        return chunk.start_ns

    def _watch(self) -> None:
        """What must happen on the wall clock: cancelling, time limits, silence."""
        steady_s, now_ns = time.monotonic(), self._now()
        self._report_silence(steady_s)
        if self._participant is None:
            self._commands.publish_grippers(now_ns)
        if self._ending is not None:
            self._brake_on(now_ns, steady_s)
        elif self._goal.cancel_requested:
            self.finish(Stop(RunPolicy.Result.CANCELED, "a client cancelled the goal"))
        elif self._participant is None and self._goal.running:
            self._tick(now_ns)
        elif self._goal.running and steady_s - self._progress_s > self._options.clock_timeout_s:
            waited_s = self._options.clock_timeout_s
            self.finish(standstill(self._controller, self._task, waited_s, self._pending_ns, self._inferring))
            self._step()
        elif self._participant is None:
            self._controller.watch_clock(now_ns, steady_s)
        if not self._goal.running and steady_s - self._status_s >= IDLE_STATUS_S:
            self._inputs.publish_takeover(self._controller.supervisor.operator_is_live(steady_s), now_ns)
            self._verdict = self._could_begin(now_ns)
            self._publish_status()
        self._view.publish_diagnostics(self._controller, self._intake, self._commands, now_ns)

    # --- publishing -------------------------------------------------------------------------------------

    def _publish_status(self) -> None:
        self._view.publish_status(
            self._now(),
            self._controller,
            self._verdict,
            state=state_of(self._controller, self._verdict, self._goals_allowed(), self._goal.running),
            model_id=self._engine.manifest.model_id,
            **self._progress(),
        )
        self._status_s = time.monotonic()

    def _progress(self) -> dict[str, Any]:
        return progress(self._controller, self._now(), self._inference_ms)
