"""The closed loop, one tick at a time: observe, decide whether to infer, gate, schedule.

```
 observations   o─────o                     n_obs_steps, the newest at t predicted      a0 a1 a2 a3 a4 … a15
 horizon, from the oldest observation on executed          a1 a2 … a8               n_action_steps from t on
 (plus those that bridge the next inference) next inference            ▲                at t + (n_action_steps
 - lead) * dt
```

Pure: time comes in, requests and chunks come out, and the caller runs the model (in a worker thread on a
robot, in place in an evaluation). Easy to get wrong: a tick may come while an inference is under way, and its
result may arrive after the run it belongs to has ended; `accept` ignores such a result.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dp_ros.runtime.chunk import ActionChunk, ChunkSchedule
from dp_ros.runtime.observation import ObservationBuffer, ObservationProblem, Window
from dp_ros.runtime.safety import BadAction, LimitGate
from dp_ros.task import TaskSpec

TIME_LIMIT = "TIME_LIMIT"
INFERENCE_FAILED = "INFERENCE_FAILED"


@dataclass(frozen=True)
class InferenceRequest:
    """What to sample: the noise is drawn from (`seed`, `step`), so a run can be repeated exactly.

    Attributes:
        run: number of the run that asks.
        window: the observations.
        seed: of the run.
        step: grid steps between the run's first observation and this one.
    """

    run: int
    window: Window
    seed: int
    step: int


@dataclass(frozen=True)
class Stop:
    """The run has ended: `reason` is a code of action/RunPolicy.action."""

    reason: str
    message: str


@dataclass(frozen=True)
class Tick:
    """Outcome of one tick.

    Attributes:
        request: an inference to run, if one is due.
        stop: why the run ended, if it did.
        problem: why no inference can be made at the moment, if so.
    """

    request: InferenceRequest | None = None
    stop: Stop | None = None
    problem: ObservationProblem | None = None


@dataclass
class RunCounts:
    """What happened in a run so far."""

    inferences: int = 0
    late_steps: int = 0
    clamped: int = 0


class Controller:
    """Closed-loop execution of a policy.

    Args:
        task: rates, horizon, limits.
        immediate: True where time stands still during inference (lockstep, evaluation): nothing is ever late
            and inference need not run ahead. False on a robot.
        margin_s: an action due sooner than this when its chunk is ready counts as late.
        stale_grace_s: how long observations may be missing or stale before the run is ended.
    """

    def __init__(
        self, task: TaskSpec, *, immediate: bool, margin_s: float = 0.01, stale_grace_s: float = 1.0
    ) -> None:
        self._task = task
        self._immediate = immediate
        self._margin_ns = 0 if immediate else round(margin_s * 1e9)
        self._grace_ns = round(stale_grace_s * 1e9)
        self._gate = LimitGate(task.action, task.dt_ns / 1e9)
        self._recent_inference_ns: deque[int] = deque(maxlen=8)
        self._runs = 0
        self.buffer = ObservationBuffer(task)
        self.schedule = ChunkSchedule()
        self.counts = RunCounts()
        self.running = False

    def start(self, now_ns: int, *, seed: int, time_limit_s: float) -> None:
        """Begin a run at `now_ns`; it ends by itself after `time_limit_s`."""
        self._runs += 1
        self._started_ns = now_ns
        self._limit_ns = round(time_limit_s * 1e9)
        self._seed = seed
        self._first_observation_ns: int | None = None
        self._last_observation_ns: int | None = None
        self._wait_steps = 0
        self._in_flight = False
        self._last_good_ns = now_ns
        self.counts = RunCounts()
        self.schedule.clear()
        self.running = True

    def stop(self) -> None:
        """End the run; results still under way are ignored."""
        self.running = False

    def observation_problem(self, now_ns: int) -> ObservationProblem | None:
        """Why no inference could be made now; None if the observations are complete and fresh."""
        try:
            self.buffer.window(now_ns)
        except ObservationProblem as problem:
            return problem
        return None

    def elapsed_s(self, now_ns: int) -> float:
        """Seconds since the run began."""
        return (now_ns - self._started_ns) / 1e9 if self._runs else 0.0

    @property
    def lead_steps(self) -> int:
        """Steps ahead of need at which inference starts: the longest of the recent inferences, rounded up."""
        if self._immediate:
            return 0
        longest_ns = max(self._recent_inference_ns, default=0) + self._margin_ns
        return min(math.ceil(longest_ns / self._task.dt_ns), self._task.n_action_steps)

    def tick(self, now_ns: int) -> Tick:
        """Advance to `now_ns`."""
        if not self.running:
            return Tick()
        if now_ns - self._started_ns >= self._limit_ns:
            self.stop()
            return Tick(stop=Stop(TIME_LIMIT, f"ran for its time limit of {self._limit_ns / 1e9:g} s"))
        try:
            self.buffer.check_fresh(now_ns)
            if self._in_flight or not self._due():
                self._last_good_ns = now_ns
                return Tick()
            window = self.buffer.window(now_ns)
        except ObservationProblem as problem:
            if now_ns - self._last_good_ns >= self._grace_ns:
                self.stop()
                return Tick(stop=Stop(problem.reason, str(problem)), problem=problem)
            return Tick(problem=problem)
        self._last_good_ns = now_ns
        self._in_flight = True
        if self._first_observation_ns is None:
            self._first_observation_ns = window.stamp_ns
        self._last_observation_ns = window.stamp_ns
        step = round((window.stamp_ns - self._first_observation_ns) / self._task.dt_ns)
        return Tick(request=InferenceRequest(self._runs, window, self._seed, step))

    def _due(self) -> bool:
        """Whether the newest observation is the one to infer from."""
        if self._last_observation_ns is None:
            return True
        newest_ns = self.buffer.newest_ns(self._task.anchor)
        steps = max(self._wait_steps - self.lead_steps, 1)
        # Half a step of tolerance: camera stamps jitter round the grid.
        due_ns = self._last_observation_ns + steps * self._task.dt_ns - self._task.dt_ns // 2
        return newest_ns is not None and newest_ns > due_ns

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
            inference_ns: wall time that sampling took.

        Returns:
            The chunk to publish; None if the run has ended or every action came too late; a `Stop` if the
            actions must not reach a robot.
        """
        if not self.running or request.run != self._runs:
            return None
        self._in_flight = False
        self._recent_inference_ns.append(inference_ns)
        self.counts.inferences += 1
        task = self._task
        first = task.n_obs_steps - 1
        count = min(task.n_action_steps + self.lead_steps, task.horizon - first)
        observed_ns = request.window.stamp_ns
        chunk = ActionChunk(
            observed_ns,
            task.dt_ns,
            np.asarray(actions[first : first + count], dtype=np.float64),
            observed_ns,
            inference_ns,
        ).without_late(now_ns + self._margin_ns)
        self.counts.late_steps += chunk.dropped
        if not len(chunk.values):
            self._wait_steps = 0
            return None
        try:
            values, clamped = self._gate.clamp(chunk.values, self.schedule.commanded_at(chunk.start_ns - 1))
        except BadAction as problem:
            self.stop()
            return Stop(INFERENCE_FAILED, str(problem))
        self.counts.clamped += clamped
        self._wait_steps = task.n_action_steps
        chunk = replace(chunk, values=values, clamped=clamped)
        self.schedule.splice(chunk)
        return chunk

    def brake(self, now_ns: int, steps: int = 2) -> ActionChunk | None:
        """The end of what is commanded: at most `steps` more actions, to be published as the last trajectory.

        Its last velocity is zero, as that of every chunk. None in lockstep, where the commanded chunk ends by
        itself, and where nothing is left to brake.
        """
        if self._immediate:
            return None
        rest = self.schedule.rest(now_ns)
        return None if rest is None else replace(rest, values=rest.values[:steps])
