"""The closed loop, one tick at a time: observe, decide whether to infer, supervise, schedule.

```
 observations   o─────o                         n_obs_steps, the newest at t
 predicted      a0 a1 a2 a3 a4 a5 … a15         horizon, from the oldest observation on
 meant for         t  +1 +2 +3 +4 …             late ones are dropped, never shifted
 running        ───────────────┤ seam           what is committed while the inference runs
 new chunk                     a4 a5 … a15      joins there; the next inference is due infer_every steps after t
```

Pure: time comes in, requests and chunks come out, and the caller runs the model (in a worker thread on a
robot, in place in an evaluation). `setpoint` may be asked from another thread, everything else from one. Easy to
get wrong: a tick may come while an inference is under way, and its result may arrive after the run it belongs to
has ended; `accept` ignores such a result.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from dp_ros.runtime.action_space import ActionSpace
from dp_ros.runtime.ensemble import TemporalEnsemble
from dp_ros.runtime.execution import Execution, InferenceRequest, SoftStart, plan_prefix
from dp_ros.runtime.lead import Lead
from dp_ros.runtime.look_ahead import frame_ahead
from dp_ros.runtime.motion.chunk import ActionChunk, ChunkSchedule
from dp_ros.runtime.observation import FrameStamp, ObservationBuffer, ObservationProblem, Window
from dp_ros.runtime.outcome import TIME_LIMIT, RunCounts, Stop, Tick
from dp_ros.runtime.outlet import Outlet
from dp_ros.runtime.prefix import Prefix
from dp_ros.runtime.safety import BadAction, LimitGate
from dp_ros.runtime.stream import Array
from dp_ros.runtime.supervisor import (
    CLOCK_JUMP,
    INFERENCE_FAILED,
    INFERENCE_OVERDUE,
    OBSERVATION_REASONS,
    TRACKING_ERROR,
    Reaction,
    SafetyOptions,
    StopLatch,
    Supervisor,
)
from dp_ros.runtime.tracking import Whereabouts
from dp_ros.task import TaskSpec

Floats = npt.NDArray[np.float64]


class Controller:
    """Closed-loop execution of a policy.

    Args:
        task: rates, horizon, limits.
        immediate: True where time stands still during inference (lockstep, evaluation): nothing is ever late,
            inference need not run ahead, and chunks are executed outright. False on a robot.
        margin_s: time that a command needs on its way to the robot; an action due sooner counts as late.
        first_lead_s: time that planning and sending are thought to take until `lead` has measured them.
        execution: how chunks follow one another.
        safety: of the supervisor.
        stop_latch: of the emergency stop, which outlives this; None: a new one.
        followed: whether a robot is sent what is commanded; one that is not cannot be off course.
        clock: ROS time, by which a change that was planned for too long is planned again from later; None: planning
            takes no time.
    """

    def __init__(
        self,
        task: TaskSpec,
        *,
        immediate: bool,
        margin_s: float = 0.01,
        first_lead_s: float = 0.0,
        execution: Execution | None = None,
        safety: SafetyOptions | None = None,
        stop_latch: StopLatch | None = None,
        followed: bool = True,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._task, self._immediate, self._followed = task, immediate, followed
        self.lead = Lead(0.0, 0.0) if immediate else Lead(margin_s, first_lead_s)
        self._ready_ns = None if clock is None else (lambda: clock() + self.lead.margin_ns)
        self.execution = execution or Execution()
        self.supervisor = Supervisor(safety, stop_latch)
        self._gate = LimitGate(task.action, task.dt_ns / 1e9)
        self._space = ActionSpace(task)
        self._ensemble = TemporalEnsemble(task.action, self.execution.ensemble_decay)
        self._recent_inference_ns: deque[int] = deque(maxlen=8)
        # Where the data says where the robot was, a command leaves early by the time that it takes to get there.
        early_s = task.action.latency_s if task.action.demonstrated == "motion" else 0.0
        self._early_ns = round(early_s * 1e9)
        self._first = task.n_obs_steps - 1
        self._available = task.horizon - self._first
        every = self.execution.infer_every
        self._every = task.n_action_steps if every is None else every
        # In lockstep no more is scheduled than is executed; on a robot the rest bridges a late inference.
        outright = immediate and self.execution.mode == "replace" and not self.execution.warm_start
        self._executed = max(task.n_action_steps, self._every) if outright else self._available
        self._runs = 0
        self._held = self._yielded = False
        self._soft_start = SoftStart(task.action, self.supervisor.authority)
        self.buffer = ObservationBuffer(task)
        self._robot = Whereabouts(task, self._space, self.buffer, self.supervisor)
        self.schedule = ChunkSchedule(task.action, smooth=not immediate)
        self.outlet = Outlet(task.action, self.schedule)
        self.counts = RunCounts()
        self.running = False

    # --- runs -------------------------------------------------------------------------------------------

    def start(self, now_ns: int, *, seed: int, time_limit_s: float) -> None:
        """Begin a run at `now_ns`; it ends by itself after `time_limit_s`."""
        self._runs += 1
        self._started_ns = now_ns
        self._limit_ns = round(time_limit_s * 1e9)
        self._seed = seed
        self._first_observation_ns: int | None = None
        self._in_flight = self._void_result = False
        self.buffer.see_clock(now_ns)
        self._epoch = self.buffer.epoch
        self.counts = RunCounts()
        self.supervisor.begin()
        self._rejoin(now_ns)
        self.running = True

    def stop(self) -> None:
        """End the run; results still under way are ignored."""
        self.running = False

    def brake(self, now_ns: int) -> int | None:
        """Cut what is commanded short by the shortest stop along it.

        Returns:
            When it stands still; None in lockstep, where the commanded chunk ends by itself, and where nothing has
            been commanded.
        """
        if self._immediate or not self.outlet.is_open:
            return None
        return self.outlet.brake(now_ns + self.lead.stop_ns, end=True, ready_ns=self._ready_ns)

    def _rejoin(self, now_ns: int) -> None:
        """Forget what was commanded; go on from where the robot is, at rest, with authority that rises again."""
        # A brake of the last run that is still on its way goes on, unless the robot was away meanwhile.
        if not self.outlet.is_moving(now_ns) or self._was_away(now_ns):
            commanded = self.outlet.last_position(now_ns)
            start = None if self._immediate else self._robot.standing_at(now_ns, commanded)
            self.outlet.close()
            self.schedule.clear()
            if start is not None:
                self.schedule.hold(start, now_ns)
            self._soft_start.begin(start)
        self._soft_start.rise_again()
        self._ensemble.clear()
        self._last_observation_ns: int | None = None
        self._wait_steps, self._held, self._yielded = 0, False, False
        self._fed_ns, self._moved = now_ns, False

    def _was_away(self, now_ns: int) -> bool:
        return not self._immediate and self._robot.was_away(now_ns)

    # --- time -------------------------------------------------------------------------------------------

    def elapsed_s(self, now_ns: int) -> float:
        """Seconds since the run began."""
        return (now_ns - self._started_ns) / 1e9 if self._runs else 0.0

    @property
    def lead_steps(self) -> int:
        """Steps from an observation to the first action that its chunk will bring, by recent inferences."""
        return min(math.ceil(self._expected_ns / self._task.dt_ns), self._available - 1)

    @property
    def _expected_ns(self) -> int:
        """How long after its request a chunk is expected to take over."""
        if self._immediate:
            return 0  # the clock stands still meanwhile, however long an inference takes
        return max(self._recent_inference_ns, default=0) + self.lead.chunk_ns

    def watch_clock(self, now_ns: int, steady_s: float) -> None:
        """Look whether ROS time goes on as a steady clock does; where it jumped, old samples are forgotten."""
        jump_ns = self.supervisor.watch_clock(now_ns, steady_s)
        if jump_ns:
            self.buffer.clear()
            self.outlet.shift(jump_ns)

    # --- the loop ---------------------------------------------------------------------------------------

    def tick(self, now_ns: int, steady_s: float | None = None) -> Tick:
        """Advance to `now_ns`.

        Args:
            now_ns: ROS time.
            steady_s: a clock that neither stands still nor jumps; None: ROS time is such a clock.
        """
        if not self.running:
            return Tick()
        if steady_s is not None and not self._immediate:
            self.watch_clock(now_ns, steady_s)
        window, problem = self._look(now_ns, now_ns / 1e9 if steady_s is None else steady_s)
        verdict = self.supervisor.judge(now_ns, now_ns / 1e9 if steady_s is None else steady_s)
        if verdict.reaction is Reaction.ABORT:
            self.stop()
            return Tick(stop=Stop(verdict.reason, verdict.message), problem=problem, verdict=verdict)
        if now_ns - self._started_ns >= self._limit_ns:
            self.stop()
            return Tick(stop=Stop(TIME_LIMIT, f"ran for its time limit of {self._limit_ns / 1e9:g} s"))
        if verdict.reaction >= Reaction.HOLD:
            return Tick(problem=problem, verdict=verdict, braked=self._restrain(verdict.reaction, now_ns))
        if self._yielded or (self._held and self._was_away(now_ns)):
            self._rejoin(now_ns)
        self._held = False
        if window is None:
            return Tick(verdict=verdict)
        self._in_flight = True
        if self._first_observation_ns is None:
            # In lockstep steps count from the first one, so that an episode does not depend on when it is run.
            self._first_observation_ns = window.stamp_ns if self._immediate else 0
        self._last_observation_ns = window.stamp_ns
        step = round((window.stamp_ns - self._first_observation_ns) / self._task.dt_ns)
        prefix = self._prefix(window, now_ns)
        return Tick(InferenceRequest(self._runs, window, self._seed, step, prefix), verdict=verdict)

    def _prefix(self, window: Window, now_ns: int) -> Prefix | None:
        """The running chunk, which a sample has to agree with in mode rtc, and else may begin with."""
        if self.execution.mode != "rtc" and not self.execution.warm_start:
            return None
        start_ns, ready_ns = window.stamp_ns - self._early_ns, now_ns + self._expected_ns
        plan = plan_prefix(self.schedule, self._space, self._task, window, start_ns, now_ns, ready_ns)
        if plan is None or self.execution.mode == "rtc":
            return plan
        return replace(plan, weights=np.zeros_like(plan.weights))

    def urgent_stop(self, now_ns: int, steady_s: float) -> Stop | None:
        """In lockstep, between ticks: why a person wants the run to end at once, None if nobody does."""
        self.supervisor.watch_people(steady_s)
        verdict = self.supervisor.judge(now_ns, steady_s)
        aborted = self.running and verdict.reaction is Reaction.ABORT
        return Stop(verdict.reason, verdict.message) if aborted else None

    def _look(self, now_ns: int, steady_s: float) -> tuple[Window | None, ObservationProblem | None]:
        """Report every condition; returns the window to infer from, if that is due and can be done."""
        window: Window | None = None
        problem: ObservationProblem | None = None
        try:
            self.buffer.check_fresh(now_ns)
            due_ns = -1 if self._held or self._yielded else self._due_ns()
            newest_ns = self.buffer.newest_ns(self._task.anchor)
            if not self._in_flight and newest_ns is not None and newest_ns > due_ns:
                # Of several cameras one may lag: the window may end before the newest picture.
                newest = self.buffer.window(now_ns)
                window = newest if newest.stamp_ns > due_ns else None
        except ObservationProblem as found:
            problem = found
        for reason in OBSERVATION_REASONS:
            here = problem is not None and problem.reason == reason
            self.supervisor.report(reason, str(problem) if here else "", now_ns / 1e9)
        self.supervisor.watch_people(steady_s)
        if self.buffer.epoch != self._epoch:
            self.supervisor.report(CLOCK_JUMP, "ROS time was set back", steady_s)
        if not self._immediate:
            self._report_overdue(now_ns)
            message = (
                self._robot.off_course(self.schedule, now_ns)
                if self.outlet.is_open and self._followed
                else ""
            )
            self.supervisor.report(TRACKING_ERROR, message, now_ns / 1e9)
        return window, problem

    def _report_overdue(self, now_ns: int) -> None:
        """Nothing left to command: what was commanded has come to its end, or nothing ever was."""
        if self.schedule.remaining_s(now_ns) > 0.0 or self._held or self._yielded:
            self._fed_ns = now_ns
        waited_s = (now_ns - self._fed_ns) / 1e9
        grace_s = self.supervisor.options.overdue_grace_s
        overdue = waited_s > 0.0 and (self._moved or waited_s >= grace_s)
        longest_s = max(self._recent_inference_ns, default=0) / 1e9
        message = f"no new actions for {waited_s:.2f} s; the last inferences took up to {longest_s:.2f} s"
        self.supervisor.report(INFERENCE_OVERDUE, message if overdue else "", self._fed_ns / 1e9)

    def _restrain(self, reaction: Reaction, now_ns: int) -> bool:
        """Hold or yield; returns whether a brake was begun."""
        self._void_result, self._moved = self._in_flight, False
        self._ensemble.clear()
        if reaction is Reaction.YIELD:
            self._yielded = True
            self.outlet.close()
            self.schedule.clear()
            return False
        began = not self._held and not self._yielded and not self._immediate and self.outlet.is_open
        self._held = True
        if began:
            self.outlet.brake(now_ns + self.lead.stop_ns, end=False, ready_ns=self._ready_ns)
        return began

    def frame_ahead(self, key: str) -> tuple[FrameStamp, Array] | None:
        """The newest picture of a camera, if the next inference is expected to look at it, and what it is known by."""
        if not self.running or self._held or self._yielded or self._last_observation_ns is None:
            return None
        return frame_ahead(self._task, self.buffer, key, self._due_ns())

    def _due_ns(self) -> int:
        """The next inference is from the first observation after this time."""
        if self._last_observation_ns is None:
            return -1
        steps = max(min(self._wait_steps, self._available - self.lead_steps), 1)
        # Half a step of tolerance: camera stamps jitter round the grid.
        return self._last_observation_ns + steps * self._task.dt_ns - self._task.dt_ns // 2

    # --- for those who watch --------------------------------------------------------------------------

    def counters(self) -> Counter[str]:
        """How often each condition began and each gate had to change something, by reason code."""
        gates = Counter({str(reason): n for reason, n in self._gate.counts.items()})
        return self.supervisor.counters + self.outlet.counts() + gates

    def gate_state(self) -> str:
        """closed, holding, yielded, soft_start, limiting or open: what becomes of the policy's commands now."""
        if self._yielded:
            return "yielded"
        if not self.running or not self.outlet.is_open:
            return "closed"
        if self._held:
            return "holding"
        if self.outlet.limiting:
            return "limiting"
        return "soft_start" if self._soft_start.active else "open"

    def preview(self, request: InferenceRequest, actions: npt.NDArray[np.floating]) -> Floats:
        """What a sample would command, (n, command_dim), were it executed; raises BadAction."""
        reference = self._space.reference(request.window.observations)
        return self._space.to_commands(actions[self._first :], reference=reference)

    # --- results ----------------------------------------------------------------------------------------

    def accept(
        self,
        request: InferenceRequest,
        actions: npt.NDArray[np.floating],
        *,
        now_ns: int,
        inference_ns: int,
    ) -> ActionChunk | Stop | None:
        """Take the result of an inference.

        Args:
            request: what `tick` asked for.
            actions: (horizon, dim), the first one n_obs_steps - 1 steps before the observation's time.
            now_ns: present time.
            inference_ns: time from the request to the result.

        Returns:
            The chunk to publish, its actions that are not late; None if the run has ended, nothing may be
            commanded, or every action came too late; a `Stop` if the actions must not reach a robot.
        """
        if not self.running or request.run != self._runs:
            return None
        self._in_flight = False
        self._recent_inference_ns.append(inference_ns)
        self.counts.inferences += 1
        void, self._void_result = self._void_result, False
        if void or self._held or self._yielded:
            return None
        observed_ns = request.window.stamp_ns
        start_ns = observed_ns - self._early_ns
        given = actions[self._first : self._first + self._executed]
        try:
            commands = self._space.to_commands(
                given,
                reference=self._space.reference(request.window.observations),
                previous=self.schedule.commanded_at(start_ns - 1),
            )
            if self.execution.mode == "ensemble":
                commands = self._ensemble.add(start_ns, self._task.dt_ns, commands)
            return self._command(
                ActionChunk(start_ns, self._task.dt_ns, commands, observed_ns, inference_ns), now_ns
            )
        except BadAction as problem:
            self.stop()
            self.supervisor.report(INFERENCE_FAILED, str(problem), now_ns / 1e9)
            return Stop(INFERENCE_FAILED, str(problem))

    def _command(self, chunk: ActionChunk, now_ns: int) -> ActionChunk | None:
        """Schedule what is not late of a chunk; raises BadAction."""
        seam_ns = now_ns + self.lead.chunk_ns
        due = chunk.without_late(seam_ns)
        self.counts.late_steps += due.dropped
        if not len(due.values):
            self._wait_steps = 0
            return None
        due = replace(due, values=self._soft_start.follow(due))
        before = self.schedule.commanded_at(due.start_ns - 1)
        if before is not None:
            before = np.where(np.isnan(before), due.values[0], before)
        values, clamped = self._gate.clamp(due.values, before)
        self.counts.clamped += clamped
        self._wait_steps = self._every
        due = replace(due, values=values, clamped=clamped)
        if self._immediate:
            self.schedule.splice(due)
        else:
            # Late actions are not commanded, but tell how the chunk moves where it joins.
            late = chunk.values[: due.dropped] if not clamped and not self._soft_start.active else values[:0]
            whole = replace(
                due, start_ns=due.start_ns - len(late) * due.dt_ns, values=np.concatenate([late, values])
            )
            seam = self.schedule.splice(whole, not_before_ns=seam_ns, ready_ns=self._ready_ns)
            on_time = due.without_late(seam.time_ns)
            self.counts.late_steps += on_time.dropped - due.dropped
            if not seam.spliced:
                self._wait_steps = 0
                return None
            due = on_time if len(on_time.values) else due
        self._moved = True
        self._robot.commanded()
        self.outlet.open(due.start_ns)
        return due
