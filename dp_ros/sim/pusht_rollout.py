"""One PushT episode in one process, through the very runtime that the policy node runs.

Observations go through `runtime.Controller` and its actions through the same trajectory execution as the
simulated robot's node, on a clock that this function moves; so an episode here and one over ROS in lockstep
are equal bit for bit. Two steps at rest come before the first inference, as when a robot stands before it
starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dp_ros.errors import UserError
from dp_ros.runtime.chunk import ActionChunk
from dp_ros.runtime.controller import Controller, InferenceRequest
from dp_ros.sim.pusht import MAX_STEPS, PushT
from dp_ros.sim.pusht_view import render
from dp_ros.sim.trajectory_controller import Trajectory, TrajectoryController
from dp_ros.task import TaskSpec

#: Time of the first observation on the simulated clock; not zero, which in ROS means "no stamp".
START_NS = 1_000_000_000

SampleActions = Callable[[InferenceRequest], npt.NDArray[np.floating]]


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


def chunk_trajectory(chunk: ActionChunk, names: list[str]) -> Trajectory:
    """A chunk as the trajectory that is published for it."""
    times = [i * chunk.dt_ns for i in range(len(chunk.values))]
    return Trajectory(chunk.start_ns, names, times, chunk.values.tolist(), chunk.velocities().tolist())


def rollout(
    task: TaskSpec,
    sample_actions: SampleActions,
    seed: int,
    *,
    repeat: int = 0,
    max_steps: int = MAX_STEPS,
    legacy: bool = True,
) -> EpisodeResult:
    """Run one episode.

    Args:
        task: what is observed and commanded.
        sample_actions: an inference request to actions (horizon, dim).
        seed: of the start state.
        repeat: which draw of the sampling noise.
        max_steps: control steps after which the episode ends.
        legacy: order of the reset, as in `PushT.reset`.
    """
    world, robot = PushT(), TrajectoryController(["agent_x", "agent_y"])
    world.reset(seed, legacy=legacy)
    robot.hold(world.agent_pos)
    controller = Controller(task, immediate=True)
    now_ns = START_NS
    for _ in range(task.n_obs_steps - 1):
        _add(controller, task, world, now_ns)
        now_ns += task.dt_ns
    controller.start(now_ns, seed=noise_seed(seed, repeat), time_limit_s=1e6)
    inference_ms: list[float] = []
    states = [world.state.copy()]
    plans: list[tuple[int, npt.NDArray[np.float64]]] = []
    success, coverage = False, 0.0
    for _ in range(max_steps):
        _add(controller, task, world, now_ns)
        tick = controller.tick(now_ns)
        if tick.problem is not None:
            raise tick.problem
        if tick.request is not None:
            begin = time.perf_counter_ns()
            actions = sample_actions(tick.request)
            took_ns = time.perf_counter_ns() - begin
            chunk = controller.accept(tick.request, actions, now_ns=now_ns, inference_ns=took_ns)
            if not isinstance(chunk, ActionChunk):
                raise RuntimeError(f"the policy gave nothing to execute: {chunk}")
            inference_ms.append(took_ns / 1e6)
            plans.append((len(states) - 1, chunk.values))
            problem = robot.accept(chunk_trajectory(chunk, task.action.names), now_ns)
            if problem is not None:
                raise RuntimeError(f"the robot rejected the policy's trajectory: {problem}")
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
        inference_ms=inference_ms,
        late_steps=controller.counts.late_steps,
        states=states,
        plans=plans,
    )


def _add(controller: Controller, task: TaskSpec, world: PushT, now_ns: int) -> None:
    for key, value in observe(task, world).items():
        latency_ns = round(task.observations[key].latency_s * 1e9)
        controller.buffer.add(key, now_ns + latency_ns, value)
