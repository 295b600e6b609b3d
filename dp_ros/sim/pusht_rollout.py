"""One PushT episode in one process, through the very runtime that the policy node runs.

Observations go through `runtime.Controller` and its actions through the same trajectory execution as the
simulated robot's node, on a clock that this function moves; so an episode here and one over ROS in lockstep
are equal bit for bit. Two steps at rest come before the first inference, as when a robot stands before it
starts. With an injected latency the clock moves on during an inference, as on a robot, and an episode still costs
no more than its inferences. Easy to get wrong: a latency of 0 is not lockstep, in which chunks are executed outright.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from dp_ros.errors import UserError
from dp_ros.runtime.controller import Controller
from dp_ros.runtime.execution import MODES, Execution, InferenceRequest
from dp_ros.runtime.motion.chunk import ActionChunk
from dp_ros.runtime.motion.spline import TrajectoryPoints
from dp_ros.runtime.observation import ObservationBuffer
from dp_ros.runtime.outlet import outright
from dp_ros.sim.pusht import MAX_STEPS, PushT
from dp_ros.sim.pusht_view import render
from dp_ros.sim.trajectory_controller import Trajectory, TrajectoryController
from dp_ros.task import TaskSpec

#: Time of the first observation on the simulated clock; not zero, which in ROS means "no stamp".
START_NS = 1_000_000_000

SampleActions = Callable[[InferenceRequest], npt.NDArray[np.floating]]
Mode = Literal["replace", "ensemble", "rtc", "naive"]


@dataclass(frozen=True)
class EpisodeResult:
    """Outcome of one episode.

    Attributes:
        seed: of the start state.
        repeat: which draw of the sampling noise.
        score: highest reward of the episode, 0 to 1.
        success: whether coverage exceeded 0.95.
        final_coverage: coverage at the last step.
        steps: control steps executed.
        inference_ms: wall time of each inference.
        late_steps: actions dropped because their time had passed.
        states: (steps + 1, 5) agent x, y, block x, y, angle.
        plans: the step from which each chunk was in force, and its positions (n, 2).
        trajectories: what was sent to the robot, each with the time at which it was taken.
    """

    seed: int
    repeat: int
    score: float
    success: bool
    final_coverage: float
    steps: int
    inference_ms: list[float] = field(default_factory=list)
    late_steps: int = 0
    states: list[npt.NDArray[np.float64]] = field(default_factory=list)
    plans: list[tuple[int, npt.NDArray[np.float64]]] = field(default_factory=list)
    trajectories: list[tuple[int, Trajectory]] = field(default_factory=list)


def noise_seed(seed: int, repeat: int) -> int:
    """Seed of the sampling noise for a start seed's repeat."""
    return seed * 1000 + repeat


def observe(task: TaskSpec, world: PushT) -> dict[str, npt.NDArray[np.generic]]:
    """What the simulated robot's streams show now, by the task's stream names.

    Raises:
        UserError: if the task has a stream that the simulated robot does not publish.
    """
    samples: dict[str, npt.NDArray[np.generic]] = {}
    for key, spec in task.observations.items():
        if spec.topic == "/pusht/keypoints":
            value: npt.NDArray[np.generic] = world.keypoints.reshape(-1).astype(np.float32)
        elif spec.topic == "/pusht/joint_states" and spec.fields == ["position"]:
            columns = [("agent_x", "agent_y").index(name) for name in spec.names]
            value = world.agent_pos[columns].astype(np.float32)
        elif spec.topic == "/pusht/image" and spec.shape[0] == spec.shape[1] and spec.encoding == "rgb8":
            value = render(world.state, spec.shape[0])
        else:
            raise UserError(
                f"task {task.name}: observations.{key}: the simulated PushT robot has no such stream ({spec.topic}); "
                "it publishes /pusht/keypoints, /pusht/joint_states (position) and square rgb8 pictures on /pusht/image"
            )
        samples[key] = value
    return samples


def rollout(
    task: TaskSpec,
    sample_actions: SampleActions,
    seed: int,
    *,
    repeat: int = 0,
    max_steps: int = MAX_STEPS,
    legacy: bool = True,
    mode: Mode = "replace",
    infer_every: int | None = None,
    latency_ms: float | None = None,
    warm_start: bool = False,
) -> EpisodeResult:
    """Run one episode.

    Args:
        task: what is observed and commanded.
        sample_actions: an inference request to actions (horizon, dim).
        seed: of the start state.
        repeat: which draw of the sampling noise.
        max_steps: control steps after which the episode ends.
        legacy: order of the reset, as in `PushT.reset`.
        mode: of execution; `naive` sends each chunk as it is, from its first action, when it is there.
        infer_every: steps between inferences, see `Execution`.
        latency_ms: time from an observation to the actions that come of it; None: lockstep.
        warm_start: whether samples begin with the running chunk, as `Execution` says.
    """
    running = episode(
        task,
        seed,
        repeat=repeat,
        max_steps=max_steps,
        legacy=legacy,
        mode=mode,
        infer_every=infer_every,
        latency_ms=latency_ms,
        warm_start=warm_start,
    )
    inference_ms: list[float] = []
    actions: npt.NDArray[np.floating] | None = None
    while True:
        try:
            request = running.send(actions)  # type: ignore[arg-type]  # a generator begins with None
        except StopIteration as end:
            return replace(end.value, inference_ms=inference_ms)
        begin = time.perf_counter_ns()
        actions = sample_actions(request)
        inference_ms.append((time.perf_counter_ns() - begin) / 1e6)


def episode(
    task: TaskSpec,
    seed: int,
    *,
    repeat: int = 0,
    max_steps: int = MAX_STEPS,
    legacy: bool = True,
    mode: Mode = "replace",
    infer_every: int | None = None,
    latency_ms: float | None = None,
    warm_start: bool = False,
    world: PushT | None = None,
    state: npt.ArrayLike | None = None,
    until: Callable[[PushT], bool] = lambda world: False,
) -> Generator[InferenceRequest, npt.NDArray[np.floating], EpisodeResult]:
    """One episode that stops at each inference: yields the request, is sent the actions, returns the result.

    For whoever runs many episodes and infers for all of them at once. The result has no `inference_ms`, which only
    the caller can know.

    Args:
        task, seed, repeat, max_steps, legacy, mode, infer_every, latency_ms, warm_start: as in `rollout`.
        world: in which the episode is run, for whoever goes on from where it ends; None: one of its own.
        state: (5,) to begin with instead of the seed's start state, as `PushT.reset` takes it without `legacy`.
        until: asked before each step whether the episode ends here.
    """
    world, robot = world or PushT(), TrajectoryController(["agent_x", "agent_y"])
    if state is None:
        world.reset(seed, legacy=legacy)
    else:
        world.reset(state=np.asarray(state, dtype=np.float64), legacy=False)
    robot.hold(world.agent_pos)
    loop = _loop(task, mode, infer_every, latency_ms, warm_start)
    now_ns = START_NS
    for _ in range(task.n_obs_steps - 1):
        _add(loop.buffer, task, world, now_ns)
        now_ns += task.dt_ns
    begin_ns = now_ns
    loop.start(now_ns, noise_seed(seed, repeat))
    pending: tuple[int, InferenceRequest, npt.NDArray[np.floating]] | None = None
    states = [world.state.copy()]
    plans: list[tuple[int, npt.NDArray[np.float64]]] = []
    trajectories: list[tuple[int, Trajectory]] = []

    def deliver(time_ns: int, request: InferenceRequest, actions: npt.NDArray[np.floating]) -> None:
        taken = loop.accept(request, actions, time_ns)
        if taken is None:
            return
        chunk, trajectory = taken
        plans.append((round((chunk.start_ns - begin_ns) / task.dt_ns), chunk.values))
        trajectories.append((time_ns, trajectory))
        problem = robot.accept(trajectory, time_ns)
        if problem is not None:
            raise RuntimeError(f"the robot rejected the policy's trajectory: {problem}")
        robot.sample(time_ns)

    success, coverage = False, 0.0
    for _ in range(max_steps):
        if until(world):
            break
        _add(loop.buffer, task, world, now_ns)
        if pending is not None and pending[0] <= now_ns:
            deliver(*pending)
            pending = None
        request = loop.tick(now_ns)
        if request is not None:
            actions = yield request
            pending = now_ns + round(1e6 * (latency_ms or 0.0)), request, actions
            if pending[0] <= now_ns:
                deliver(*pending)
                pending = None
        result = world.step(robot.sample(now_ns))
        states.append(world.state.copy())
        success, coverage = result.done, result.coverage
        now_ns += task.dt_ns
        if success:
            break
    return EpisodeResult(
        seed=seed,
        repeat=repeat,
        score=world.score,
        success=success,
        final_coverage=coverage,
        steps=len(states) - 1,
        late_steps=loop.late_steps,
        states=states,
        plans=plans,
        trajectories=trajectories,
    )


class _Loop(Protocol):
    """What decides when to infer and what to send."""

    buffer: ObservationBuffer

    @property
    def late_steps(self) -> int: ...
    def start(self, now_ns: int, seed: int) -> None: ...
    def tick(self, now_ns: int) -> InferenceRequest | None: ...
    def accept(
        self, request: InferenceRequest, actions: npt.NDArray[np.floating], now_ns: int
    ) -> tuple[ActionChunk, Trajectory] | None: ...


def _loop(
    task: TaskSpec, mode: str, infer_every: int | None, latency_ms: float | None, warm_start: bool
) -> _Loop:
    if mode == "naive":
        if latency_ms is None:
            raise ValueError("mode naive needs a latency: in lockstep it is the same as replace")
        return _NaiveLoop(task, infer_every)
    if mode not in MODES:
        raise ValueError(f"mode: got {mode!r}, expected naive or one of {', '.join(MODES)}")
    return _RuntimeLoop(task, Execution(mode, infer_every, warm_start=warm_start), latency_ms)


class _RuntimeLoop:
    """The runtime of a robot, in lockstep or with a latency."""

    def __init__(self, task: TaskSpec, execution: Execution, latency_ms: float | None) -> None:
        self._names, self._lockstep = task.action.names, latency_ms is None
        self._latency_ns = round(1e6 * (latency_ms or 0.0))
        # The clock here is exact: what is ready at the time of an action is in time for it.
        self._controller = Controller(task, immediate=self._lockstep, margin_s=0.0, execution=execution)
        self.buffer = self._controller.buffer

    @property
    def late_steps(self) -> int:
        return self._controller.counts.late_steps

    def start(self, now_ns: int, seed: int) -> None:
        self._controller.start(now_ns, seed=seed, time_limit_s=1e6)

    def tick(self, now_ns: int) -> InferenceRequest | None:
        tick = self._controller.tick(now_ns)
        if tick.problem is not None:
            raise tick.problem
        if tick.stop is not None:
            raise RuntimeError(f"{tick.stop.reason}: {tick.stop.message}")
        return tick.request

    def accept(
        self, request: InferenceRequest, actions: npt.NDArray[np.floating], now_ns: int
    ) -> tuple[ActionChunk, Trajectory] | None:
        chunk = self._controller.accept(request, actions, now_ns=now_ns, inference_ns=self._latency_ns)
        if chunk is None and not self._lockstep:
            return None  # every action came too late
        if not isinstance(chunk, ActionChunk):
            raise RuntimeError(f"the policy gave nothing to execute: {chunk}")
        points = outright(chunk) if self._lockstep else self._controller.outlet.trajectory(now_ns)
        assert points is not None
        return chunk, _trajectory(points, self._names)


class _NaiveLoop:
    """What a publisher without a runtime does: no chunk knows of the one before it, nor how old it is."""

    late_steps = 0

    def __init__(self, task: TaskSpec, infer_every: int | None) -> None:
        self._task, self.buffer = task, ObservationBuffer(task)
        self._every = max(task.n_action_steps if infer_every is None else infer_every, 1)
        self._waiting = False
        self._due_ns = 0

    def start(self, now_ns: int, seed: int) -> None:
        self._seed = seed

    def tick(self, now_ns: int) -> InferenceRequest | None:
        if self._waiting or now_ns < self._due_ns:
            return None
        self._waiting, self._due_ns = True, now_ns + self._every * self._task.dt_ns
        window = self.buffer.window(now_ns)
        return InferenceRequest(1, window, self._seed, round(window.stamp_ns / self._task.dt_ns))

    def accept(
        self, request: InferenceRequest, actions: npt.NDArray[np.floating], now_ns: int
    ) -> tuple[ActionChunk, Trajectory] | None:
        self._waiting = False
        task = self._task
        values = actions[task.n_obs_steps - 1 :].astype(np.float64)
        chunk = ActionChunk(now_ns, task.dt_ns, values, request.window.stamp_ns)
        times = [i * task.dt_ns for i in range(len(values))]
        return chunk, Trajectory(now_ns, task.action.names, times, values.tolist())


def _trajectory(points: TrajectoryPoints, names: list[str]) -> Trajectory:
    """Points as the trajectory that is published for them."""
    start_ns = int(points.times_ns[0])
    accelerations = () if points.accelerations is None else points.accelerations.tolist()
    return Trajectory(
        start_ns,
        names,
        (points.times_ns - start_ns).tolist(),
        points.positions.tolist(),
        points.velocities.tolist(),
        accelerations,
    )


def _add(buffer: ObservationBuffer, task: TaskSpec, world: PushT, now_ns: int) -> None:
    for key, value in observe(task, world).items():
        latency_ns = round(task.observations[key].latency_s * 1e9)
        buffer.add(key, now_ns + latency_ns, value)
