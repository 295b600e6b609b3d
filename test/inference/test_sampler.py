from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from dp_ros.inference.sampler import (
    LOWEST_LOG_RATIO,
    SamplerSpec,
    denoising_steps,
    sampling_noise,
    signal_shares,
    step_noise,
)

PINNED = [[-3.0019383430480957, -0.3803952634334564], [1.0992686748504639, -0.9002777934074402]]
#: By how much a step may differ from that of diffusers.
STEP_TOLERANCE = 1e-5
PINNED_STEP = [1.7102687358856201, -0.9426621198654175]


def unclipped(prediction: str, clip: bool = False) -> float:
    """Relative tolerance: an estimate from noise alone that is not clipped is hundreds of times what it should be."""
    return STEP_TOLERANCE if prediction == "epsilon" and not clip else 0.0


def test_the_schedule_ends_almost_without_signal() -> None:
    shares = signal_shares(SamplerSpec())
    assert shares.shape == (100,)
    assert (np.diff(shares) < 0).all()
    assert shares[0] > 0.999
    assert shares[-1] < 1e-5


def test_signal_shares_are_those_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2")
    np.testing.assert_allclose(
        signal_shares(SamplerSpec()), scheduler.alphas_cumprod.numpy(), rtol=1e-4, atol=1e-9
    )


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("n", [1, 3, 10, 16, 100])
@pytest.mark.parametrize("clip", [True, False])
def test_a_loop_over_the_coefficients_is_the_loop_of_diffusers(prediction: str, n: int, clip: bool) -> None:
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=100,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction,
        clip_sample=clip,
        set_alpha_to_one=True,
        steps_offset=0,
    )
    scheduler.set_timesteps(n)
    steps = denoising_steps(SamplerSpec(prediction=prediction, clip_sample=clip), n)
    assert [step.level for step in steps] == scheduler.timesteps.tolist()

    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 2))
    expected = torch.from_numpy(x)
    for step in steps:
        p = 0.5 * x + 0.1 * rng.standard_normal((16, 2))  # stands for the network
        clean = x * step.clean_x + p * step.clean_p
        noise = x * step.noise_x + p * step.noise_p
        if clip:
            clean = clean.clip(-1, 1)
        expected = scheduler.step(torch.from_numpy(p), step.level, expected).prev_sample
        x = clean * step.next_clean + noise * step.next_noise
        np.testing.assert_allclose(x, expected.numpy(), rtol=unclipped(prediction, clip), atol=STEP_TOLERANCE)
        x = expected.numpy()


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("n", [1, 7, 100])
@pytest.mark.parametrize("clip", [True, False])
def test_ddpm_is_that_of_diffusers(
    prediction: str, n: int, clip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("diffusers.schedulers.scheduling_ddpm")
    scheduler = module.DDPMScheduler(
        num_train_timesteps=100,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction,
        clip_sample=clip,
    )
    scheduler.set_timesteps(n)
    sampler = SamplerSpec(prediction=prediction, clip_sample=clip, method="ddpm", num_inference_steps=n)
    steps = denoising_steps(sampler)
    assert [step.level for step in steps] == scheduler.timesteps.tolist()
    assert steps[-1].fresh == 0.0

    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 2))
    for step in steps:
        p = 0.5 * x + 0.1 * rng.standard_normal((16, 2))  # stands for the network
        z = rng.standard_normal((16, 2))
        monkeypatch.setattr(module, "randn_tensor", lambda *_, z=z, **__: torch.from_numpy(z))
        expected = scheduler.step(torch.from_numpy(p), step.level, torch.from_numpy(x)).prev_sample
        clean = x * step.clean_x + p * step.clean_p
        if clip:
            clean = clean.clip(-1, 1)
        x = clean * step.towards + x * step.keep + z * step.fresh
        np.testing.assert_allclose(x, expected.numpy(), rtol=unclipped(prediction, clip), atol=STEP_TOLERANCE)
        x = expected.numpy()


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(
    ("n", "top"), [(1, None), (2, None), (10, None), (16, None), (50, None), (1, 60), (4, 90)]
)
def test_dpm_solver_is_that_of_diffusers(prediction: str, n: int, top: int | None) -> None:
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=100,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction,
        lambda_min_clipped=LOWEST_LOG_RATIO,
    )
    if top is not None:
        scheduler.config.lambda_min_clipped = float(scheduler.lambda_t[top]) - 1e-6
    scheduler.set_timesteps(n)
    spec = SamplerSpec(prediction=prediction, method="dpmsolver++", num_inference_steps=n, top_level=top)
    steps = denoising_steps(spec)
    assert top is None or steps[0].level == top
    assert [step.level for step in steps] == scheduler.timesteps.tolist()
    rng = np.random.default_rng(0)
    x, last = rng.standard_normal((16, 2)), np.zeros((16, 2))
    expected = torch.from_numpy(x)
    for step in steps:
        p = 0.5 * x + 0.1 * rng.standard_normal((16, 2))  # stands for the network
        clean = x * step.clean_x + p * step.clean_p
        expected = scheduler.step(torch.from_numpy(p), step.level, expected).prev_sample
        x = clean * step.towards + x * step.keep + (clean - last) * step.momentum
        np.testing.assert_allclose(x, expected.numpy(), rtol=unclipped(prediction), atol=STEP_TOLERANCE)
        x, last = expected.numpy(), clean
    assert n < 3 or any(step.momentum for step in steps)


@pytest.mark.parametrize("method", ["ddim", "ddpm", "dpmsolver++"])
def test_a_step_that_is_right_about_the_clean_sample_leads_towards_it(method: str) -> None:
    """`towards` and `keep` are the step of a network that predicts the clean sample."""
    for step in denoising_steps(SamplerSpec(prediction="sample", method=method)):
        x, clean = 0.3, -0.6
        noise = x * step.noise_x + clean * step.noise_p
        direct = clean * step.next_clean + noise * step.next_noise
        assert clean * step.towards + x * step.keep == pytest.approx(direct, abs=1e-12)
    assert (step.towards, step.keep) == (1.0, 0.0)


def test_noise_of_the_steps_is_decided_by_the_first_noise_alone() -> None:
    first = sampling_noise(100000000, 1, (16, 2))
    noise = step_noise(first, 100)
    assert noise.shape == (100, 16, 2)
    assert noise.dtype == np.float32
    assert noise[0, 0].tolist() == PINNED_STEP, "these numbers must never change"
    assert np.array_equal(noise[:10], step_noise(first, 10))
    assert not np.array_equal(noise, step_noise(sampling_noise(100000000, 2, (16, 2)), 100))
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05


def test_noise_depends_on_seed_and_step_and_on_nothing_else() -> None:
    noise = sampling_noise(5, 8, (16, 2))
    assert noise.dtype == np.float32
    np.random.default_rng(1).standard_normal(100)
    assert np.array_equal(noise, sampling_noise(5, 8, (16, 2)))
    assert not np.array_equal(noise, sampling_noise(5, 9, (16, 2)))
    assert not np.array_equal(noise, sampling_noise(6, 8, (16, 2)))


def test_noise_is_the_same_on_every_machine() -> None:
    """These numbers decide published scores; they must never change."""
    assert sampling_noise(100000000, 1, (2, 2)).tolist() == PINNED


def test_noise_is_standard_normal() -> None:
    many = np.concatenate([sampling_noise(seed, 0, (16, 2)).ravel() for seed in range(500)])
    assert abs(many.mean()) < 0.03
    assert abs(many.std() - 1) < 0.03


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_inference_steps": 0},
        {"num_inference_steps": 101},
        {"prediction": "noise"},
        {"beta_schedule": "x"},
        {"method": "ddpp"},
    ],
)
def test_a_sampler_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SamplerSpec(**wrong)


def test_a_top_level_is_checked_and_written_only_where_it_is_given() -> None:
    assert "top_level" not in SamplerSpec().model_dump()
    given = SamplerSpec(method="dpmsolver++", num_inference_steps=2, top_level=90)
    assert SamplerSpec.model_validate(given.model_dump()) == given
    with pytest.raises(ValueError, match="top_level 90: is for dpmsolver\\+\\+, method is ddim"):
        SamplerSpec(top_level=90)
    for level in (1, 100):
        with pytest.raises(ValueError, match=f"top_level {level}: expected num_inference_steps 2 to 99"):
            SamplerSpec(method="dpmsolver++", num_inference_steps=2, top_level=level)
