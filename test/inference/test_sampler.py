from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from dp_ros.inference.sampler import SamplerSpec, denoising_steps, sampling_noise, signal_shares

PINNED = [[-3.0019383430480957, -0.3803952634334564], [1.0992686748504639, -0.9002777934074402]]


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


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
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
        np.testing.assert_allclose(x, expected.numpy(), rtol=1e-3, atol=1e-4)
        x = expected.numpy()


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
    ],
)
def test_a_sampler_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SamplerSpec(**wrong)
