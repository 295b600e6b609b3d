"""LeRobot's policies on pictures become model folders that draw the same actions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dp_ros.cli.import_model import TASK_FILE, about_scaling
from dp_ros.cli.main import main
from dp_ros.errors import UserError
from dp_ros.importing.lerobot import load_lerobot
from dp_ros.inference.load import choose_engine, load_engine
from dp_ros.inference.manifest import load_manifest
from dp_ros.inference.sampler import sampling_noise
from dp_ros.policies.diffusion import DiffusionPolicy
from dp_ros.task import TaskSpec, load_task

from .reference import ReferenceUnet, draw
from .reference_vision import LerobotEncoder, as_shares, cropped, observed, pictures_of

STATE, ENV, ACTION, POINTS = 3, 4, 2, 4
LOW, HIGH = torch.tensor([-1.0, 10.0]), torch.tensor([3.0, 500.0])
MEAN, STD = torch.tensor([0.5, 0.4, 0.6]), torch.tensor([0.2, 0.3, 0.25])
CAMERAS = ("observation.images.front", "observation.images.wrist")


class Their:
    """A policy of LeRobot with random weights, written as a folder."""

    def __init__(
        self,
        folder: Path,
        size: tuple[int, int],
        crop: tuple[int, int] | None,
        *,
        batch: bool,
        shared: bool,
        **changes: Any,
    ) -> None:
        torch.manual_seed(0)
        self.size, self.crop, self.shared = size, crop, shared
        made = [LerobotEncoder(crop or size, POINTS, batch).eval() for _ in range(1 if shared else 2)]
        self.encoders = made * 2 if shared else made
        self.unet = ReferenceUnet(ACTION, STATE + ENV + 2 * 2 * POINTS, scaled=True, lerobot=True).eval()
        weights = {f"diffusion.unet.{key}": value for key, value in self.unet.state_dict().items()}
        module = made[0] if shared else nn.ModuleList(made)
        weights |= {f"diffusion.rgb_encoder.{key}": value for key, value in module.state_dict().items()}
        stats = {"observation.state.min": -torch.ones(STATE), "observation.state.max": torch.ones(STATE)}
        stats |= {"action.min": LOW, "action.max": HIGH}
        for camera in CAMERAS:
            stats |= {
                f"{camera}.mean": MEAN.view(3, 1, 1).clone(),
                f"{camera}.std": STD.view(3, 1, 1).clone(),
            }
        picture = {"type": "VISUAL", "shape": [3, *size]}
        config = {
            "type": "diffusion",
            "n_obs_steps": 1,
            "horizon": 8,
            "n_action_steps": 4,
            "input_features": {
                CAMERAS[0]: picture,
                "observation.environment_state": {"type": "ENV", "shape": [ENV]},
                CAMERAS[1]: picture,
                "observation.state": {"type": "STATE", "shape": [STATE]},
            },
            "output_features": {"action": {"type": "ACTION", "shape": [ACTION]}},
            "normalization_mapping": {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ACTION": "MIN_MAX"},
            "vision_backbone": "resnet18",
            "crop_shape": crop,
            "n_groups": 8,
            "noise_scheduler_type": "DDIM",
            "num_train_timesteps": 20,
            "beta_schedule": "squaredcos_cap_v2",
            "num_inference_steps": 2,
            **changes,
        }
        name = "policy_preprocessor_step_3_normalizer_processor.safetensors"
        steps = [{"registry_name": "normalizer_processor", "config": {}, "state_file": name}]
        folder.mkdir()
        (folder / "policy_preprocessor.json").write_text(json.dumps({"name": "p", "steps": steps}))
        (folder / "config.json").write_text(json.dumps(config))
        save_file(stats, folder / name)
        save_file({key: value.contiguous() for key, value in weights.items()}, folder / "model.safetensors")

    def observation(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(1)
        return {
            "state": rng.uniform(-1, 1, (1, STATE)).astype(np.float32),
            "images_front": pictures_of(2, 1, *self.size),
            "images_wrist": pictures_of(3, 1, *self.size),
            "environment_state": rng.normal(size=(1, ENV)).astype(np.float32),
        }

    @torch.no_grad()
    def condition(self) -> torch.Tensor:
        """What the U-Net is told of the observation, (1, O): the state, the cameras, the environment."""
        streams: dict[str, torch.Tensor] = {}
        for key, value in self.observation().items():
            if not key.startswith("images"):
                streams[key] = torch.from_numpy(value)
                continue
            pixels = (as_shares(value) - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
            encoder = self.encoders[key == "images_wrist"]
            streams[key] = encoder(cropped(pixels, self.crop) if self.crop else pixels)
        return observed(streams)


def test_pictures_are_seen_as_lerobot_sees_them_in_every_engine(tmp_path: Path) -> None:
    """Its present default: an encoder a camera, with batch norm."""
    their = Their(tmp_path / "their", (71, 80), (64, 72), batch=True, shared=False)
    assert main(["import", "lerobot", str(tmp_path / "their"), str(tmp_path / "ours")]) == 0
    noise = sampling_noise(0, 0, (8, ACTION))
    drawn = draw(
        their.unet, their.condition(), torch.from_numpy(noise)[None], "ddim", 2, num_train_timesteps=20
    )
    wanted = (drawn[0] + 1) / 2 * (HIGH - LOW) + LOW
    assert choose_engine(load_manifest(tmp_path / "ours")) == "native"
    for name in ("native", "onnx", "torch"):
        found = load_engine(tmp_path / "ours", name).sample(their.observation(), noise)
        np.testing.assert_allclose(found / HIGH.numpy(), wanted / HIGH, atol=1e-4)
    task = load_task(tmp_path / "ours" / TASK_FILE)
    assert list(task.observations) == ["state", "images_front", "images_wrist", "environment_state"]
    camera = task.observations["images_wrist"]
    assert (camera.topic, camera.encoding, camera.shape, camera.crop, camera.resize) == (
        "/fill_in/images_wrist",
        "rgb8",
        (71, 80, 3),
        (64, 72),
        None,
    )


@pytest.mark.parametrize(
    ("size", "crop", "batch", "shared"),
    [
        ((71, 80), (64, 72), True, False),
        ((40, 70), (32, 64), False, True),
        ((67, 99), (64, 96), False, False),
        ((32, 64), None, True, True),
    ],
    ids=["batch norm", "maps of one row, shared, group norm", "crop off the middle", "whole, shared"],
)
def test_the_network_is_told_the_same_of_a_picture(
    tmp_path: Path, size: tuple[int, int], crop: tuple[int, int] | None, batch: bool, shared: bool
) -> None:
    their = Their(tmp_path / "their", size, crop, batch=batch, shared=shared)
    policy = load_lerobot(tmp_path / "their", "imported", 10.0)
    assert isinstance(policy, DiffusionPolicy)
    seen = {key: torch.from_numpy(value)[None] for key, value in their.observation().items()}
    with torch.inference_mode():
        found = policy.encode(seen)
    torch.testing.assert_close(found, their.condition(), atol=1e-5, rtol=1e-4)


def test_pictures_that_the_policy_scales_are_scaled_by_the_task(tmp_path: Path) -> None:
    scaled = {"resize_shape": [64, 80], "crop_ratio": 0.9, "crop_shape": None}
    Their(tmp_path / "their", (128, 160), (57, 72), batch=False, shared=True, **scaled)
    task = load_lerobot(tmp_path / "their", "imported", 10.0).task
    camera = task.observations["images_front"]
    assert (camera.shape, camera.resize, camera.crop) == ((64, 80, 3), (64, 80), (57, 72))
    (line,) = about_scaling(task)
    assert line.startswith("images_front, images_wrist: the policy scales its pictures; here the task does")
    assert not about_scaling(load_task("pusht_state"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_backbone": "resnet34"}, "vision_backbone: got 'resnet34', supported is 'resnet18'"),
        ({"crop_shape": [90, 64]}, r"images.front: crop_shape: got \[90, 64\], expected at most \[64, 64\]"),
        ({"resize_shape": 64}, "resize_shape: got 64, expected 2 whole numbers"),
    ],
)
def test_what_of_pictures_is_not_supported_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    Their(tmp_path / "their", (64, 64), None, batch=False, shared=True, **changes)
    with pytest.raises(UserError, match=message):
        load_lerobot(tmp_path / "their", "imported", 10.0)


def reordered(task: TaskSpec, names: dict[str, str]) -> TaskSpec:
    """A task with these of its streams, {name: name in it}, in this order."""
    return task.model_copy(
        update={"observations": {new: task.observations[old] for new, old in names.items()}}
    )


def test_a_task_may_have_its_streams_in_another_order(tmp_path: Path) -> None:
    their = Their(tmp_path / "their", (40, 48), (32, 40), batch=False, shared=False)
    policy = load_lerobot(tmp_path / "their", "imported", 10.0)
    seen = {key: torch.from_numpy(value)[None] for key, value in their.observation().items()}
    noise = torch.from_numpy(sampling_noise(0, 0, (8, ACTION)))[None]
    wanted = policy.sample(seen, noise)
    order = ["images_wrist", "environment_state", "images_front", "state"]
    task = reordered(policy.task, {key: key for key in order})
    other = load_lerobot(tmp_path / "their", "imported", 10.0, task)
    torch.testing.assert_close(other.sample(seen, noise), wanted, atol=1e-3, rtol=1e-5)
    with pytest.raises(
        UserError, match="observes wrist: rgb8 40x48 cropped to 32x40, environment_state: 4, "
    ):
        names = dict(zip(["wrist", *order[1:]], order, strict=True))
        load_lerobot(tmp_path / "their", "imported", 10.0, reordered(policy.task, names))


def test_a_task_must_have_the_crop_of_the_network(tmp_path: Path) -> None:
    Their(tmp_path / "their", (64, 64), (48, 48), batch=False, shared=True)
    with pytest.raises(
        UserError,
        match=r"task pusht_image: .*takes, in this order, state: 3, images_front: rgb8 64x64 cropped to 48x48",
    ):
        timing = {"n_obs_steps": 1, "horizon": 8, "n_action_steps": 4}
        task = load_task("pusht_image").model_copy(update=timing)
        load_lerobot(tmp_path / "their", "imported", 10.0, task)
