"""Folders of LeRobot become model folders that draw the same actions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dp_ros.cli.import_model import TASK_FILE
from dp_ros.cli.main import main
from dp_ros.errors import UserError
from dp_ros.importing import lerobot
from dp_ros.importing.lerobot import load_lerobot
from dp_ros.inference.load import load_engine
from dp_ros.inference.sampler import sampling_noise
from dp_ros.task import TaskSpec, load_task

from .reference import ReferenceUnet, draw

STATE, ENV, ACTION = 3, 4, 2
MEAN = torch.tensor([0.2, -1.0, 5.0])
STD = torch.tensor([0.5, 2.0, 0.1])
LOW, HIGH = torch.tensor([-1.0, 10.0]), torch.tensor([3.0, 500.0])


def config(**changes: Any) -> dict[str, Any]:
    return {
        "type": "diffusion",
        "n_obs_steps": 2,
        "horizon": 8,
        "n_action_steps": 4,
        "input_features": {
            "observation.environment_state": {"type": "ENV", "shape": [ENV]},
            "observation.state": {"type": "STATE", "shape": [STATE]},
        },
        "output_features": {"action": {"type": "ACTION", "shape": [ACTION]}},
        "normalization_mapping": {"VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ACTION": "MIN_MAX"},
        "n_groups": 8,
        "noise_scheduler_type": "DDIM",
        "num_train_timesteps": 20,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "epsilon",
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "num_inference_steps": 4,
        **changes,
    }


def write(folder: Path, *, old: bool = False, scaled: bool = True, **changes: Any) -> ReferenceUnet:
    folder.mkdir()
    torch.manual_seed(0)
    unet = ReferenceUnet(ACTION, 2 * (STATE + ENV), scaled=scaled, lerobot=True)
    weights = {f"diffusion.unet.{key}": value for key, value in unet.state_dict().items()}
    stats = {"observation.state": {"mean": MEAN, "std": STD}, "action": {"min": LOW, "max": HIGH}}
    if old:
        for key, each in stats.items():
            prefix = "normalize_inputs" if key != "action" else "unnormalize_outputs"
            weights |= {f"{prefix}.buffer_{key.replace('.', '_')}.{k}": v.clone() for k, v in each.items()}
    else:
        name = "policy_preprocessor_step_3_normalizer_processor.safetensors"
        steps = [{"registry_name": "normalizer_processor", "config": {}, "state_file": name}]
        (folder / "policy_preprocessor.json").write_text(json.dumps({"name": "p", "steps": steps}))
        save_file({f"{key}.{k}": v for key, each in stats.items() for k, v in each.items()}, folder / name)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config(**changes)))
    return unet.eval()


@pytest.mark.parametrize(
    ("old", "scaled", "method", "steps"), [(False, True, "ddim", 8), (True, False, "ddpm", 5)]
)
def test_the_imported_folder_draws_what_lerobot_draws_in_every_engine(
    tmp_path: Path, old: bool, scaled: bool, method: str, steps: int
) -> None:
    unet = write(
        tmp_path / "their",
        old=old,
        scaled=scaled,
        noise_scheduler_type=method.upper(),
        num_inference_steps=steps,
    )
    assert main(["import", "lerobot", str(tmp_path / "their"), str(tmp_path / "ours")]) == 0
    rng = np.random.default_rng(1)
    state = rng.normal(size=(2, STATE)).astype(np.float32)
    env = rng.normal(size=(2, ENV)).astype(np.float32)
    noise = sampling_noise(0, 0, (8, ACTION))
    observed = torch.cat([(torch.from_numpy(state) - MEAN) / STD, torch.from_numpy(env)], -1).flatten()[None]
    wanted = draw(unet, observed, torch.from_numpy(noise)[None], method, steps, num_train_timesteps=20)[0]
    wanted = (wanted + 1) / 2 * (HIGH - LOW) + LOW
    for name in ("native", "onnx", "torch"):
        engine = load_engine(tmp_path / "ours", name)
        found = engine.sample({"state": state, "environment_state": env}, noise)
        np.testing.assert_allclose(found / HIGH.numpy(), wanted / HIGH, atol=1e-4)


def test_the_derived_task_is_refused_until_its_topics_are_filled_in(
    tmp_path: Path, pieces_exported_once: None
) -> None:
    write(tmp_path / "their")
    assert (
        main(["import", "lerobot", str(tmp_path / "their"), str(tmp_path / "ours"), "--rate-hz", "20"]) == 0
    )
    path = tmp_path / "ours" / TASK_FILE
    task = load_task(path)
    assert (task.rate_hz, task.horizon, task.n_obs_steps, task.n_action_steps) == (20.0, 8, 2, 4)
    with pytest.raises(UserError, match=r"observations.state.topic is /fill_in/state"):
        task.require_filled_in()
    path.write_text(path.read_text().replace("/fill_in/", "/robot/"))
    load_task(path).require_filled_in()
    assert main(["import", "lerobot", str(tmp_path / "their"), str(tmp_path / "ours")]) == 2
    path.write_text(path.read_text().replace("state_", "joint_"))
    load_task(path).require_same_policy(task)
    assert main(["import", "lerobot", str(tmp_path / "their"), str(tmp_path / "ours"), "--force"]) == 0
    assert "/robot/" in path.read_text(), "what somebody filled in is kept"


def test_a_task_of_ones_own_gives_the_names_and_then_says_what_each_value_is(tmp_path: Path) -> None:
    write(tmp_path / "their")
    data = load_lerobot(tmp_path / "their", "derived", 10.0).task.model_dump(mode="json")
    data["action"].update(topic="/arm/commands", names=["shoulder", "elbow"])
    for key, stream in data["observations"].items():
        stream["topic"] = f"/arm/{key}"
    data["observations"]["state"]["names"] = ["shoulder", "elbow", "wrist"]
    robot = TaskSpec.from_dict(data)
    policy = load_lerobot(tmp_path / "their", "imported", 10.0, robot)
    assert policy.task.action.names == ["shoulder", "elbow"]
    robot.require_same_policy(policy.task)
    data["observations"]["state"]["names"] = ["wrist", "elbow", "shoulder"]
    with pytest.raises(UserError, match=r"observations.state.names is \['wrist', 'elbow', 'shoulder'\]"):
        TaskSpec.from_dict(data).require_same_policy(policy.task)


def test_limits_are_the_range_that_was_learnt_from_whatever_the_normalisation() -> None:
    stats = {"mean": torch.tensor([1.0, 2.0]), "std": torch.tensor([0.5, 1.0])}
    low, high = lerobot._limits(stats, 2, "their")
    assert (low.tolist(), high.tolist()) == ([-0.5, -1.0], [2.5, 5.0])
    low, high = lerobot._limits(
        stats | {"min": torch.tensor([0.0, 0.0]), "max": torch.tensor([3.0, 4.0])}, 2, "their"
    )
    assert (low.tolist(), high.tolist()) == ([0.0, 0.0], [3.0, 4.0])
    with pytest.raises(UserError, match="nothing tells the range of the actions; give a task"):
        lerobot._limits({}, 2, "their")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "act"}, "policy type: got 'act', supported is 'diffusion'"),
        ({"beta_schedule": "linear"}, "beta_schedule: got 'linear'"),
        ({"n_groups": 4}, "n_groups: got 4, supported is 8"),
        ({"n_obs_steps": 3}, "the network takes 14 values as its observation"),
        ({"clip_sample_range": 2.0}, "clip_sample_range: got 2.0"),
        ({"noise_scheduler_type": "EULER"}, "method: got 'euler'"),
        (
            {"noise_scheduler_type": "DDPM", "num_inference_steps": 6},
            "num_inference_steps 6 does not divide num_train_timesteps 20",
        ),
        (
            {"input_features": {"observation.tactile": {"type": "STATE", "shape": [3]}}},
            "input observation.tactile: supported are",
        ),
        ({"normalization_mapping": {"STATE": "QUANTILES"}}, "got 'QUANTILES', supported: MIN_MAX"),
        ({"normalization_mapping": {"STATE": "MIN_MAX"}}, "needs min and max, found"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path / "their", **changes)
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        load_lerobot(tmp_path / "their", "imported", 10.0)


def test_files_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config.json: No such file"):
        load_lerobot(tmp_path, "imported", 10.0)
    write(tmp_path / "their")
    weights = tmp_path / "their" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match=r"model.safetensors: is not readable"):
        load_lerobot(tmp_path / "their", "imported", 10.0)
    weights.unlink()
    with pytest.raises(UserError, match=r"model.safetensors: is not there"):
        load_lerobot(tmp_path / "their", "imported", 10.0)
