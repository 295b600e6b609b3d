"""Checkpoints of the Diffusion Policy reference (real-stanford/diffusion_policy): U-Net on vectors and on pictures.

Weights are those of the averaged model where there is one. Shapes come from the weights, because the configuration
keeps expressions such as `${eval: ...}` that only its own project should evaluate. Easy to get wrong: with
`oa_step_convention: False` the first executed action of a policy on vectors is one step later than ours, so such a
policy is refused; policies on pictures always begin where ours do. The network takes the streams in the order of
`shape_meta` from the encoder of robomimic (the "hybrid" policy), and sorted, cameras first, from the reference's own.
Sources: `base_workspace.py`, `train_diffusion_unet_lowdim_workspace.py`, `diffusion_unet_lowdim_policy.py`,
`diffusion_unet_hybrid_image_policy.py`, `diffusion_unet_image_policy.py`, `multi_image_obs_encoder.py`,
`crop_randomizer.py`, `normalizer.py`, `train_diffusion_unet_lowdim_workspace.yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dp_ros.errors import UserError
from dp_ros.importing.checkpoint import read_checkpoint
from dp_ros.importing.policy import (
    Affine,
    Timing,
    assemble,
    derived_task,
    picture_of,
    sampler_of,
    stream_name,
)
from dp_ros.importing.unet import Names, read_unet
from dp_ros.importing.vision import ROBOMIMIC, TORCHVISION, ForeignVision, Picture, read_vision
from dp_ros.policies.policy import Policy
from dp_ros.task import TaskSpec

NAMES = Names("blocks.0.block", "blocks.1.block", "2.conv")
_TARGETS = {
    "lowdim": "diffusion_policy.policy.diffusion_unet_lowdim_policy.DiffusionUnetLowdimPolicy",
    "hybrid": "diffusion_policy.policy.diffusion_unet_hybrid_image_policy.DiffusionUnetHybridImagePolicy",
    "image": "diffusion_policy.policy.diffusion_unet_image_policy.DiffusionUnetImagePolicy",
}
_NORMALIZER = "normalizer.params_dict."
_SCHEDULERS = {"DDPMScheduler": "ddpm", "DDIMScheduler": "ddim"}
#: Options that must have this value, and what the policy does by default.
_REQUIRED: dict[str, dict[str, tuple[Any, Any]]] = {
    "lowdim": {
        "obs_as_global_cond": (True, False),
        "oa_step_convention": (True, False),
        "pred_action_steps_only": (False, False),
        "n_latency_steps": (0, 0),
    },
    "hybrid": {"obs_as_global_cond": (True, True), "n_latency_steps": (0, 0)},
    "image": {"obs_as_global_cond": (True, True), "n_latency_steps": (0, 0)},
}
#: Further options of the policy go to the scheduler at every step; these are known, and must have this value.
_STEP_OPTIONS = {"eta": 0.0, "use_clipped_model_output": False}
_COMMON = {"noise_scheduler", "horizon", "n_action_steps", "n_obs_steps", "num_inference_steps"}
_PICTURES = _COMMON | {"shape_meta", "diffusion_step_embed_dim", "down_dims", "kernel_size", "n_groups"}
_PICTURES |= {"cond_predict_scale"}
_OPTIONS = {
    "lowdim": _COMMON | {"model", "obs_dim", "action_dim", "obs_as_local_cond"},
    "hybrid": _PICTURES | {"crop_shape", "obs_encoder_group_norm", "eval_fixed_crop"},
    "image": _PICTURES | {"obs_encoder"},
}
_CROP = [76, 76]
"""What the hybrid policy crops to by default."""
#: Mean and deviation of the pictures of ImageNet, from 0 to 1, as torchvision gives them.
_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def load_stanford(path: Path, name: str, rate_hz: float, task: TaskSpec | None = None) -> Policy:
    """The policy in a checkpoint; arguments and errors as `load_lerobot`."""
    payload = read_checkpoint(path)
    config, source = payload["cfg"], f"{path}: cfg"
    policy = _section(config, "policy", source)
    kinds = {target: kind for kind, target in _TARGETS.items()}
    if (target := policy.get("_target_")) not in kinds:
        raise UserError(
            f"{source}.policy._target_: got {target!r}, supported: {', '.join(map(repr, _TARGETS.values()))}"
        )
    kind = kinds[target]
    for key, (wanted, default) in _REQUIRED[kind].items():
        if (found := _option(config, policy, key, default, source)) != wanted:
            raise UserError(f"{source}: {key}: got {found!r}, supported is {wanted}")
    _check_step_options(policy, _OPTIONS[kind] | _REQUIRED[kind].keys(), f"{source}.policy")
    steps, horizon, n_action_steps = (
        _whole(config, policy, key, source) for key in ("n_obs_steps", "horizon", "n_action_steps")
    )
    timing = Timing(rate_hz if task is None else task.rate_hz, steps, horizon, n_action_steps)
    scheduler = _section(policy, "noise_scheduler", f"{source}.policy")
    method = str(scheduler.get("_target_", "")).rpartition(".")[2]
    if method not in _SCHEDULERS:
        raise UserError(
            f"{source}.policy.noise_scheduler: got {method!r}, supported: {', '.join(_SCHEDULERS)}"
        )
    sampler = sampler_of(scheduler, _SCHEDULERS[method], policy.get("num_inference_steps"), source)
    state = payload["state_dicts"].get("ema_model") or payload["state_dicts"].get("model")
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: state_dicts: expected the weights of ema_model or model")
    state = {key: value for key, value in state.items() if not key.endswith("_dummy_variable")}
    weights = {key[len("model.") :]: value for key, value in state.items() if key.startswith("model.")}
    of_unet = _section(policy, "model", f"{source}.policy") if kind == "lowdim" else policy
    unet = read_unet(weights, NAMES, int(of_unet.get("n_groups", 8)), str(path))
    if kind == "lowdim":
        seen = _Seen({"obs": _affine(state, "obs", path)}, {}, None)
    else:
        seen = _pictures_and_vectors(config, policy, kind, state, path)
    normalization = {**seen.normalization, "action": _affine(state, "action", path)}
    if task is None:
        observed = {key: seen.pictures.get(key, len(each.scale)) for key, each in seen.normalization.items()}
        task = derived_task(name, timing, observed, _limits(state, normalization["action"]))
    return assemble(unet, task, timing, normalization, sampler, str(path), seen.vision, seen.pictures)


@dataclass(frozen=True)
class _Seen:
    """What a policy observes: normalisation of each stream in the order of the network, cameras, their encoders."""

    normalization: dict[str, Affine]
    pictures: dict[str, Picture]
    vision: ForeignVision | None


def _pictures_and_vectors(
    config: Mapping[str, Any], policy: Mapping[str, Any], kind: str, state: Mapping[str, Tensor], path: Path
) -> _Seen:
    """What a policy on pictures observes."""
    source = f"{path}: cfg"
    meta = resolved(config, policy.get("shape_meta", "${shape_meta}"))
    streams = resolved(config, meta.get("obs")) if isinstance(meta, dict) else None
    if not isinstance(streams, dict) or not all(isinstance(each, dict) for each in streams.values()):
        raise UserError(
            f"{source}.shape_meta.obs: got {type(streams).__name__}, expected a mapping of mappings"
        )
    cameras = [key for key, each in streams.items() if each.get("type", "low_dim") == "rgb"]
    vectors = [key for key, each in streams.items() if each.get("type", "low_dim") == "low_dim"]
    if left := set(streams) - {*cameras, *vectors}:
        raise UserError(f"{source}.shape_meta.obs.{min(left)}: expected the type rgb or low_dim")
    if not cameras:
        raise UserError(f"{source}.shape_meta.obs: has no rgb, expected one camera at least")
    order = list(streams)
    if kind == "image":
        encoder = _section(policy, "obs_encoder", f"{source}.policy")
        resizes, crops = (resolved(config, encoder.get(key)) for key in ("resize_shape", "crop_shape"))
        order = [*sorted(cameras), *sorted(vectors)]
    else:
        encoder, resizes, crops = {}, None, resolved(config, policy.get("crop_shape", _CROP))
        if crops is not None and not resolved(config, policy.get("eval_fixed_crop", False)):
            raise UserError(
                f"{source}.policy.eval_fixed_crop: got False, so the policy crops at random also when it runs, which "
                "is not supported; expected True"
            )
    pictures = {
        key: picture_of(
            resolved(config, streams[key].get("shape")),
            _of(resizes, key),
            _of(crops, key),
            f"{source}: {key}",
        )
        for key in order
        if key in cameras
    }
    normalization = {}
    for key in order:
        if key not in pictures:
            normalization[key] = _affine(state, key, path)
            continue
        each = _affine(state, key, path)
        if len(each.scale) != 1:
            raise UserError(
                f"{path}: {_NORMALIZER}{key}: got {len(each.scale)} scales for pictures, expected one"
            )
        mean, deviation = np.zeros(3), np.ones(3)
        if encoder.get("imagenet_norm", False):
            mean, deviation = (np.array(values) for values in _IMAGENET)
        normalization[key] = Affine.of_pixels(each.scale / deviation, (each.offset - mean) / deviation)
    vision = _vision(state, pictures, kind, str(path))
    names = {key: stream_name(key) for key in order}
    return _Seen(
        {names[key]: each for key, each in normalization.items()},
        {names[key]: each for key, each in pictures.items()},
        vision.renamed(names),
    )


def _vision(
    state: Mapping[str, Tensor], pictures: Mapping[str, Picture], kind: str, source: str
) -> ForeignVision:
    """The encoders among the weights: of robomimic (hybrid), or a ResNet of torchvision without its last layer."""
    prefix = "obs_encoder.obs_nets." if kind == "hybrid" else "obs_encoder.key_model_map."
    encoders: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        if not key.startswith("obs_encoder."):
            continue
        name, _, rest = key[len(prefix) :].partition(".")
        name = "shared" if kind == "image" and name == "rgb" and name not in pictures else name
        if not key.startswith(prefix) or name not in ("shared", *pictures):
            raise UserError(f"{source}: {key}: weights of a part that is not supported")
        encoders.setdefault(name, {})[rest] = value
    if set(encoders) not in ({"shared"}, set(pictures)):
        raise UserError(
            f"{source}: {prefix}*: expected an encoder for each of {', '.join(pictures)}, got "
            f"{', '.join(encoders) or 'none'}"
        )
    hybrid = kind == "hybrid"
    return read_vision(encoders, ROBOMIMIC if hybrid else TORCHVISION, pictures, hybrid, source)


def _of(value: Any, camera: str) -> Any:
    """What an option says of a camera; it may say the same of all."""
    return value.get(camera) if isinstance(value, dict) else value


def _check_step_options(policy: Mapping[str, Any], known: set[str], source: str) -> None:
    """Raise UserError for an option that the policy would give to `scheduler.step`, and that changes the actions."""
    for key in (key for key in policy if key not in known and not key.startswith("_")):
        if key not in _STEP_OPTIONS:
            raise UserError(
                f"{source}.{key}: is not known, so it would be given to the noise scheduler; remove it"
            )
        if policy[key] != _STEP_OPTIONS[key]:
            raise UserError(f"{source}.{key}: got {policy[key]!r}, supported is {_STEP_OPTIONS[key]!r}")


def _affine(state: Mapping[str, Tensor], key: str, path: Path) -> Affine:
    """Normalisation of one field: x * scale + offset, as `LinearNormalizer` stores it."""
    parts = [state.get(f"{_NORMALIZER}{key}.{part}") for part in ("scale", "offset")]
    if any(part is None or part.dim() != 1 for part in parts):
        raise UserError(f"{path}: {_NORMALIZER}{key}: expected scale and offset of one dimension; found none")
    scale, offset = (part.double().numpy() for part in parts)  # type: ignore[union-attr]
    if len(scale) != len(offset) or not (scale != 0).all():
        raise UserError(f"{path}: {_NORMALIZER}{key}: expected as many offsets as scales, and no scale of 0")
    return Affine(scale, offset)


def _limits(state: Mapping[str, Tensor], action: Affine) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Range of the actions that were learnt from: as it was stored, or else what is mapped to -1 and 1."""
    stored = [state.get(f"{_NORMALIZER}action.input_stats.{end}") for end in ("min", "max")]
    if any(values is None or values.shape != (len(action.scale),) for values in stored):
        return np.array(action.range["min"]), np.array(action.range["max"])
    low, high = (values.double().numpy() for values in stored)  # type: ignore[union-attr]
    return low, high


def resolved(config: Mapping[str, Any], value: Any) -> Any:
    """`value`, or what it refers to in the whole configuration, such as `${task.shape_meta}`."""
    for _ in range(8):
        if not isinstance(value, str) or not (path := re.fullmatch(r"\$\{([\w.]+)\}", value)):
            break
        found: Any = config
        for key in path[1].split("."):
            found = found.get(key) if isinstance(found, dict) else None
        value = found
    return value


def _section(config: Mapping[str, Any], key: str, source: str) -> dict[str, Any]:
    found = config.get(key)
    if not isinstance(found, dict):
        raise UserError(f"{source}.{key}: got {type(found).__name__}, expected a mapping")
    return found


def _option(config: Mapping[str, Any], policy: Mapping[str, Any], key: str, default: Any, source: str) -> Any:
    """Value of the policy's option, or what it refers to at the top, `${key}`."""
    found = resolved(config, policy.get(key, config.get(key, default)))
    if isinstance(found, str) and "${" in found:
        found = resolved(config, config.get(key, found))
    if isinstance(found, str) and "${" in found:
        raise UserError(f"{source}: {key}: {found!r} cannot be resolved; save the configuration resolved")
    return found


def _whole(config: Mapping[str, Any], policy: Mapping[str, Any], key: str, source: str) -> int:
    found = _option(config, policy, key, None, source)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise UserError(f"{source}: {key}: got {found!r}, expected a whole number of at least 1")
    return found
