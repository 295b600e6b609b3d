"""What was read from a foreign checkpoint, put together: task, normalisation, sampler and network to a policy.

A normalisation x * scale + offset of any origin (min-max, mean and deviation, none) is carried as the range that our
min-max normalisation maps to [-1, 1] in the same way. The task is derived with topics to fill in, unless one is given.
Easy to get wrong: the limits of a derived task are the range of the training data, not those of the robot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from dp_ros.errors import UserError
from dp_ros.importing.unet import ForeignUnet
from dp_ros.importing.vision import ForeignVision, Picture
from dp_ros.inference.manifest import NetworkSpec, explain
from dp_ros.inference.sampler import SamplerSpec
from dp_ros.policies.build import build_policy
from dp_ros.policies.policy import Policy
from dp_ros.policies.specs import UnetSpec
from dp_ros.task import ObservationSpec, TaskSpec
from dp_ros.task.spec import FILL_IN

_SCHEDULE = "squaredcos_cap_v2"
#: Options of diffusers' schedulers that change what is drawn, each with the only value that is supported, its default.
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

    @classmethod
    def of_pixels(cls, scale: Any, offset: Any) -> Affine:
        """For the values 0 to 255 of three channels, of what is meant for 0 to 1; both (3,) or one for all three."""
        return cls(np.broadcast_to(scale, 3) / 255.0, np.broadcast_to(offset, 3).astype(np.float64))


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


def picture_of(shape: Any, resized: Any, cropped: Any, source: str) -> Picture:
    """What a camera of this shape (channels, height, width) gives to a policy that resizes and crops it so.

    `resized` and `cropped` are height and width, or None. Raises UserError for what cannot be.
    """
    channels, *size = _whole_numbers(shape, 3, f"{source}: shape")
    if channels != 3:
        raise UserError(f"{source}: a picture of {channels} channel(s), supported are 3, red, green and blue")
    wanted = size if resized is None else _whole_numbers(resized, 2, f"{source}: resize_shape")
    part = wanted if cropped is None else _whole_numbers(cropped, 2, f"{source}: crop_shape")
    if part[0] > wanted[0] or part[1] > wanted[1]:
        raise UserError(f"{source}: crop_shape: got {part}, expected at most {wanted}")
    crop = None if part == wanted else (part[0], part[1])
    return Picture((wanted[0], wanted[1]), crop, resized=wanted != size)


def _whole_numbers(value: Any, n: int, source: str) -> list[int]:
    if not isinstance(value, list | tuple) or len(value) != n or not all(type(each) is int for each in value):
        raise UserError(f"{source}: got {value!r}, expected {n} whole numbers")
    return list(value)


def stream_name(key: str) -> str:
    """A name that a stream of a task can have, for what another project calls it."""
    return re.sub(r"[^a-z0-9_]", "_", key.lower())


def derived_task(
    name: str,
    timing: Timing,
    observations: Mapping[str, int | Picture],
    limits: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> TaskSpec:
    """A task with these limits of the actions; its topics are to be filled in.

    `observations` has the number of values of each stream, or the pictures of a camera.
    """
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
                key: {"topic": f"{FILL_IN}/{key}", **_stream(key, seen), "max_age_s": 2.0 / timing.rate_hz}
                for key, seen in observations.items()
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


def _stream(key: str, seen: int | Picture) -> dict[str, Any]:
    """What a task says of a stream beside its topic."""
    if isinstance(seen, Picture):
        image: dict[str, Any] = {"type": "sensor_msgs/msg/Image", "encoding": seen.encoding}
        image["shape"] = [*seen.size, 3]
        image |= {"resize": list(seen.size)} if seen.resized else {}
        return image | ({"crop": list(seen.crop)} if seen.crop else {})
    vector = {"type": "sensor_msgs/msg/JointState", "fields": ["position"], "shape": [seen]}
    return vector | {"names": [f"{key}_{i}" for i in range(seen)]}


def assemble(
    unet: ForeignUnet,
    task: TaskSpec,
    timing: Timing,
    normalization: Mapping[str, Affine],
    sampler: SamplerSpec,
    source: str,
    vision: ForeignVision | None = None,
    pictures: Mapping[str, Picture] | None = None,
) -> Policy:
    """The policy, after checking that weights, task and normalisation fit.

    `normalization` has an entry for each stream, in the order in which the network takes them, and one for `action`.
    The task may have them in another order, where names, or what they are, tell which is which. A single stream may be
    several of the task, one after the other. `pictures` says which of the streams are cameras, and
    `vision` what encodes them.

    Raises:
        UserError: saying what does not fit.
    """
    pictures = pictures or {}
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
    wanted = {key: pictures.get(key, len(normalization[key].scale)) for key in streams}
    given = {key: _seen(spec) for key, spec in task.observations.items()}
    pairs = _pairs(given, wanted)
    if not pairs:
        raise UserError(
            f"task {task.name}: observes {_told(given)}; {source} takes, in this order, {_told(wanted)}"
        )
    features = 0 if vision is None else vision.spec.features
    sizes = {key: each if isinstance(each, int) else features for key, each in wanted.items()}
    n_values = timing.n_obs_steps * sum(sizes.values())
    if unet.observation_dim != n_values:
        raise UserError(
            f"{source}: the network takes {unet.observation_dim} values as its observation, the configuration makes "
            f"{n_values} of {_told(wanted)} and n_obs_steps {timing.n_obs_steps}"
        )
    n_actions = len(normalization["action"].scale)
    if unet.action_dim != n_actions or task.action.dim != n_actions:
        raise UserError(
            f"{source}: an action has {unet.action_dim} values in the network, {n_actions} in the normalisation and "
            f"{task.action.dim} in task {task.name}; expected the same number"
        )
    names = {theirs: ours for ours, theirs in pairs.items()} | {"action": "action"}
    network: UnetSpec | NetworkSpec = unet.network
    weights = {f"unet.{key}": value for key, value in unet.weights.items()}
    weights["unet.film.weight"] = _in_order(
        unet.weights["film.weight"], network.step_dim, timing.n_obs_steps, sizes, list(pairs.values())
    )
    if vision is not None:
        network = UnetSpec(**unet.network.model_dump(exclude={"kind"}), vision=vision.spec)
        for camera, encoder in vision.encoders.items():
            prefix = f"vision.encoders.{camera if vision.spec.shared else names[camera]}."
            weights |= {prefix + key: value for key, value in encoder.items()}
    policy = build_policy(
        task, {name: normalization[key].range for key, name in names.items()}, network, sampler
    )
    for key, name in names.items():
        ours: Any = policy.get_submodule(f"{'vision.ranges' if key in pictures else 'normalizers'}.{name}")
        # Where a value hardly changes beside its size, our normaliser only shifts it.
        if not np.allclose(ours.scale.numpy(), normalization[key].scale, rtol=1e-4, atol=0.0):
            raise UserError(
                f"{source}: normalisation of {key}: a value hardly changes beside its size; this is not supported"
            )
    try:
        policy.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{source}: the weights do not fit together: {error}") from None
    return policy.eval()


def _seen(spec: ObservationSpec) -> int | Picture:
    """What a network is given of a stream of a task."""
    if not spec.is_image:
        return spec.dim
    return Picture((spec.shape[0], spec.shape[1]), spec.crop, encoding=str(spec.encoding))


def _pairs(given: Mapping[str, int | Picture], wanted: Mapping[str, int | Picture]) -> dict[str, str]:
    """{stream of the task: theirs}, of the same name, or place, or the only one alike; {} if they do not fit."""
    ours, theirs = ({key: str(each) for key, each in streams.items()} for streams in (given, wanted))
    if ours.keys() == theirs.keys():
        pairs = {key: key for key in ours}
    elif list(ours.values()) == list(theirs.values()):
        pairs = dict(zip(ours, theirs, strict=True))
    else:
        alike = {each: key for key, each in theirs.items()}
        if not len(alike) == len(theirs) == len(ours) == len(set(ours.values())):
            return {}
        pairs = {key: alike.get(each, "") for key, each in ours.items()}
    return pairs if all(theirs.get(pairs[key]) == each for key, each in ours.items()) else {}


def _in_order(
    film: Tensor, step_dim: int, n_obs_steps: int, sizes: Mapping[str, int], order: list[str]
) -> Tensor:
    """FiLM (F, step_dim + n_obs_steps * D) for streams of these sizes, with the streams of each step in `order`."""
    ends = dict(zip(sizes, np.cumsum(list(sizes.values())).tolist(), strict=True))
    places = [place for key in order for place in range(ends[key] - sizes[key], ends[key])]
    observed = film[:, step_dim:].unflatten(1, (n_obs_steps, -1))[:, :, places]
    return torch.cat([film[:, :step_dim], observed.flatten(1)], dim=1)


def _told(streams: Mapping[str, int | Picture]) -> str:
    return ", ".join(f"{key}: {seen}" for key, seen in streams.items())
