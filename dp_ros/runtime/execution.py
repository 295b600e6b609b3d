"""How chunks follow one another, and what an inference is asked for.

`replace`: a new chunk takes over where it begins. `ensemble`: what several chunks say about a moment is averaged.
`rtc`, real-time chunking (arXiv 2506.07339): a new chunk is sampled so that it agrees with what will have been
executed when it is ready. Easy to get wrong: which is best depends on the model and on its delay, so the default
comes from the model's manifest, where a benchmark wrote it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from dp_ros.errors import UserError
from dp_ros.runtime import rotation
from dp_ros.runtime.action_space import ActionSpace
from dp_ros.runtime.motion.chunk import ActionChunk, ChunkSchedule
from dp_ros.runtime.observation import Window
from dp_ros.runtime.prefix import Prefix
from dp_ros.task import ActionSpec, TaskSpec

Floats = npt.NDArray[np.float64]
Mode = Literal["replace", "ensemble", "rtc"]
MODES: tuple[Mode, ...] = ("replace", "ensemble", "rtc")


@dataclass(frozen=True)
class Execution:
    """How chunks are executed.

    Attributes:
        mode: how a new chunk takes over.
        infer_every: steps from the observation of one inference to that of the next, 0 for back to back; None: the
            task's n_action_steps. Inference begins earlier where a chunk would not last until its result.
        ensemble_decay: m of `TemporalEnsemble`.
        warm_start: whether every sample begins with the running chunk (`SamplerSpec.warm_start`).
    """

    mode: Mode = "replace"
    infer_every: int | None = None
    ensemble_decay: float = 0.01
    warm_start: bool = False

    def words(self, task: TaskSpec) -> str:
        """For a person."""
        steps = task.n_action_steps if self.infer_every is None else self.infer_every
        return f"mode {self.mode}, inference " + (f"every {steps} steps" if steps else "back to back")

    def require(self, task: TaskSpec, prefix: str) -> None:
        """Check that a task and an engine can be executed so.

        Args:
            task: its chunks must last until the next one.
            prefix: what the engine can take: none, guided or trained.

        Raises:
            UserError: saying what was asked for and what to do.
        """
        longest = task.horizon - task.n_obs_steps + 1
        if self.infer_every is not None and not 0 <= self.infer_every <= longest:
            raise UserError(
                f"infer_every: got {self.infer_every}, expected 0 (back to back) to {longest}, the steps that a chunk "
                f"of task {task.name} lasts"
            )
        if self.mode == "rtc" and prefix == "none":
            raise UserError(
                "mode rtc: the model can take no prefix; export it again, or choose mode replace or ensemble"
            )


@dataclass(frozen=True)
class InferenceRequest:
    """What to sample: the noise is drawn from (`seed`, `step`), so a run can be repeated exactly.

    Attributes:
        run: number of the run that asks.
        window: the observations.
        seed: of the run.
        step: of the observation on the grid: since the run's first one in lockstep, else since time 0.
        prefix: what the sample has to go on from, or begins with, if anything.
    """

    run: int
    window: Window
    seed: int
    step: int
    prefix: Prefix | None = None


def plan_prefix(
    schedule: ChunkSchedule,
    space: ActionSpace,
    task: TaskSpec,
    window: Window,
    start_ns: int,
    now_ns: int,
    ready_ns: int,
) -> Prefix | None:
    """The running plan as a prefix of the next sample; None if nothing runs.

    Args:
        schedule: what is commanded.
        space: of the task.
        task: steps and horizon.
        window: what the sample is drawn from.
        start_ns: when the action at the newest observation is commanded.
        now_ns: present time.
        ready_ns: when the sample is expected to take over; what is commanded before is known.
    """
    first, dt_ns = task.n_obs_steps - 1, task.dt_ns
    row_0_ns = start_ns - first * dt_ns
    past = min(max(-((row_0_ns - now_ns) // dt_ns), 0), task.horizon)  # rows whose time has come
    upcoming = schedule.upcoming(row_0_ns + past * dt_ns, task.horizon - past)
    if not len(upcoming):
        return None
    rows: list[npt.NDArray[np.float64]] = list(upcoming)
    for row in range(past - 1, -1, -1):
        commanded = schedule.commanded_at(row_0_ns + row * dt_ns)
        rows.insert(0, rows[0] if commanded is None else commanded)
    planned = space.to_policy(np.array(rows), reference=space.reference(window.observations))
    known = min(max(-((row_0_ns - ready_ns) // dt_ns), 0), len(planned))
    return Prefix.from_plan(planned, n_known=known, horizon=task.horizon)


def eased(action: ActionSpec, anchor: Floats, values: Floats, share: Floats) -> Floats:
    """Commands (n, command_dim) followed only in part: the rest of the way stays at the anchor.

    Args:
        action: which values are grippers, that are never blended, and which an orientation.
        anchor: (command_dim,) where a share of 0 stays.
        values: commands.
        share: (n,) 0 to 1.
    """
    blended = anchor + share[:, None] * (values - anchor)
    if action.quaternion_indices:
        q = list(action.quaternion_indices)
        blended[:, q] = rotation.slerp(anchor[q], values[:, q], share)
    grippers = list(action.gripper_indices)
    blended[:, grippers] = values[:, grippers]
    return blended


class SoftStart:
    """Authority of the policy over the robot, which rises from none to all.

    Args:
        action: what is commanded.
        authority: share of the policy's command that is followed, by the seconds since the first action.
    """

    def __init__(self, action: ActionSpec, authority: Callable[[float], float]) -> None:
        self._action, self._authority = action, authority
        self._anchor: Floats | None = None
        self._begin_ns: int | None = None

    @property
    def active(self) -> bool:
        """Whether commands are not followed in full yet."""
        return self._anchor is not None

    def begin(self, anchor: Floats | None) -> None:
        """Go away from a position, (command_dim,); None: that is not known, and commands are followed in full."""
        self._anchor = anchor

    def rise_again(self) -> None:
        """Where it is active: begin with the next action."""
        self._begin_ns = None

    def follow(self, chunk: ActionChunk) -> Floats:
        """Values (n, dim) of a chunk, each with the authority that there is by its time."""
        if self._anchor is None:
            return chunk.values
        if self._begin_ns is None:
            self._begin_ns = chunk.start_ns
        times = chunk.start_ns + chunk.dt_ns * np.arange(len(chunk.values)) - self._begin_ns
        share = np.array([self._authority(float(t) / 1e9) for t in times])
        if share[0] == 1.0:
            self._anchor = self._begin_ns = None
            return chunk.values
        return eased(self._action, self._anchor, chunk.values, share)
