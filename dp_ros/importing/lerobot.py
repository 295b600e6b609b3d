"""Folders of LeRobot's diffusion policy: config.json, model.safetensors, and the normalisation.

The normalisation lies in the state file of the step `normalizer_processor` of `policy_preprocessor.json`; older folders
have it among the weights, as `normalize_inputs.buffer_observation_state.min` and so on. Easy to get wrong: a feature
of type ENV is not normalised unless `normalization_mapping` names that type, which LeRobot's defaults do not; the
network takes the state first, then the cameras in the order of the configuration, then the environment.
Sources: huggingface/lerobot, `configuration_diffusion.py`, `modeling_diffusion.py`, `normalize_processor.py`,
`migrate_policy_normalization.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dp_ros.errors import UserError
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
from dp_ros.importing.vision import LEROBOT, ForeignVision, Picture, read_vision
from dp_ros.policies.policy import Policy
from dp_ros.task import TaskSpec

NAMES = Names("conv1.block", "conv2.block", "2")
_STATE, _ENVIRONMENT = "observation.state", "observation.environment_state"
_UNET = "diffusion.unet."
_ENCODER = "diffusion.rgb_encoder."
_VISUAL = "VISUAL"
_EPS = 1e-8
_OLD = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")


def load_lerobot(folder: Path, name: str, rate_hz: float, task: TaskSpec | None = None) -> Policy:
    """The policy in a LeRobot folder.

    Args:
        folder: with config.json and model.safetensors.
        name: of the derived task.
        rate_hz: of the derived task, which the folder does not tell.
        task: used instead of a derived one.

    Raises:
        UserError: for a file that is missing or damaged, or an option that is not supported.
    """
    config = _json(folder / "config.json")
    source = str(folder / "config.json")
    if (kind := config.get("type")) != "diffusion":
        raise UserError(f"{source}: policy type: got {kind!r}, supported is 'diffusion'")
    dims = _features(config, source)
    weights = _tensors(folder / "model.safetensors")
    unet = {key[len(_UNET) :]: value for key, value in weights.items() if key.startswith(_UNET)}
    left = [key for key in weights if not key.startswith((_UNET, _ENCODER, *_OLD))]
    if left:
        raise UserError(f"{folder / 'model.safetensors'}: {left[0]}: weights of a part that is not supported")
    method = str(_get(config, "noise_scheduler_type", source)).lower()
    steps = config.get("num_inference_steps")
    sampler = sampler_of(config, method, steps, source)
    timing = Timing(
        rate_hz if task is None else task.rate_hz,
        *(int(_get(config, key, source)) for key in ("n_obs_steps", "horizon", "n_action_steps")),
    )
    stats = _statistics(folder, weights, dims)
    normalization = {key: _affine(key, dim, config, stats, source) for key, dim in dims.items()}
    pictures = _pictures(config, source)
    for key in pictures:
        normalization[key] = Affine.of_pixels(normalization[key].scale, normalization[key].offset)
    names = {key: stream_name(key.removeprefix("observation.")) for key in dims}
    vision = _vision(config, weights, pictures, str(folder / "model.safetensors"))
    read = read_unet(unet, NAMES, int(_get(config, "n_groups", source)), str(folder / "model.safetensors"))
    if task is None:
        observed = {names[key]: pictures.get(key, dim) for key, dim in dims.items() if key != "action"}
        task = derived_task(name, timing, observed, _limits(stats.get("action", {}), dims["action"], source))
    return assemble(
        read,
        task,
        timing,
        {names[key]: each for key, each in normalization.items()},
        sampler,
        str(folder),
        vision and vision.renamed(names),
        {names[key]: picture for key, picture in pictures.items()},
    )


def _features(config: Mapping[str, Any], source: str) -> dict[str, int]:
    """Number of values of each feature, channels of pictures, in the order of the network, the action last."""
    inputs, outputs = _get(config, "input_features", source), _get(config, "output_features", source)
    cameras = [key for key, feature in inputs.items() if feature.get("type") == _VISUAL]
    unknown = [key for key in inputs if key not in (_STATE, _ENVIRONMENT, *cameras)]
    if unknown:
        raise UserError(
            f"{source}: input {unknown[0]}: supported are {_STATE}, {_ENVIRONMENT} and cameras (type {_VISUAL})"
        )
    if _STATE not in inputs or "action" not in outputs:
        raise UserError(f"{source}: expected {_STATE} among input_features and action in output_features")
    order = [_STATE, *cameras, *([_ENVIRONMENT] if _ENVIRONMENT in inputs else [])]
    features = {key: inputs[key] for key in order} | {"action": outputs["action"]}
    for key, feature in features.items():
        n_dims = 3 if key in cameras else 1
        if not isinstance(feature, dict) or len(feature.get("shape", ())) != n_dims:
            raise UserError(f"{source}: {key}: got {feature}, expected a shape of {n_dims} dimension(s)")
    return {key: int(feature["shape"][0]) for key, feature in features.items()}


def _pictures(config: Mapping[str, Any], source: str) -> dict[str, Picture]:
    """What the cameras give, and what of it the network looks at."""
    resized, cropped = config.get("resize_shape"), config.get("crop_shape")
    if resized is not None:
        # As LeRobot does it: what is cropped of a picture that was scaled is a share of it.
        share = float(config.get("crop_ratio", 1.0))
        cropped = [int(resized[0] * share), int(resized[1] * share)] if share < 1.0 else None
    return {
        key: picture_of(feature["shape"], resized, cropped, f"{source}: {key}")
        for key, feature in config["input_features"].items()
        if feature.get("type") == _VISUAL
    }


def _vision(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], pictures: Mapping[str, Picture], source: str
) -> ForeignVision | None:
    """The encoders, None without cameras."""
    found = {key[len(_ENCODER) :]: value for key, value in weights.items() if key.startswith(_ENCODER)}
    if not pictures:
        if found:
            raise UserError(f"{source}: {_ENCODER}: weights of an encoder, but no camera is among the inputs")
        return None
    if (backbone := config.get("vision_backbone", "resnet18")) != "resnet18":
        raise UserError(f"{source}: vision_backbone: got {backbone!r}, supported is 'resnet18'")
    encoders: dict[str, dict[str, Tensor]] = {}
    for key, value in found.items():
        number, _, rest = key.partition(".")
        if number.isdecimal() and int(number) < len(pictures):
            encoders.setdefault(list(pictures)[int(number)], {})[rest] = value
        else:
            encoders.setdefault("shared", {})[key] = value
    if set(encoders) not in ({"shared"}, set(pictures)):
        raise UserError(
            f"{source}: {_ENCODER}: expected one encoder, or one for each of {len(pictures)} cameras"
        )
    return read_vision(encoders, LEROBOT, pictures, True, source)


def _affine(
    key: str, dim: int, config: Mapping[str, Any], stats: Mapping[str, Mapping[str, Tensor]], source: str
) -> Affine:
    """Normalisation of one feature, as LeRobot's `NormalizationMode` defines it."""
    inputs, outputs = config["input_features"], config["output_features"]
    kind = {**inputs, **outputs}[key].get("type", "STATE")
    mode = _get(config, "normalization_mapping", source).get(kind, "IDENTITY")
    ends = {"MIN_MAX": ("min", "max"), "MEAN_STD": ("mean", "std"), "IDENTITY": ()}.get(mode)
    if ends is None:
        raise UserError(
            f"{source}: normalization_mapping.{kind}: got {mode!r}, supported: MIN_MAX, MEAN_STD, IDENTITY"
        )
    if not ends:
        return Affine(np.ones(dim), np.zeros(dim))
    found = stats.get(key, {})
    if any(end not in found for end in ends):
        raise UserError(
            f"{source}: {key}: normalisation {mode} needs {' and '.join(ends)}, found {sorted(found) or 'nothing'}; "
            "copy policy_preprocessor.json and the file that it names into the folder"
        )
    a, b = (found[end].double().numpy().reshape(-1) for end in ends)
    if len(a) != dim or len(b) != dim:
        raise UserError(f"{source}: {key}: normalisation of {len(a)} values, the feature has {dim}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise UserError(
            f"{source}: {key}: the normalisation is not finite; the policy was saved without its statistics"
        )
    if mode == "MEAN_STD":
        if (b <= 0).any():
            raise UserError(f"{source}: {key}: a standard deviation of 0 is not supported")
        return Affine(1.0 / (b + _EPS), -a / (b + _EPS))
    constant = a == b
    if constant.any() and key == "action":
        raise UserError(
            f"{source}: action value {int(constant.argmax())} never changes; this is not supported"
        )
    # LeRobot maps a value that never changes to -1.
    scale = np.where(constant, 1.0, 2.0 / np.where(constant, 1.0, b - a))
    return Affine(scale, -1.0 - a * scale)


def _limits(
    stats: Mapping[str, Tensor], dim: int, source: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Range of the actions that were learnt from; three standard deviations where only these are known."""
    found = {
        key: stats[key].double().numpy().reshape(-1) for key in ("min", "max", "mean", "std") if key in stats
    }
    found = {key: values for key, values in found.items() if values.shape == (dim,)}
    if {"min", "max"} <= found.keys():
        return found["min"], found["max"]
    if {"mean", "std"} <= found.keys():
        return found["mean"] - 3.0 * found["std"], found["mean"] + 3.0 * found["std"]
    raise UserError(
        f"{source}: nothing tells the range of the actions; give a task with their limits, --task FILE"
    )


def _statistics(
    folder: Path, weights: Mapping[str, Tensor], features: Iterable[str]
) -> dict[str, dict[str, Tensor]]:
    """{feature: {statistic: values}} of the processor's file, or else of the buffers among the weights."""
    flat: dict[str, Tensor] = {}
    path = folder / "policy_preprocessor.json"
    if path.is_file():
        steps = _get(_json(path), "steps", str(path))
        files = [
            step.get("state_file") for step in steps if step.get("registry_name") == "normalizer_processor"
        ]
        if not files or files[0] is None or Path(files[0]).name != files[0]:
            raise UserError(f"{path}: expected a step normalizer_processor with a state_file in the folder")
        flat = _tensors(folder / files[0])
    else:
        for key in features:
            for prefix in reversed(_OLD):
                start = f"{prefix}buffer_{key.replace('.', '_')}."
                flat |= {f"{key}.{k[len(start) :]}": v for k, v in weights.items() if k.startswith(start)}
    stats: dict[str, dict[str, Tensor]] = {}
    for key, value in flat.items():
        feature, _, statistic = key.rpartition(".")
        stats.setdefault(feature, {})[statistic] = value
    return stats


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; expected a folder that LeRobot's save_pretrained wrote"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: is not readable as JSON ({error}); copy it again") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(data).__name__}")
    return data


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path}: is not there; expected a folder that LeRobot's save_pretrained wrote")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: is not readable as safetensors ({error}); copy it again (Git LFS)"
        ) from None


def _get(config: Mapping[str, Any], key: str, source: str) -> Any:
    if key not in config:
        raise UserError(f"{source}: {key} is missing; folders of LeRobot 2.0 (2025) and later are supported")
    return config[key]
