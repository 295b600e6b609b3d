from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dp_ros.errors import UserError  # noqa: E402
from dp_ros.inference.direct_graph import direct_inputs  # noqa: E402
from dp_ros.inference.export import export_policy  # noqa: E402
from dp_ros.inference.load import load_engine  # noqa: E402
from dp_ros.inference.manifest import ONNX_FILE, load_manifest  # noqa: E402
from dp_ros.inference.sampler import sampling_noise  # noqa: E402
from dp_ros.inference.torch import load_policy  # noqa: E402
from test.policies.baselines.toy import SMALL, draws, toy_policy  # noqa: E402
from test.policies.small import observation_batch  # noqa: E402


@pytest.mark.parametrize("kind", SMALL)
def test_an_exported_policy_draws_what_it_drew_before(kind: str, tmp_path: Path) -> None:
    policy = toy_policy(SMALL[kind]).eval()
    export_policy(policy, tmp_path / kind)
    manifest = load_manifest(tmp_path / kind)
    assert (manifest.network, manifest.prefix) == (SMALL[kind], "none")
    assert torch.equal(draws(load_policy(tmp_path / kind, manifest).eval(), 4), draws(policy, 4))  # type: ignore[arg-type]

    engine = load_engine(tmp_path / kind)
    assert engine.name == ("torch" if kind == "ibc" else "onnx")
    assert (ONNX_FILE in manifest.files) == (kind != "ibc")
    for k in range(4):
        observation, noise = observation_batch(1, seed=k), sampling_noise(0, k, (4, 2))
        wanted = policy.sample(observation, torch.from_numpy(noise)[None])[0].numpy()
        drawn = engine.sample({key: value[0].numpy() for key, value in observation.items()}, noise)
        np.testing.assert_allclose(drawn, wanted, rtol=0, atol=0.05)


def test_denoising_steps_mean_nothing_to_it(tmp_path: Path) -> None:
    export_policy(toy_policy(SMALL["ibc"]).eval(), tmp_path / "ibc")
    with pytest.raises(
        UserError, match="num_inference_steps: got 5, but a ibc policy has no denoising steps"
    ):
        load_engine(tmp_path / "ibc", num_inference_steps=5)


def test_a_stream_called_noise_is_refused() -> None:
    policy = toy_policy(SMALL["regression"])
    streams = {
        ("noise" if key == "agent_pos" else key): spec for key, spec in policy.task.observations.items()
    }
    policy.task = policy.task.model_copy(update={"observations": streams})
    with pytest.raises(UserError, match="observation noise has the name of another input"):
        direct_inputs(policy)
