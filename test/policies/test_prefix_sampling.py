"""How a draw goes on from a prefix, on networks of which the right answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from dp_ros.inference.sampler import SamplerSpec, denoising_steps, signal_shares  # noqa: E402
from dp_ros.policies.diffusion import DiffusionPolicy, guidance_gain  # noqa: E402
from dp_ros.runtime.prefix import prefix_weights  # noqa: E402
from test.policies.small import observation_batch, prefix_policy, small_policy  # noqa: E402

METHODS = ["ddim", "ddpm"]


def noise(n: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn((n, 16, 2), generator=torch.Generator().manual_seed(seed))


def prefix(n: int, n_known: int, n_planned: int, px: float = 300.0) -> tuple[torch.Tensor, torch.Tensor]:
    weights = torch.from_numpy(prefix_weights(16, n_known, n_planned)).expand(n, 16).contiguous()
    return torch.full((n, 16, 2), px) + torch.arange(16)[:, None], weights


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("make", [small_policy, prefix_policy])
def test_weights_of_zero_change_nothing(make: Callable[..., DiffusionPolicy], method: str) -> None:
    policy, observation = make(method=method), observation_batch(2)
    free = torch.full((2, 16, 2), 99.0), torch.zeros((2, 16))
    assert torch.equal(
        policy.sample(observation, noise(), prefix=free), policy.sample(observation, noise())
    ), "bit for bit"


@pytest.mark.parametrize("make", [small_policy, prefix_policy])
@pytest.mark.parametrize("n_known", [1, 5, 12, 16])
def test_known_actions_come_out_as_they_went_in(
    make: Callable[..., DiffusionPolicy], method: str, n_known: int
) -> None:
    policy, given = make(method=method), prefix(2, n_known, 16)
    drawn = policy.sample(observation_batch(2), noise(), prefix=given)
    assert torch.equal(drawn[:, :n_known], given[0][:, :n_known])
    assert torch.isfinite(drawn).all()


def all_rows_alike(policy: DiffusionPolicy) -> None:
    """Let the network be right about data whose actions are all the same, normal with a spread of 0.5."""
    shares, variance = signal_shares(policy.sampler), 0.25

    def network(actions: torch.Tensor, step: torch.Tensor, *_: Any) -> torch.Tensor:
        share = float(shares[int(step[0])])
        # Mean of the posterior of one number seen in 16 rows, each with noise.
        precision = 16 * share / (1 - share) + 1 / variance
        mean = actions.sum(dim=1, keepdim=True) * (math.sqrt(share) / (1 - share)) / precision
        return mean.expand_as(actions)

    policy.unet.forward = network  # type: ignore[method-assign, assignment]


def test_free_actions_follow_the_known_ones(method: str) -> None:
    """The more is known of actions that are all alike, the nearer the others come to them."""
    policy = small_policy(prediction="sample", clip_sample=False, method=method, num_inference_steps=20)
    all_rows_alike(policy)
    wanted = policy.normalizers["action"].unnormalize(torch.full((200, 16, 2), 0.7))
    off = []
    for n_known in (0, 4, 8, 12):
        weights = torch.from_numpy(prefix_weights(16, n_known, n_known)).expand(200, 16)
        drawn = policy.sample(observation_batch(200), noise(200), prefix=(wanted, weights))
        off.append((drawn - wanted)[:, 12:].abs().mean().item())
    assert off == sorted(off, reverse=True)
    assert off[3] < 0.3 * off[0]


def test_the_heavier_the_weight_the_nearer_to_the_plan(method: str) -> None:
    policy = small_policy(prediction="sample", clip_sample=False, method=method, num_inference_steps=20)
    all_rows_alike(policy)
    wanted = policy.normalizers["action"].unnormalize(torch.full((200, 16, 2), 0.7))
    off = []
    for weight in (0.0, 0.1, 0.3, 0.6, 0.9):
        given = wanted, torch.full((200, 16), weight)
        off.append((policy.sample(observation_batch(200), noise(200), prefix=given) - wanted).abs().mean())
    assert off == sorted(off, reverse=True)
    assert off[-1] < 0.5 * off[0]


def test_a_network_that_is_sure_has_the_last_word_on_what_is_only_planned(method: str) -> None:
    policy = small_policy(prediction="sample", method=method)
    sure = torch.full((1, 16, 2), -0.4)
    policy.unet.forward = lambda *_: sure  # type: ignore[method-assign, assignment]
    wanted, weights = prefix(1, 4, 16)
    drawn = policy.sample(observation_batch(1), noise(1), prefix=(wanted, weights))
    assert torch.equal(drawn[:, :4], wanted[:, :4])
    expected = policy.normalizers["action"].unnormalize(sure)
    assert (drawn - expected)[:, 8:].abs().max() < 0.2  # px, of a plan that lies 200 px away


def test_what_is_known_has_the_noise_of_its_level_until_the_end() -> None:
    """A row that is fixed is, at every level, the planned action under the noise that the draw began with."""
    policy, seen = small_policy(), []
    steps = denoising_steps(policy.sampler)
    shares = signal_shares(policy.sampler)
    denoise = policy.unet.forward

    def watched(actions: torch.Tensor, step: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(actions)
        return denoise(actions, step, *rest)

    policy.unet.forward = watched  # type: ignore[method-assign, assignment]
    given = prefix(1, 6, 6)
    policy.sample(observation_batch(1), noise(1), prefix=given)
    clean = policy.normalizers["action"].normalize(given[0])[:, :6]
    first = float(shares[steps[0].level])
    held = (noise(1)[:, :6] - math.sqrt(first) * clean) / math.sqrt(1 - first)
    for step, actions in zip(steps[1:], seen[1:], strict=True):
        share = float(shares[step.level])
        torch.testing.assert_close(
            actions[:, :6], math.sqrt(share) * clean + math.sqrt(1 - share) * held, rtol=1e-4, atol=1e-4
        )


def test_a_network_trained_with_prefixes_sees_them_clean_and_is_told(method: str) -> None:
    policy, seen = prefix_policy(method=method, prefix_steps=7), []
    denoise = policy.unet.forward

    def watched(
        actions: torch.Tensor, step: torch.Tensor, condition: torch.Tensor, known: torch.Tensor
    ) -> torch.Tensor:
        seen.append((actions, known))
        return denoise(actions, step, condition, known)

    policy.unet.forward = watched  # type: ignore[method-assign, assignment]
    given = prefix(1, 11, 14)
    drawn = policy.sample(observation_batch(1), noise(1), prefix=given)
    clean = policy.normalizers["action"].normalize(given[0])
    for actions, known in seen:
        assert known[0].tolist() == [True] * 8 + [False] * 8, "no more than it was trained with"
        assert torch.equal(actions[:, :8], clean[:, :8])
    assert torch.equal(drawn[:, :11], given[0][:, :11]), "the rest of the known ones is led there"


def test_the_gain_is_that_of_a_measurement_of_known_quality() -> None:
    weights = torch.tensor([0.0, 0.5, 1.0])
    for share in (1.0, 0.3, 6e-4):
        assert guidance_gain(weights, share).tolist() == pytest.approx([0.0, share / (share + 1.0), 1.0])
    assert guidance_gain(torch.ones(1), 0.3).item() == 1.0


def test_another_number_of_steps_is_taken_with_a_prefix_too() -> None:
    policy, given = small_policy(), prefix(1, 3, 9)
    few, many = (policy.sample(observation_batch(1), noise(1), n, given) for n in (3, 50))
    assert not torch.equal(few, many)
    assert torch.equal(few[:, :3], many[:, :3])


def test_ddpm_draws_what_its_first_noise_decides() -> None:
    policy = small_policy(method="ddpm", num_inference_steps=100)
    observation = observation_batch(2)
    drawn = policy.sample(observation, noise())
    assert torch.equal(drawn, policy.sample(observation, noise()))
    alone = policy.sample({key: value[1:] for key, value in observation.items()}, noise()[1:])
    torch.testing.assert_close(drawn[1:], alone, rtol=1e-4, atol=1e-2)
    assert not torch.equal(drawn, policy.sample(observation, noise(seed=1)))
    assert SamplerSpec().method == "ddim"
