"""Checkpoints of the Diffusion Policy reference (real-stanford/diffusion_policy): U-Net on vectors.

Weights are those of the averaged model where there is one. Shapes come from the weights, because the configuration
keeps expressions such as `${eval: ...}` that only its own project should evaluate. Easy to get wrong: with
`oa_step_convention: False` the first executed action is one step later than ours, so such a policy is refused.
Sources: `base_workspace.py`, `train_diffusion_unet_lowdim_workspace.py`, `diffusion_unet_lowdim_policy.py`,
`normalizer.py`, `train_diffusion_unet_lowdim_workspace.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dp_ros.errors import UserError
from dp_ros.importing.checkpoint import read_checkpoint
from dp_ros.importing.policy import Affine, Timing, assemble, derived_task, sampler_of
from dp_ros.importing.unet import Names, read_unet
from dp_ros.policies.policy import Policy
from dp_ros.task import TaskSpec

NAMES = Names("blocks.0.block", "blocks.1.block", "2.conv")
_POLICY = "diffusion_policy.policy.diffusion_unet_lowdim_policy.DiffusionUnetLowdimPolicy"
_NORMALIZER = "normalizer.params_dict."
_SCHEDULERS = {"DDPMScheduler": "ddpm", "DDIMScheduler": "ddim"}
#: Options that must have this value, and what the policy does by default.
_REQUIRED = {"obs_as_global_cond": (True, False), "oa_step_convention": (True, False)}
_REQUIRED |= {"pred_action_steps_only": (False, False), "n_latency_steps": (0, 0)}  # type: ignore[dict-item]
#: Further options of the policy go to the scheduler at every step; these are known, and must have this value.
_STEP_OPTIONS = {"eta": 0.0, "use_clipped_model_output": False}
_OPTIONS = {"model", "noise_scheduler", "horizon", "obs_dim", "action_dim", "n_action_steps", "n_obs_steps"}
_OPTIONS |= {"num_inference_steps", "obs_as_local_cond", *_REQUIRED}


def load_stanford(path: Path, name: str, rate_hz: float, task: TaskSpec | None = None) -> Policy:
    """The policy in a checkpoint; arguments and errors as `load_lerobot`."""
    payload = read_checkpoint(path)
    config, source = payload["cfg"], f"{path}: cfg"
    policy = _section(config, "policy", source)
    if (target := policy.get("_target_")) != _POLICY:
        raise UserError(f"{source}.policy._target_: got {target!r}, supported is {_POLICY!r}")
    for key, (wanted, default) in _REQUIRED.items():
        if (found := _option(config, policy, key, default, source)) != wanted:
            raise UserError(f"{source}: {key}: got {found!r}, supported is {wanted}")
    _check_step_options(policy, _OPTIONS, f"{source}.policy")
    steps, horizon, n_action_steps = (
        _whole(config, policy, key, source) for key in ("n_obs_steps", "horizon", "n_action_steps")
    )
    timing = Timing(rate_hz if task is None else task.rate_hz, steps, horizon, n_action_steps)
    scheduler = _section(policy, "noise_scheduler", f"{source}.policy")
    kind = str(scheduler.get("_target_", "")).rpartition(".")[2]
    if kind not in _SCHEDULERS:
        raise UserError(f"{source}.policy.noise_scheduler: got {kind!r}, supported: {', '.join(_SCHEDULERS)}")
    sampler = sampler_of(scheduler, _SCHEDULERS[kind], policy.get("num_inference_steps"), source)
    state = payload["state_dicts"].get("ema_model") or payload["state_dicts"].get("model")
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: state_dicts: expected the weights of ema_model or model")
    weights = {key[len("model.") :]: value for key, value in state.items() if key.startswith("model.")}
    model = _section(policy, "model", f"{source}.policy")
    unet = read_unet(
        {key: value for key, value in weights.items() if not key.endswith("_dummy_variable")},
        NAMES,
        int(model.get("n_groups", 8)),
        str(path),
    )
    normalization = {"obs": _affine(state, "obs", path), "action": _affine(state, "action", path)}
    if task is None:
        limits = _limits(state, normalization["action"])
        task = derived_task(name, timing, {"obs": len(normalization["obs"].scale)}, limits)
    return assemble(unet, task, timing, normalization, sampler, str(path))


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


def _section(config: Mapping[str, Any], key: str, source: str) -> dict[str, Any]:
    found = config.get(key)
    if not isinstance(found, dict):
        raise UserError(f"{source}.{key}: got {type(found).__name__}, expected a mapping")
    return found


def _option(config: Mapping[str, Any], policy: Mapping[str, Any], key: str, default: Any, source: str) -> Any:
    """Value of the policy's option, or what it refers to at the top, `${key}`."""
    found = policy.get(key, config.get(key, default))
    if isinstance(found, str) and "${" in found:
        found = config.get(key, found)
    if isinstance(found, str) and "${" in found:
        raise UserError(f"{source}: {key}: {found!r} cannot be resolved; save the configuration resolved")
    return found


def _whole(config: Mapping[str, Any], policy: Mapping[str, Any], key: str, source: str) -> int:
    found = _option(config, policy, key, None, source)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise UserError(f"{source}: {key}: got {found!r}, expected a whole number of at least 1")
    return found
