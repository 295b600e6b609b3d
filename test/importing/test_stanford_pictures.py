"""The reference's policies on pictures, with robomimic's encoder and with its own, become model folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dp_ros.cli.import_model import TASK_FILE
from dp_ros.cli.main import main
from dp_ros.errors import UserError
from dp_ros.importing.stanford import load_stanford
from dp_ros.inference.load import load_engine
from dp_ros.inference.sampler import sampling_noise
from dp_ros.policies.diffusion import DiffusionPolicy
from dp_ros.task import load_task

from .reference import ReferenceUnet, draw
from .reference_vision import ResNet18, RobomimicEncoder, as_shares, cropped, observed, pictures_of

VECTOR, ACTION, POINTS, FEATURES = 3, 2, 4, 10
HYBRID = "diffusion_policy.policy.diffusion_unet_hybrid_image_policy.DiffusionUnetHybridImagePolicy"
IMAGE = "diffusion_policy.policy.diffusion_unet_image_policy.DiffusionUnetImagePolicy"
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


class Their:
    """A policy of the reference with random weights, written as a checkpoint.

    Its cameras are called so that their order in `shape_meta` and sorted differ, and a vector lies between them.
    """

    def __init__(
        self,
        path: Path,
        *,
        hybrid: bool,
        batch: bool,
        shared: bool = False,
        cameras: tuple[str, ...] = ("wrist", "front"),
        crop: tuple[int, int] | None = (48, 64),
        imagenet: bool = False,
        **changes: Any,
    ) -> None:
        torch.manual_seed(0)
        self.hybrid, self.imagenet, self.crop, self.size = hybrid, imagenet, crop, (55, 75)
        self.order = [cameras[0], "pose", *cameras[1:]] if hybrid else [*sorted(cameras), "pose"]
        self.cameras = cameras
        size = crop or self.size
        made: dict[str, nn.Module] = {
            name: RobomimicEncoder(size, POINTS, FEATURES, batch) if hybrid else ResNet18(batch)
            for name in (("rgb",) if shared else cameras)
        }
        self.encoders = {name: made["rgb" if shared else name].eval() for name in cameras}
        n_features = len(cameras) * (FEATURES if hybrid else 512)
        self.unet = ReferenceUnet(ACTION, 2 * (VECTOR + n_features), scaled=True, lerobot=False).eval()
        prefix = "obs_encoder.obs_nets" if hybrid else "obs_encoder.key_model_map"
        state = {f"model.{key}": value for key, value in self.unet.state_dict().items()}
        for name, encoder in made.items():
            state |= {f"{prefix}.{name}.{key}": value for key, value in encoder.state_dict().items()}
        state["obs_encoder._dummy_variable"] = state["mask_generator._dummy_variable"] = torch.zeros(0)
        self.scale = {"pose": torch.tensor([0.5, 1.0, 2.0]), "action": torch.tensor([0.01, 0.5])}
        self.offset = {"pose": torch.tensor([0.1, -0.2, 0.3]), "action": torch.tensor([-2.0, 0.25])}
        self.scale |= {name: torch.tensor([2.0]) for name in cameras}
        self.offset |= {name: torch.tensor([-1.0]) for name in cameras}
        for key in self.scale:
            state[f"normalizer.params_dict.{key}.scale"] = self.scale[key]
            state[f"normalizer.params_dict.{key}.offset"] = self.offset[key]
        streams: dict[str, Any] = {cameras[0]: {"shape": [3, *self.size], "type": "rgb"}}
        streams["pose"] = {"shape": [VECTOR]}
        streams |= {name: {"shape": [3, *self.size], "type": "rgb"} for name in cameras[1:]}
        policy: dict[str, Any] = {
            "_target_": HYBRID if hybrid else IMAGE,
            "shape_meta": "${task.shape_meta}",
            "noise_scheduler": {
                "_target_": "diffusers.schedulers.scheduling_ddim.DDIMScheduler",
                "num_train_timesteps": 20,
                "beta_schedule": "squaredcos_cap_v2",
                "set_alpha_to_one": True,
                "steps_offset": 0,
            },
            "horizon": "${horizon}",
            "n_obs_steps": 2,
            "n_action_steps": "${eval:'${n_action_steps}+${n_latency_steps}'}",
            "num_inference_steps": 2,
            "down_dims": [16, 24],
        }
        if hybrid:
            policy |= {"crop_shape": crop, "eval_fixed_crop": True, "obs_encoder_group_norm": not batch}
        else:
            policy["obs_encoder"] = {"crop_shape": crop, "imagenet_norm": imagenet, "resize_shape": None}
        config = {"horizon": 8, "n_action_steps": 4, "n_latency_steps": 0, "policy": policy | changes}
        config["task"] = {"shape_meta": {"obs": streams, "action": {"shape": [ACTION]}}}
        torch.save({"cfg": config, "state_dicts": {"ema_model": state}}, path)

    def observation(self) -> dict[str, np.ndarray]:
        found = {name: pictures_of(k, 2, *self.size) for k, name in enumerate(self.cameras)}
        return found | {"pose": np.random.default_rng(1).normal(size=(2, VECTOR)).astype(np.float32)}

    @torch.no_grad()
    def condition(self) -> Tensor:
        """What the U-Net is told of the observation, (1, O)."""
        seen = self.observation()
        streams: dict[str, Tensor] = {}
        for key in self.order:
            if key == "pose":
                streams[key] = torch.from_numpy(seen[key]) * self.scale[key] + self.offset[key]
                continue
            pixels = as_shares(seen[key]) * self.scale[key] + self.offset[key]
            pixels = cropped(pixels, self.crop) if self.crop else pixels
            if self.imagenet:
                pixels = (pixels - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
            streams[key] = self.encoders[key](pixels)
        return observed(streams)


@pytest.mark.parametrize("kind", ["hybrid", "image"])
def test_pictures_are_seen_as_the_reference_sees_them_in_every_engine(tmp_path: Path, kind: str) -> None:
    hybrid = kind == "hybrid"
    their = Their(
        tmp_path / "a.ckpt", hybrid=hybrid, batch=not hybrid, imagenet=not hybrid, cameras=("image",)
    )
    assert main(["import", "stanford", str(tmp_path / "a.ckpt"), str(tmp_path / "ours")]) == 0
    noise = sampling_noise(0, 0, (8, ACTION))
    drawn = draw(
        their.unet, their.condition(), torch.from_numpy(noise)[None], "ddim", 2, num_train_timesteps=20
    )[0]
    wanted = ((drawn - their.offset["action"]) / their.scale["action"]).numpy()
    for name in ("native", "onnx", "torch"):
        found = load_engine(tmp_path / "ours", name).sample(their.observation(), noise)
        share = their.scale["action"].numpy()
        np.testing.assert_allclose(found * share, wanted * share, atol=1e-4)
    camera = load_task(tmp_path / "ours" / TASK_FILE).observations["image"]
    assert (camera.shape, camera.crop, camera.encoding) == ((55, 75, 3), (48, 64), "rgb8")


@pytest.mark.parametrize(
    "options",
    [
        {"hybrid": True, "batch": True},
        {"hybrid": True, "batch": False, "crop": None},
        {"hybrid": False, "batch": False},
        {"hybrid": False, "batch": True, "shared": True, "crop": None},
        {"hybrid": False, "batch": True, "imagenet": True},
    ],
    ids=["batch norm", "whole", "image, group norm", "image, one encoder", "image, ImageNet"],
)
def test_the_network_is_told_the_same_of_an_observation(tmp_path: Path, options: dict[str, Any]) -> None:
    their = Their(tmp_path / "a.ckpt", **options)
    policy = load_stanford(tmp_path / "a.ckpt", "imported", 10.0)
    assert isinstance(policy, DiffusionPolicy) and list(policy.task.observations) == their.order
    seen = {key: torch.from_numpy(value)[None] for key, value in their.observation().items()}
    with torch.inference_mode():
        found = policy.encode(seen)
    torch.testing.assert_close(found, their.condition(), atol=1e-5, rtol=1e-4)


def test_streams_of_a_task_are_told_apart_by_what_they_are(tmp_path: Path) -> None:
    their = Their(tmp_path / "a.ckpt", hybrid=True, batch=False, cameras=("image",))
    policy = load_stanford(tmp_path / "a.ckpt", "imported", 10.0)
    streams = policy.task.observations
    renamed = {"joints": streams["pose"], "camera": streams["image"]}
    task = policy.task.model_copy(update={"observations": renamed})
    other = load_stanford(tmp_path / "a.ckpt", "imported", 10.0, task)
    seen = {key: torch.from_numpy(value)[None] for key, value in their.observation().items()}
    noise = torch.from_numpy(sampling_noise(0, 0, (8, ACTION)))[None]
    found = other.sample({"camera": seen["image"], "joints": seen["pose"]}, noise)
    torch.testing.assert_close(found, policy.sample(seen, noise), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize(
    ("hybrid", "changes", "message"),
    [
        (True, {"eval_fixed_crop": False}, "eval_fixed_crop: got False, so the policy crops at random"),
        (True, {"obs_as_global_cond": False}, "obs_as_global_cond: got False, supported is True"),
        (True, {"eta": 1.0}, "policy.eta: got 1.0, supported is 0.0"),
        (True, {"oa_step_convention": True}, "oa_step_convention: is not known"),
        (True, {"shape_meta": {"obs": {"pose": {"shape": [3]}}}}, "shape_meta.obs: has no rgb"),
        (
            True,
            {"shape_meta": {"obs": {"depth": {"type": "depth"}}}},
            "obs.depth: expected the type rgb or low_dim",
        ),
        (True, {"shape_meta": "${nowhere}"}, "shape_meta.obs: got NoneType"),
        (False, {"obs_encoder": {"crop_shape": [48]}}, r"crop_shape: got \[48\], expected 2 whole numbers"),
        (False, {"obs_encoder": None}, "policy.obs_encoder: got NoneType, expected a mapping"),
    ],
)
def test_what_is_not_supported_is_named(
    tmp_path: Path, hybrid: bool, changes: dict[str, Any], message: str
) -> None:
    Their(tmp_path / "a.ckpt", hybrid=hybrid, batch=False, cameras=("image",), **changes)
    with pytest.raises(UserError, match=message):
        load_stanford(tmp_path / "a.ckpt", "imported", 10.0)
