"""What was read from a foreign checkpoint, put together: task, normalisation, sampler and network to a policy.

A normalisation x * scale + offset of any origin (min-max, mean and deviation, none) is carried as the range that our
min-max normalisation maps to [-1, 1] in the same way. The task is derived with topics to fill in, unless one is given.
Easy to get wrong: the limits of a derived task are the range of the training data, not those of the robot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from dp_ros.errors import UserError
from dp_ros.importing.unet import ForeignUnet
from dp_ros.inference.manifest import explain
from dp_ros.inference.sampler import SamplerSpec
from dp_ros.policies.build import build_policy
from dp_ros.policies.policy import Policy
from dp_ros.task import TaskSpec
from dp_ros.task.spec import FILL_IN

_SCHEDULE = "squaredcos_cap_v2"
#: Options of the schedulers of diffusers that change what is drawn, each with the only value that is supported, its default.
_SCHEDULER_DEFAULTS: dict[str, Any] = {
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "timestep_spacing": "leading",
    "thresholding": False,
    "rescale_betas_zero_snr": False,
    "trained_betas": None,
}


@dataclass(frozen=True)
class Affine:
    """A normalisation: values * scale + offset, each (n,) float64."""

    scale: NDArray[np.float64]
    offset: NDArray[np.float64]

    @property
    def range(self) -> dict[str, list[float]]:
        """What is mapped to -1 and to 1."""
        return {
            "min": ((-1.0 - self.offset) / self.scale).tolist(),
            "max": ((1.0 - self.offset) / self.scale).tolist(),
        }


@dataclass(frozen=True)
class Timing:
    """Steps of the task: rate, observations, predicted and executed actions."""

    rate_hz: float
    n_obs_steps: int
    horizon: int
    n_action_steps: int


def sampler_of(
    scheduler: Mapping[str, Any], method: str, num_inference_steps: int | None, source: str
) -> SamplerSpec:
    """The sampler that a scheduler of diffusers with these arguments is. Raises UserError for one we have not."""
    schedule = scheduler.get("beta_schedule", "linear")
    if schedule != _SCHEDULE:
        raise UserError(f"{source}: beta_schedule: got {schedule!r}, supported is {_SCHEDULE!r}")
    for key, wanted in _SCHEDULER_DEFAULTS.items():
        if (found := scheduler.get(key, wanted)) != wanted:
            raise UserError(f"{source}: noise scheduler, {key}: got {found!r}, supported is {wanted!r}")
    clip_range = scheduler.get("clip_sample_range", 1.0)
    if scheduler.get("clip_sample", True) and clip_range != 1.0:
        raise UserError(f"{source}: clip_sample_range: got {clip_range}, supported is 1.0")
    variance = scheduler.get("variance_type", "fixed_small")
    if method == "ddpm" and variance != "fixed_small":
        raise UserError(f"{source}: variance_type: got {variance!r}, supported is 'fixed_small'")
    train_steps = scheduler.get("num_train_timesteps", 1000)
    if method == "ddpm" and num_inference_steps and train_steps % num_inference_steps:
        raise UserError(
            f"{source}: num_inference_steps {num_inference_steps} does not divide num_train_timesteps {train_steps}; "
            "versions of diffusers space such steps of DDPM differently, so set a number that does"
        )
    try:
        return SamplerSpec(
            train_steps=train_steps,
            prediction=scheduler.get("prediction_type", "epsilon"),
            clip_sample=scheduler.get("clip_sample", True),
            method=method,  # type: ignore[arg-type]
            num_inference_steps=num_inference_steps or train_steps,
        )
    except ValidationError as error:
        raise UserError(f"{source}: noise schedule: " + "\n  ".join(explain(error))) from None


def derived_task(
    name: str,
    timing: Timing,
    observations: Mapping[str, int],
    limits: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> TaskSpec:
    """A task of vectors {stream: number of values} with these limits of the actions; its topics are to be filled in."""
    low, high = limits
    n = len(low)
    return TaskSpec.from_dict(
        {
            "name": name,
            "description": "Derived from an imported checkpoint: fill in topics, types, names and limits.",
            "rate_hz": timing.rate_hz,
            "n_obs_steps": timing.n_obs_steps,
            "horizon": timing.horizon,
            "n_action_steps": timing.n_action_steps,
            "observations": {
                key: {
                    "topic": f"{FILL_IN}/{key}",
                    "type": "sensor_msgs/msg/JointState",
                    "fields": ["position"],
                    "names": [f"{key}_{i}" for i in range(dim)],
                    "shape": [dim],
                    "max_age_s": 2.0 / timing.rate_hz,
                }
                for key, dim in observations.items()
            },
            "action": {
                "topic": f"{FILL_IN}/action",
                "type": "std_msgs/msg/Float64MultiArray",
                "output": "setpoint",
                "rate_hz": timing.rate_hz,
                "names": [f"action_{i}" for i in range(n)],
                "shape": [n],
                "limits": {"position": {"min": low.tolist(), "max": high.tolist()}},
            },
        },
        source=f"the task derived for {name}",
    )


def assemble(
    unet: ForeignUnet,
    task: TaskSpec,
    timing: Timing,
    normalization: Mapping[str, Affine],
    sampler: SamplerSpec,
    source: str,
) -> Policy:
    """The policy, after checking that weights, task and normalisation fit.

    `normalization` has an entry for each stream, in the order in which the network takes them, and one for `action`. A
    single stream may be several of the task, one after the other.

    Raises:
        UserError: saying what does not fit.
    """
    streams = [key for key in normalization if key != "action"]
    for key in ("n_obs_steps", "horizon", "n_action_steps"):
        if getattr(task, key) != getattr(timing, key):
            raise UserError(
                f"task {task.name}: {key} is {getattr(task, key)}, {source} has {getattr(timing, key)}"
            )
    dims = {key: spec.dim for key, spec in task.observations.items()}
    if len(streams) == 1 < len(dims) and sum(dims.values()) == len(normalization[streams[0]].scale):
        # Theirs is one vector of all that is observed; ours are parts of it in the task's order.
        ends = np.cumsum(list(dims.values()))[:-1]
        whole = normalization[streams[0]]
        parts = zip(np.split(whole.scale, ends), np.split(whole.offset, ends), strict=True)
        streams = list(dims)
        normalization = {
            **{key: Affine(*part) for key, part in zip(streams, parts, strict=True)},
            "action": normalization["action"],
        }
    wanted = {key: len(normalization[key].scale) for key in streams}
    if list(dims.values()) != list(wanted.values()):
        raise UserError(f"task {task.name}: observes {dims}, {source} takes, in this order, {wanted}")
    n_values = timing.n_obs_steps * sum(wanted.values())
    if unet.observation_dim != n_values:
        raise UserError(
            f"{source}: the network takes {unet.observation_dim} values as its observation, the configuration makes "
            f"{n_values} of {wanted} and n_obs_steps {timing.n_obs_steps}"
        )
    n_actions = len(normalization["action"].scale)
    if unet.action_dim != n_actions or task.action.dim != n_actions:
        raise UserError(
            f"{source}: an action has {unet.action_dim} values in the network, {n_actions} in the normalisation and "
            f"{task.action.dim} in task {task.name}; expected the same number"
        )
    given = dict(zip(dims, (normalization[key] for key in streams), strict=True))
    given["action"] = normalization["action"]
    policy = build_policy(task, {key: each.range for key, each in given.items()}, unet.network, sampler)
    for key, each in given.items():
        ours: Any = policy.get_submodule(f"normalizers.{key}")
        # Where a value hardly changes beside its size, our normaliser only shifts it.
        if not np.allclose(ours.scale.numpy(), each.scale, rtol=1e-4):
            raise UserError(
                f"{source}: normalisation of {key}: a value hardly changes beside its size; this is not supported"
            )
    try:
        policy.load_state_dict({f"unet.{key}": value for key, value in unet.weights.items()})
    except RuntimeError as error:
        raise UserError(f"{source}: the weights do not fit together: {error}") from None
    return policy.eval()
