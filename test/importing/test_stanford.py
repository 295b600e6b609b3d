"""Checkpoints of the Diffusion Policy reference become model folders that draw the same actions."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dp_ros.cli.main import main
from dp_ros.errors import UserError
from dp_ros.importing.policy import sampler_of
from dp_ros.importing.stanford import load_stanford
from dp_ros.inference.load import load_engine
from dp_ros.inference.sampler import sampling_noise

from .reference import ReferenceUnet, draw

OBS, ACTION = 5, 2
SCALES = {"obs": torch.linspace(0.5, 2.0, OBS), "action": torch.tensor([0.01, 0.5])}
OFFSETS = {"obs": torch.linspace(-1.0, 1.0, OBS), "action": torch.tensor([-2.0, 0.25])}


def write(
    path: Path, wrap: Any = dict, scales: Any = SCALES, offsets: Any = OFFSETS, **changes: Any
) -> ReferenceUnet:
    torch.manual_seed(0)
    unet = ReferenceUnet(ACTION, 2 * len(scales["obs"]), scaled=True, lerobot=False)
    scheduler = {
        "num_train_timesteps": 20,
        "beta_schedule": "squaredcos_cap_v2",
        "variance_type": "fixed_small",
    }
    scheduler |= {"_target_": "diffusers.schedulers.scheduling_ddpm.DDPMScheduler", "clip_sample": True}
    config: dict[str, Any] = {
        "horizon": 8,
        "n_obs_steps": 2,
        "n_action_steps": 4,
        "n_latency_steps": 0,
        "obs_as_global_cond": True,
        "policy": {
            "_target_": "diffusion_policy.policy.diffusion_unet_lowdim_policy.DiffusionUnetLowdimPolicy",
            "model": {"n_groups": 8, "input_dim": "${eval: 1 + 1}"},
            "noise_scheduler": scheduler,
            "horizon": "${horizon}",
            "n_action_steps": "${eval:'${n_action_steps}+${n_latency_steps}'}",
            "obs_as_global_cond": "${obs_as_global_cond}",
            "oa_step_convention": True,
            "num_inference_steps": 5,
        },
    }
    config |= {key: value for key, value in changes.items() if key in config}
    config["policy"] |= {key: value for key, value in changes.items() if key not in config}
    state = {f"model.{key}": value for key, value in unet.state_dict().items()}
    for key in scales:
        state[f"normalizer.params_dict.{key}.scale"] = scales[key]
        state[f"normalizer.params_dict.{key}.offset"] = offsets[key]
    state["mask_generator._dummy_variable"] = torch.zeros(0)
    payload = {"cfg": wrap(config), "state_dicts": {"ema_model": state}, "pickles": {"epoch": b"not opened"}}
    torch.save(payload, path)
    return unet.eval()


def test_the_imported_folder_draws_what_the_reference_draws_in_every_engine(tmp_path: Path) -> None:
    unet = write(tmp_path / "a.ckpt")
    assert main(["import", "stanford", str(tmp_path / "a.ckpt"), str(tmp_path / "ours")]) == 0
    obs = np.random.default_rng(1).normal(size=(2, OBS)).astype(np.float32)
    noise = sampling_noise(0, 0, (8, ACTION))
    observed = (torch.from_numpy(obs) * SCALES["obs"] + OFFSETS["obs"]).flatten()[None]
    drawn = draw(unet, observed, torch.from_numpy(noise)[None], "ddpm", 5, num_train_timesteps=20)[0]
    for name in ("native", "onnx", "torch"):
        found = load_engine(tmp_path / "ours", name).sample({"obs": obs}, noise)
        wanted = (drawn - OFFSETS["action"]) / SCALES["action"]
        np.testing.assert_allclose(found * SCALES["action"].numpy(), wanted * SCALES["action"], atol=1e-4)


def test_their_pusht_policy_runs_in_the_simulated_robot(tmp_path: Path) -> None:
    """What they observe is one vector, keypoints and then the agent, and here two streams."""
    scales = {"obs": torch.linspace(0.003, 0.005, 20), "action": torch.tensor([0.004, 0.005])}
    offsets = {"obs": torch.linspace(-1.2, -0.9, 20), "action": torch.tensor([-1.0, -1.1])}
    sizes = {"horizon": 16, "n_action_steps": 8}
    unet = write(tmp_path / "a.ckpt", scales=scales, offsets=offsets, **sizes)
    assert (
        main(["import", "stanford", str(tmp_path / "a.ckpt"), str(tmp_path / "m"), "--task", "pusht_state"])
        == 0
    )
    draws = np.random.default_rng(2)
    keypoint, agent = (draws.uniform(50, 450, size=(2, n)).astype(np.float32) for n in (18, 2))
    noise = sampling_noise(0, 0, (16, ACTION))
    both = torch.from_numpy(np.concatenate([keypoint, agent], axis=1))
    observed = (both * scales["obs"] + offsets["obs"]).flatten()[None]
    drawn = draw(unet, observed, torch.from_numpy(noise)[None], "ddpm", 5, num_train_timesteps=20)[0]
    found = load_engine(tmp_path / "m", "onnx").sample({"keypoint": keypoint, "agent_pos": agent}, noise)
    np.testing.assert_allclose(found * scales["action"].numpy() + offsets["action"].numpy(), drawn, atol=1e-4)
    assert main(["eval", "--model", str(tmp_path / "m"), "--seeds", "0:1", "--processes", "1"]) == 0


class _Harmful:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.ckpt", _Harmful)
    with pytest.raises(UserError, match=r"refused, because reading it would run code"):
        load_stanford(tmp_path / "a.ckpt", "imported", 10.0)
    assert not (tmp_path / "ran").exists()


def test_a_configuration_of_omegaconf_is_read_as_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("omegaconf.dictconfig")
    kind = type("DictConfig", (), {"__module__": module.__name__})
    module.DictConfig = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def wrap(config: dict[str, Any]) -> Any:
        made = kind()
        made.__dict__.update({"_content": config, "_parent": None})
        return made

    write(tmp_path / "a.ckpt", wrap)
    assert load_stanford(tmp_path / "a.ckpt", "imported", 10.0).task.horizon == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_target_": "other.Policy"}, "_target_: got 'other.Policy'"),
        ({"num_inference_steps": 6}, "num_inference_steps 6 does not divide num_train_timesteps 20"),
        ({"oa_step_convention": False}, "oa_step_convention: got False, supported is True"),
        ({"obs_as_global_cond": False}, "obs_as_global_cond: got False"),
        ({"horizon": None}, "horizon: got None, expected a whole number"),
        ({"noise_scheduler": {"_target_": "x.PNDM"}}, "noise_scheduler: got 'PNDM'"),
        ({"eta": 1.0}, "policy.eta: got 1.0, supported is 0.0"),
        ({"use_clipped_model_output": True}, "use_clipped_model_output: got True, supported is False"),
        ({"guidance": 2.0}, "policy.guidance: is not known, so it would be given to the noise scheduler"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path / "a.ckpt", **changes)
    with pytest.raises(UserError, match=message):
        load_stanford(tmp_path / "a.ckpt", "imported", 10.0)


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("set_alpha_to_one", False, "True"),
        ("steps_offset", 1, "0"),
        ("timestep_spacing", "trailing", "'leading'"),
        ("thresholding", True, "False"),
        ("rescale_betas_zero_snr", True, "False"),
        ("trained_betas", [0.1, 0.2], "None"),
    ],
)
def test_options_of_the_scheduler_that_change_the_actions_are_refused(
    option: str, value: Any, wanted: str
) -> None:
    scheduler = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 20}
    defaults = {"set_alpha_to_one": True, "steps_offset": 0, "timestep_spacing": "leading"}
    assert sampler_of(scheduler | defaults, "ddim", 8, "their").num_inference_steps == 8
    with pytest.raises(UserError, match=f"their: noise scheduler, {option}: got .*, supported is {wanted}"):
        sampler_of(scheduler | {option: value}, "ddim", 4, "their")


def test_a_file_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a.ckpt: is not a file"):
        load_stanford(tmp_path / "a.ckpt", "imported", 10.0)
    (tmp_path / "a.ckpt").write_bytes(b"version https://git-lfs")
    with pytest.raises(UserError, match=r"a.ckpt: "):
        load_stanford(tmp_path / "a.ckpt", "imported", 10.0)
