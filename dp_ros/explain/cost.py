"""What a policy costs as actions get more values or chunks get longer: parameters and time, measured here and now.

Networks of the given shape are made for tasks that differ from the policy's in one number alone; their weights are
random, which changes neither count nor time. Easy to get wrong: a time is that of this machine with one thread, and
worth something only beside the others of the same run; it is processor time, so that other work does not count.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from dp_ros.errors import UserError
from dp_ros.explain.models import Explained
from dp_ros.policies.build import build_policy
from dp_ros.task import TaskSpec

ACTION_DIMS = (2, 7, 14, 28)
HORIZONS = (16, 32, 64)
_WARM_UP = 2


@dataclass(frozen=True)
class Cost:
    """Of one policy for one task.

    Attributes:
        action_dim: values of one action.
        horizon: actions of a chunk.
        parameters: of the whole policy; None: there is none for this task.
        sample_ms: median processor time of a draw for one observation; None likewise.
        reason: why there is none.
    """

    action_dim: int
    horizon: int
    parameters: int | None
    sample_ms: float | None
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """The numbers behind the picture."""
        return asdict(self)


def measure_costs(model: Explained, repeats: int = 7) -> list[Cost]:
    """Cost over the number of values at the policy's horizon, and over the horizon at its number of values."""
    task = model.policy.task
    cases = {(dim, task.horizon) for dim in (*ACTION_DIMS, task.action.dim)}
    cases |= {(task.action.dim, horizon) for horizon in (*HORIZONS, task.horizon)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_measure(model, dim, horizon, repeats) for dim, horizon in sorted(cases)]
    finally:
        torch.set_num_threads(threads)


def _measure(model: Explained, dim: int, horizon: int, repeats: int) -> Cost:
    given = model.policy
    task = task_of_size(given.task, dim, horizon)
    statistics = {**given.statistics, "action": {"min": [-1.0] * dim, "max": [1.0] * dim}}
    try:
        policy = build_policy(task, statistics, given.network, given.sampler).eval()
    except (UserError, ValueError) as error:
        return Cost(dim, horizon, None, None, " ".join(str(error).split()))
    observation = {
        key: torch.zeros(
            (1, task.n_obs_steps, *spec.shape), dtype=torch.uint8 if spec.is_image else torch.float32
        )
        for key, spec in task.observations.items()
    }
    noise = torch.randn((1, *policy.noise_shape), generator=torch.Generator().manual_seed(0))
    times = []
    for _ in range(_WARM_UP + repeats):
        begin = time.process_time_ns()
        policy.sample(observation, noise)
        times.append((time.process_time_ns() - begin) / 1e6)
    parameters = sum(p.numel() for p in policy.parameters())
    return Cost(dim, horizon, parameters, round(float(np.median(times[_WARM_UP:])), 3))


def task_of_size(task: TaskSpec, dim: int, horizon: int) -> TaskSpec:
    """`task` with actions of `dim` values and chunks of `horizon` actions."""
    data = task.model_dump(mode="json")
    action = data["action"]
    data["horizon"] = horizon
    data["n_action_steps"] = min(task.n_action_steps, horizon - task.n_obs_steps + 1)
    data["action"] = {
        "topic": action["topic"],
        "type": "trajectory_msgs/msg/JointTrajectory",
        "output": "trajectory",
        "names": [f"joint_{i}" for i in range(dim)],
        "shape": [dim],
        "limits": {"position": {"min": [-1.0] * dim, "max": [1.0] * dim}},
    }
    return TaskSpec.from_dict(data, source=f"task {task.name} with {dim} values and horizon {horizon}")
