"""Draws that begin with the running chunk: fewer steps, the same in every engine, and off unless a model says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from dp_ros.inference.sampler import SamplerSpec, denoising_steps, steps_left_out, warm_noise, warm_steps
from dp_ros.runtime.controller import Controller
from dp_ros.runtime.execution import Execution
from dp_ros.runtime.prefix import Prefix
from dp_ros.task import load_task

PLAN = Prefix.from_plan(np.linspace([100.0, 400.0], [300.0, 200.0], 12), n_known=3, horizon=16)
BEGIN_ONLY = Prefix(PLAN.actions, np.zeros(16, np.float32), warm=True)


def test_a_sampler_without_a_warm_start_is_written_as_before() -> None:
    assert "warm_start" not in SamplerSpec().model_dump()
    assert SamplerSpec(warm_start=0.5).model_dump()["warm_start"] == 0.5
    assert SamplerSpec.model_validate_json(SamplerSpec(warm_start=0.5).model_dump_json()).warm_start == 0.5
    with pytest.raises(ValidationError):
        SamplerSpec(warm_start=1.0)


def test_a_share_of_the_steps_is_left_out_and_one_at_least_is_made() -> None:
    assert [steps_left_out(SamplerSpec(warm_start=share)) for share in (0, 0.05, 0.3, 0.6, 0.99)] == [
        0,
        0,
        3,
        6,
        9,
    ]
    assert steps_left_out(SamplerSpec(warm_start=0.5), 1) == 0
    sampler = SamplerSpec(method="dpmsolver++", num_inference_steps=8, warm_start=0.5)
    left = warm_steps(sampler)
    assert left[1:] == denoising_steps(sampler)[5:]
    assert left[0].momentum == 0.0 != denoising_steps(sampler)[4].momentum, (
        "there is no estimate before the first"
    )


def test_a_draw_begins_with_the_plan_noised_as_in_training() -> None:
    step = denoising_steps(SamplerSpec())[6]
    assert warm_noise(0.5, 0.0, step) == pytest.approx(0.5 * np.sqrt(1 - step.noise_share))
    assert warm_noise(0.0, 1.0, step) == pytest.approx(np.sqrt(step.noise_share))


@pytest.mark.parametrize(
    ("sampler", "names"),
    [
        ({"temperature": 0.7}, ("native", "onnx", "torch")),
        ({"method": "dpmsolver++"}, ("native", "onnx", "torch")),
        ({"method": "ddpm", "num_inference_steps": 20}, ("native", "torch")),
    ],
    ids=str,
)
def test_all_engines_begin_with_the_plan(
    sampler: dict[str, Any], names: tuple[str, ...], tmp_path: Path, pieces_exported_once: None
) -> None:
    pytest.importorskip("torch")
    from dp_ros.inference import export
    from dp_ros.inference.load import load_engine
    from dp_ros.inference.sampler import sampling_noise
    from test.inference.test_native import folder_of
    from test.policies.small import small_policy

    policy = small_policy(**{"num_inference_steps": 8, "warm_start": 0.5, **sampler})
    if "onnx" in names:
        assert export.export_policy(policy, tmp_path / "m").sampler.warm_start == 0.5
    else:
        folder_of(policy, tmp_path / "m")
    engines = {name: load_engine(tmp_path / "m", name) for name in names}
    observations = export.made_up_observations(policy, 3)
    noises = [sampling_noise(0, k, (16, 2)) for k in range(3)]
    for observation, noise in zip(observations, noises, strict=True):
        for prefix in (None, replace(PLAN, warm=False), PLAN, BEGIN_ONLY):
            drawn = {name: engine.sample(observation, noise, prefix) for name, engine in engines.items()}
            for name in names:
                assert np.abs(drawn[name] - drawn["torch"]).max() / 500 < 1e-4, (name, prefix)
            if prefix is not None:
                cold = engines["native"].sample(observation, noise, replace(prefix, warm=False))
                assert (np.abs(drawn["native"] - cold).max() > 0.5) == bool(prefix.warm)
    prefixes = [PLAN, Prefix.none((16, 2)), BEGIN_ONLY]
    stacked = {key: np.stack([each[key] for each in observations]) for key in observations[0]}
    for engine in engines.values():
        alone = [engine.sample(*each) for each in zip(observations, noises, prefixes, strict=True)]
        together = engine.sample_batch(stacked, np.stack(noises), Prefix.stacked(prefixes))
        assert np.abs(together - alone).max() / 500 < 1e-5, "also where not all of a batch do"


def test_fewer_steps_are_made(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from test.policies.small import small_policy

    policy, calls = small_policy(num_inference_steps=10, warm_start=0.7), []
    policy.unet.register_forward_hook(lambda *_: calls.append(1))
    seen = {key: torch.zeros(1, 2, *spec.shape) for key, spec in policy.task.observations.items()}
    prefix = torch.from_numpy(PLAN.actions)[None], torch.from_numpy(PLAN.weights)[None]
    policy.sample(seen, torch.zeros(1, 16, 2), prefix=prefix, warm=True)
    assert len(calls) == 3


@pytest.mark.parametrize("mode", ["replace", "rtc", "ensemble"])
def test_the_runtime_gives_the_running_chunk_to_a_model_that_begins_with_it(mode: Any) -> None:
    task = load_task("pusht_state")
    planned = {}
    for warm_start in (False, True):
        execution = Execution(mode, 4, warm_start=warm_start)
        controller = Controller(task, immediate=True, execution=execution)
        prefixes = []
        for k in range(8):
            now_ns = (100 + k) * task.dt_ns
            for key, spec in task.observations.items():
                controller.buffer.add(key, now_ns, np.full(spec.shape, 200.0 + k, np.float32))
            if k == 1:
                controller.start(now_ns, seed=0, time_limit_s=60.0)
            request = controller.tick(now_ns).request
            if request is not None:
                actions = 200.0 + np.arange(k - 1, k + 15)[:, None] * np.ones(2)
                controller.accept(request, actions, now_ns=now_ns, inference_ns=0)
                prefixes.append(request.prefix)
        assert prefixes[0] is None, "nothing runs yet"
        planned[warm_start] = prefixes[1]
    assert (planned[False] is None) == (mode != "rtc")
    plan = planned[True]
    assert plan is not None
    assert plan.warm
    np.testing.assert_allclose(
        plan.actions[:12, 0], 200.0 + np.arange(4, 16), err_msg="shifted by four steps"
    )
    assert (plan.actions[12:] == plan.actions[11]).all(), "and what it does not reach is held"
    assert plan.weights.any() == (mode == "rtc")
