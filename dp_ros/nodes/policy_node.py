"""Runs a policy on a robot: observations in, action trajectories out, inside a `RunPolicy` goal only.

A lifecycle node. Configuring loads task and model and starts to listen; activating allows goals; nothing is
commanded outside a goal. The loop itself is `runtime.Controller`; this file connects it to topics, to the
worker thread and, in lockstep simulation, to the clock.
"""

from __future__ import annotations

import time
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from dp_ros.action import RunPolicy
from dp_ros.bridge.clock import to_ns, to_stamp
from dp_ros.bridge.codecs import CodecProblem, decode, message_class
from dp_ros.bridge.lockstep import LockstepParticipant
from dp_ros.bridge.outputs import TrajectoryOutput, encode_chunk, make_output
from dp_ros.bridge.parameters import declare
from dp_ros.bridge.qos import observation_qos, reliable_qos
from dp_ros.bridge.spin import run_node
from dp_ros.errors import UserError
from dp_ros.inference.load import ENGINES, load_engine
from dp_ros.inference.worker import InferenceResult, InferenceWorker
from dp_ros.msg import ActionChunk as ActionChunkMsg
from dp_ros.msg import PolicyStatus
from dp_ros.runtime.chunk import ActionChunk
from dp_ros.runtime.controller import INFERENCE_FAILED, Controller, Stop
from dp_ros.runtime.observation import BadObservation, ObservationProblem
from dp_ros.runtime.outlet import outright
from dp_ros.runtime.spline import TrajectoryPoints
from dp_ros.runtime.supervisor import SafetyOptions
from dp_ros.task import load_task

#: Period of the watch that works also when simulated time stands still, wall time.
WATCH_S = 0.05
FEEDBACK_S = 0.1
#: Period of the status between goals, which says whether a goal could begin.
IDLE_STATUS_S = 0.25


class PolicyNode(LifecycleNode):
    """The policy as a lifecycle node (action `~/run`, topics `~/action_chunk`, `~/status`)."""

    def __init__(self) -> None:
        super().__init__("policy")
        declare(self, "task", "", "task file or name; empty: the model's own")
        declare(self, "model", "", "model folder with a manifest.json")
        declare(self, "engine", "auto", "what runs the model", choices=tuple(ENGINES))
        declare(self, "threads", 1, "processor threads of one inference", low=1, high=64)
        declare(self, "num_inference_steps", 0, "DDIM steps; 0: as the model says", low=0, high=1000)
        declare(
            self,
            "lockstep",
            False,
            "take part in lockstep simulation: tick with /clock, infer while it stands still",
            read_only=True,
        )
        declare(self, "margin_s", 0.01, "an action due sooner than this counts as late, s", low=0.0, high=1.0)
        declare(
            self,
            "stale_grace_s",
            1.0,
            "how long observations may be missing or stale before the goal is aborted, s",
            low=0.0,
            high=60.0,
        )
        declare(
            self,
            "clock_timeout_s",
            5.0,
            "wall time without progress of simulated time after which the goal is aborted, s",
            low=0.1,
            high=600.0,
        )
        self.autostart: bool = declare(
            self, "autostart", False, "configure and activate at once", read_only=True
        )
        self.last_error = ""
        self._configured = self._active = False
        self._goal: Any = None

    # --- lifecycle --------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load task and model, listen to the observations."""
        try:
            self._load()
        except UserError as error:
            self.last_error = str(error)
            self.get_logger().error(self.last_error)
            return TransitionCallbackReturn.FAILURE
        self._connect()
        self._configured = True
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Allow goals."""
        self._active = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the goal being run, allow no more."""
        self._active = False
        self._finish(Stop(RunPolicy.Result.DEACTIVATED, "the node was deactivated"))
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the model, the topics and the thread."""
        self._disconnect()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the goal being run and release everything."""
        self._active = False
        self._finish(Stop(RunPolicy.Result.DEACTIVATED, "the node was shut down"))
        self._disconnect()
        return TransitionCallbackReturn.SUCCESS

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _load(self) -> None:
        model = self._value("model")
        if not model:
            raise UserError("parameter model is empty; give a model folder, e.g. model:=models/pusht_state")
        self._engine = load_engine(
            model,
            engine=self._value("engine"),
            threads=self._value("threads"),
            num_inference_steps=self._value("num_inference_steps") or None,
        )
        self._task = load_task(self._value("task")) if self._value("task") else self._engine.task
        self._task.require_same_policy(self._engine.task)
        self._model_id = self._engine.manifest.model_id
        self._lockstep: bool = self._value("lockstep")
        self._controller = Controller(
            self._task,
            immediate=self._lockstep,
            margin_s=self._value("margin_s"),
            safety=SafetyOptions(stale_grace_s=self._value("stale_grace_s")),
        )
        self._classes = {key: message_class(spec.type) for key, spec in self._task.observations.items()}
        self.get_logger().info(f"model {self._model_id}, task {self._task.name}, engine {self._engine.name}")

    def _connect(self) -> None:
        self._output = make_output(self, self._task.action)
        self._chunk_pub = self.create_publisher(ActionChunkMsg, "~/action_chunk", reliable_qos())
        self._status_pub = self.create_publisher(PolicyStatus, "~/status", reliable_qos())
        self._problem: ObservationProblem | None = None
        self._pending_ns: int | None = None
        self._inferring = False
        self._inference_ms = 0.0
        self._progress_s = self._status_s = self._feedback_s = time.monotonic()
        self._guard = self.create_guard_condition(self._take_results)
        self._worker = InferenceWorker(self._engine, self._guard.trigger)
        self._subscriptions_held = [
            self.create_subscription(
                self._classes[key],
                spec.topic,
                lambda message, key=key: self._receive(key, message),
                observation_qos(lockstep=self._lockstep),
            )
            for key, spec in self._task.observations.items()
        ]
        self._participant = (
            LockstepParticipant(self, "policy", self._lockstep_tick) if self._lockstep else None
        )
        self._watch_timer = self.create_timer(
            WATCH_S, self._watch, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._action_server = ActionServer(
            self,
            RunPolicy,
            "~/run",
            execute_callback=self._conclude,
            goal_callback=self._consider,
            handle_accepted_callback=self._begin,
            cancel_callback=self._cancel,
        )

    def _disconnect(self) -> None:
        if not self._configured:
            return
        self._configured = False
        if not self._worker.close():
            self.get_logger().error("the inference thread did not end within 5 s")
        self._action_server.destroy()
        self.destroy_timer(self._watch_timer)
        if self._participant is not None:
            self._participant.destroy()
        for subscription in self._subscriptions_held:
            self.destroy_subscription(subscription)
        self.destroy_guard_condition(self._guard)
        self._output.destroy()
        for publisher in (self._chunk_pub, self._status_pub):
            self.destroy_publisher(publisher)
        del self._engine, self._worker, self._controller

    # --- goals ------------------------------------------------------------------------------------------

    def _consider(self, goal: Any) -> GoalResponse:
        reason = None
        if not self._active:
            reason = "the node is not active; activate it first"
        elif self._goal is not None:
            reason = "a goal is being run; cancel it first"
        elif not 0.0 < goal.time_limit_s < 1e6:
            reason = f"time_limit_s is {goal.time_limit_s}, expected seconds above 0"
        if reason is not None:
            self.get_logger().error(f"goal refused: {reason}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _begin(self, handle: Any) -> None:
        goal = handle.request
        self._goal, self._result = handle, RunPolicy.Result()
        self._progress_s = time.monotonic()
        self._controller.start(self._now(), seed=goal.seed, time_limit_s=goal.time_limit_s)
        self.get_logger().info(f"goal accepted: {goal.time_limit_s:g} s, seed {goal.seed}")
        self._step()

    def _cancel(self, handle: Any) -> CancelResponse:
        return CancelResponse.ACCEPT if handle is self._goal else CancelResponse.REJECT

    def _finish(self, stop: Stop) -> None:
        """End the goal: brake along what is commanded, then report."""
        if self._goal is None:
            return
        goal, self._goal = self._goal, None
        counts = self._controller.counts
        self._controller.stop()
        now_ns = self._now()
        if self._controller.brake(now_ns) is not None:
            self._publish_motion(self._controller.outlet.trajectory(now_ns))
        self._result.reason, self._result.message = stop.reason, stop.message
        self._result.inferences, self._result.late_steps = counts.inferences, counts.late_steps
        self._result.duration_s = self._controller.elapsed_s(now_ns)
        self.get_logger().info(f"goal ended, {stop.reason}: {stop.message}")
        self._publish_status()
        goal.execute(self._conclude)

    def _conclude(self, handle: Any) -> Any:
        """Turn the reason into the goal's final state."""
        if self._result.reason == RunPolicy.Result.TIME_LIMIT:
            handle.succeed()
        elif handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return self._result

    # --- observations and time --------------------------------------------------------------------------

    def _now(self) -> int:
        if self._participant is not None:
            return self._participant.now_ns
        return self.get_clock().now().nanoseconds

    def _receive(self, key: str, message: Any) -> None:
        buffer = self._controller.buffer
        try:
            try:
                value = decode(message, self._task.observations[key])
            except CodecProblem as problem:
                buffer.reject(key, str(problem))
            buffer.add(key, to_ns(message.header.stamp), value)
        except BadObservation as problem:
            self.get_logger().warning(f"sample refused: {problem}", throttle_duration_sec=2.0)
        if self._lockstep or key == self._task.anchor:
            self._step()

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
        tick = self._controller.tick(now_ns)
        self._problem = tick.problem
        if tick.problem is not None:
            self.get_logger().warning(f"no inference: {tick.problem}", throttle_duration_sec=2.0)
        if tick.braked:
            self._publish_motion(self._controller.outlet.trajectory(now_ns))
        if tick.stop is not None:
            self._finish(tick.stop)
        if tick.request is not None:
            self._inferring = True
            self._worker.submit(tick.request)
        if self._goal is not None:
            self._publish_status()
            self._publish_feedback()

    def _take_results(self) -> None:
        while self._configured and (result := self._worker.take()) is not None:
            self._inferring = False
            self._inference_ms = result.inference_ns / 1e6
            self._lockstep_done(self._use(result))
            self._step()

    def _use(self, result: InferenceResult) -> int:
        """Publish what an inference gave; returns the stamp of the command, 0 if there is none."""
        if result.actions is None:
            self._finish(Stop(INFERENCE_FAILED, result.problem))
            return 0
        chunk = self._controller.accept(
            result.request, result.actions, now_ns=self._now(), inference_ns=result.inference_ns
        )
        if isinstance(chunk, Stop):
            self._finish(chunk)
        if not isinstance(chunk, ActionChunk):
            return 0
        motion = outright(chunk) if self._lockstep else self._controller.outlet.trajectory(self._now())
        self._publish_motion(motion)
        self._chunk_pub.publish(encode_chunk(chunk, self._task.action.names, self._model_id))
        return chunk.start_ns

    def _watch(self) -> None:
        """What must happen on the wall clock: cancelling, time limits, silence."""
        wall_s = time.monotonic()
        if self._goal is not None and self._goal.is_cancel_requested:
            self._finish(Stop(RunPolicy.Result.CANCELED, "a client cancelled the goal"))
        elif self._goal is not None and self._participant is None:
            self._tick(self._now())
        elif self._goal is not None and wall_s - self._progress_s > self._value("clock_timeout_s"):
            self._finish(self._silence())
            self._step()
        if self._goal is None and wall_s - self._status_s >= IDLE_STATUS_S:
            self._problem = self._controller.observation_problem(self._now())
            self._publish_status()

    def _silence(self) -> Stop:
        """Why lockstep does not go on."""
        waited = f"for {self._value('clock_timeout_s'):g} s of wall time"
        if self._inferring:
            return Stop(INFERENCE_FAILED, f"the inference has not come back {waited}")
        if self._pending_ns is None:
            return Stop(
                RunPolicy.Result.CLOCK_STOPPED, f"/clock has stood still {waited}; is the simulation alive?"
            )
        missing = self._controller.buffer.incomplete_at(self._pending_ns)
        topics = ", ".join(f"{key} ({self._task.observations[key].topic})" for key in missing)
        problem = self._controller.buffer.problem_of(missing)
        if problem is not None:
            return Stop(problem.reason, str(problem))
        return Stop(RunPolicy.Result.STREAM_STALE, f"nothing new {waited} on {topics}")

    # --- publishing -------------------------------------------------------------------------------------

    def _publish_motion(self, points: TrajectoryPoints | None) -> None:
        if points is not None:
            assert isinstance(self._output, TrajectoryOutput)
            self._output.publish(points)

    def _publish_status(self) -> None:
        state = "idle" if self._goal is None else "waiting" if self._problem is not None else "running"
        message = PolicyStatus(
            state=state,
            reason=self._problem.reason if self._problem is not None else "",
            message=str(self._problem) if self._problem is not None else "",
            model_id=self._model_id,
            clamped=self._controller.counts.clamped,
            **self._progress(),
        )
        message.header.stamp = to_stamp(self._now())
        self._status_pub.publish(message)
        self._status_s = time.monotonic()

    def _publish_feedback(self) -> None:
        if time.monotonic() - self._feedback_s < FEEDBACK_S:
            return
        self._feedback_s = time.monotonic()
        elapsed_s = self._controller.elapsed_s(self._now())
        self._goal.publish_feedback(RunPolicy.Feedback(elapsed_s=elapsed_s, **self._progress()))

    def _progress(self) -> dict[str, Any]:
        """What status and feedback have in common."""
        return {
            "inferences": self._controller.counts.inferences,
            "late_steps": self._controller.counts.late_steps,
            "queue_s": self._controller.schedule.remaining_s(self._now()),
            "inference_ms": self._inference_ms,
        }


def make_node() -> PolicyNode:
    """The node, configured and activated if `autostart` is set.

    Raises:
        UserError: if it cannot be configured.
    """
    node = PolicyNode()
    if node.autostart:
        if node.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            message = node.last_error or "the policy node could not be configured"
            node.destroy_node()
            raise UserError(message)
        node.trigger_activate()
    return node


def main(args: list[str] | None = None) -> int:
    """Run the node."""
    return run_node(make_node, args)


if __name__ == "__main__":
    raise SystemExit(main())
