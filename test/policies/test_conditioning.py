"""Three ways to tell the network what was observed: global, local, inpainting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dp_ros.errors import UserError  # noqa: E402
from dp_ros.inference.export import export_policy, made_up_observations  # noqa: E402
from dp_ros.inference.load import load_engine  # noqa: E402
from dp_ros.inference.manifest import NetworkSpec  # noqa: E402
from dp_ros.inference.sampler import SamplerSpec, inpainting_noise, sampling_noise  # noqa: E402
from dp_ros.policies.diffusion import DiffusionPolicy, check_supported  # noqa: E402
from dp_ros.policies.policy import Batch, Draw  # noqa: E402
from dp_ros.policies.specs import UnetSpec  # noqa: E402
from dp_ros.runtime.prefix import Prefix  # noqa: E402
from dp_ros.task import load_task  # noqa: E402
from test.policies.small import NETWORK, STATISTICS, observation_batch  # noqa: E402
from test.policies.small_image import NETWORK as NETWORK_OF_PICTURES  # noqa: E402
from test.policies.small_image import picture_batch, small_image_policy  # noqa: E402

TASK = load_task("pusht_state")
PICTURES = NETWORK_OF_PICTURES.model_copy(update={"conditioning": "inpainting"})
N, A, D = 3, 2, 20  # samples, values of an action, of an observed frame


def policy_of(conditioning: str, *, prefix_steps: int = 0, **sampler: Any) -> DiffusionPolicy:
    torch.manual_seed(0)
    network = NETWORK.model_copy(update={"conditioning": conditioning, "prefix_steps": prefix_steps})
    made = DiffusionPolicy(TASK, STATISTICS, network, SamplerSpec(**sampler)).eval()
    with torch.no_grad():
        made.unet.head[-1].bias.add_(0.1)  # type: ignore[union-attr, index, operator]
    return made


def whole_observations(n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Observations of all steps of the horizon, {stream: (n, 16, ...)} px."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "keypoint": torch.rand((n, 16, 18), generator=generator) * 512,
        "agent_pos": torch.rand((n, 16, 2), generator=generator) * 512,
    }


def some_actions(n: int) -> torch.Tensor:
    return torch.rand((n, 16, A), generator=torch.Generator().manual_seed(4)) * 400 + 50


def noise_of(n: int, width: int = A) -> torch.Tensor:
    return torch.randn((n, 16, width), generator=torch.Generator().manual_seed(5))


def test_global_is_the_default_and_changes_nothing_of_old_models() -> None:
    assert NetworkSpec().conditioning == UnetSpec().conditioning == "global"
    assert not list(policy_of("global").unet.local.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("conditioning", ["global", "local", "inpainting"])
def test_what_was_observed_decides_what_is_drawn(conditioning: str) -> None:
    policy, noise = policy_of(conditioning, num_inference_steps=3), noise_of(N)
    drawn = policy.sample(observation_batch(N), noise)
    assert drawn.shape == (N, 16, A)
    assert torch.equal(drawn, policy.sample(observation_batch(N), noise))
    assert (drawn - policy.sample(observation_batch(N, seed=1), noise)).abs().max() > 1e-2


def test_local_conditioning_passes_through_its_own_blocks_alone() -> None:
    policy = policy_of("local", num_inference_steps=3)
    unet = policy.unet
    assert unet.film.in_features == NETWORK.step_dim, "no observation in the modulation"  # type: ignore[union-attr]
    for block in unet.local:  # type: ignore[union-attr]
        for parameter in block.parameters():
            torch.nn.init.zeros_(parameter)
    noise = noise_of(N)
    one, other = (policy.sample(observation_batch(N, seed), noise) for seed in (0, 1))
    assert torch.equal(one, other)


@pytest.mark.parametrize("branch", [0, 1])
def test_both_local_branches_count(branch: int) -> None:
    policy = policy_of("local", num_inference_steps=2)
    before = policy.sample(observation_batch(N), noise_of(N))
    torch.nn.init.zeros_(policy.unet.local[branch].second[1].weight)  # type: ignore[union-attr, index]
    assert (policy.sample(observation_batch(N), noise_of(N)) - before).abs().max() > 1e-2


def test_local_conditioning_stands_at_the_steps_that_were_observed() -> None:
    """What comes after the observed frames is zero, as in the reference implementation."""
    policy, seen = policy_of("local"), []
    policy.unet.local[0].register_forward_hook(lambda _, given, __: seen.append(given[0]))  # type: ignore[union-attr, index]
    observation = observation_batch(N)
    policy.unet(noise_of(N), torch.zeros(N, dtype=torch.int64), policy.encode(observation))
    (beside,) = seen
    assert beside.shape == (N, D, 16)
    frames = torch.cat([policy.normalizers[k].normalize(observation[k]) for k in TASK.observations], dim=-1)
    assert torch.equal(beside[:, :, :2], frames.transpose(1, 2))
    assert not beside[:, :, 2:].any()


def test_inpainting_shows_the_network_what_was_observed_at_every_noise_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy, seen = policy_of("inpainting", num_inference_steps=4), []
    first = policy.unet.down[0].first  # type: ignore[union-attr, index]
    first.register_forward_hook(lambda _, given, __: seen.append(given[0].transpose(1, 2)))
    observation = observation_batch(N)
    policy.sample(observation, noise_of(N))
    frames = torch.cat([policy.normalizers[k].normalize(observation[k]) for k in TASK.observations], dim=-1)
    assert len(seen) == 4
    for trajectory in seen:
        assert trajectory.shape == (N, 16, A + D)
        assert torch.equal(trajectory[:, :2, A:], frames)
    assert (seen[0][:, 2:, A:] - seen[1][:, 2:, A:]).abs().max() > 1e-3, "what is to come is denoised"


def test_inpainting_learns_all_but_what_was_observed() -> None:
    policy = policy_of("inpainting")
    observation, actions, noise = whole_observations(N), some_actions(N), noise_of(N, A + D)
    step = torch.tensor([3, 40, 90])
    loss = policy.prediction_loss(observation, actions, noise, step)

    def normalized(key: str, values: torch.Tensor) -> torch.Tensor:
        low, high = (torch.tensor(STATISTICS[key][end]) for end in ("min", "max"))
        return 2 * (values - low) / (high - low) - 1

    clean = torch.cat(
        [normalized("action", actions), *(normalized(key, observation[key]) for key in TASK.observations)],
        dim=-1,
    )
    shares = torch.cumprod(1 - _betas(), 0)[step][:, None, None]
    noisy = shares.sqrt() * clean + (1 - shares).sqrt() * noise
    noisy[:, :2, A:] = clean[:, :2, A:]
    with torch.no_grad():
        predicted = policy.unet(noisy, step, clean[:, :2, A:].flatten(1))
    error = (predicted - noise) ** 2
    counted = torch.ones((16, A + D), dtype=torch.bool)
    counted[:2, A:] = False
    assert loss.item() == pytest.approx(error[:, counted].mean().item(), rel=1e-4)
    other = noise.clone()
    other[:, :2, A:] += 7.0
    assert policy.prediction_loss(observation, actions, other, step).item() == pytest.approx(
        loss.item(), rel=1e-5
    )


def test_the_loss_draws_as_much_noise_as_is_denoised() -> None:
    policy = policy_of("inpainting").train()
    batch = Batch(whole_observations(N), some_actions(N))
    assert policy.loss(batch, Draw(0, 1, 0)).item() == policy.loss(batch, Draw(0, 1, 0)).item() > 0.0


@pytest.mark.parametrize("conditioning", ["local", "inpainting"])
def test_the_loss_falls(conditioning: str) -> None:
    policy = policy_of(conditioning, prediction="sample").train()
    still = {key: value[:, :1].expand_as(value) for key, value in whole_observations(8).items()}
    batch = Batch(still if conditioning == "inpainting" else observation_batch(8), some_actions(8))
    optimizer = torch.optim.AdamW(policy.parameters(), 3e-3)
    losses = []
    for step in range(100):
        loss = policy.loss(batch, Draw(0, 1, step % 10))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


@pytest.mark.parametrize(
    ("conditioning", "options"),
    [
        ("local", {}),
        ("local", {"prefix_steps": 4}),
        ("inpainting", {}),
        ("inpainting", {"method": "ddpm", "temperature": 0.8}),
    ],
)
def test_the_graph_draws_what_torch_draws(conditioning: str, options: dict[str, Any], tmp_path: Path) -> None:
    policy = policy_of(conditioning, num_inference_steps=3, **options)
    export_policy(policy, tmp_path / "m")
    graph, reference = (load_engine(tmp_path / "m", name) for name in ("onnx", "torch"))
    assert graph.manifest.network.conditioning == conditioning  # type: ignore[union-attr]
    scale = np.array([2 / 500, 2 / 460])
    for k, observation in enumerate(made_up_observations(policy, 3)):
        noise = sampling_noise(1, k, (16, A))
        prefix = None
        if k:
            planned = np.asarray(some_actions(1)[0].numpy())
            prefix = Prefix.from_plan(planned, n_known=4, horizon=16)
        one, other = graph.sample(observation, noise, prefix), reference.sample(observation, noise, prefix)
        assert np.abs((one - other) * scale).max() < 1e-5
        if prefix is not None:
            np.testing.assert_array_equal(one[:4], planned[:4].astype(np.float32))


def test_the_noise_beside_that_of_the_actions_is_decided_by_it() -> None:
    noise = sampling_noise(0, 0, (16, A))
    wide = inpainting_noise(noise, D)
    assert wide.shape == (16, A + D)
    assert np.array_equal(wide[:, :A], noise)
    assert np.array_equal(wide, inpainting_noise(noise, D))
    assert abs(wide[:, A:].mean()) < 0.2
    assert abs(wide[:, A:].std() - 1.0) < 0.2
    assert not np.array_equal(wide[:, A:], inpainting_noise(sampling_noise(0, 1, (16, A)), D)[:, A:])


def test_what_cannot_be_combined_is_refused() -> None:
    with pytest.raises(UserError, match="prefix_steps 3: a network conditioned by inpainting cannot"):
        check_supported(TASK, NetworkSpec(conditioning="inpainting", prefix_steps=3))


def whole_pictures(n: int) -> dict[str, torch.Tensor]:
    """A horizon of them."""
    few = picture_batch(n)
    return {key: value.repeat(1, 8, *[1] * (value.dim() - 2)) for key, value in few.items()}


def test_an_encoder_learns_from_what_is_observed_and_not_to_be_easy_to_predict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = small_image_policy(network=PICTURES).train()
    assert policy.trajectory_shape == (16, 2 + 6 + 2)
    features = torch.randn((N, 16, 6), generator=torch.Generator().manual_seed(0), requires_grad=True)
    monkeypatch.setattr(policy.vision, "forward", lambda key, pictures, place: features)
    policy.loss(Batch(whole_pictures(N), some_actions(N)), Draw(0, 1, 0)).backward()
    assert features.grad is not None
    assert features.grad[:, :2].abs().max() > 0
    assert not features.grad[:, 2:].any()


def test_the_features_of_what_is_to_come_are_denoised_too() -> None:
    policy, seen = small_image_policy(network=PICTURES), whole_pictures(N)
    noise, step = noise_of(N, 10), torch.tensor([3, 40, 90])
    with torch.no_grad():
        loss = policy.prediction_loss(seen, some_actions(N), noise, step)
        later = {key: torch.cat([value[:, :2], value[:, 2:].flip(0)], dim=1) for key, value in seen.items()}
        other = policy.prediction_loss(later, some_actions(N), noise, step)
    assert loss.item() != pytest.approx(other.item(), rel=1e-4)


def test_a_graph_of_pictures_draws_what_torch_draws(tmp_path: Path) -> None:
    policy = small_image_policy(network=PICTURES, num_inference_steps=3)
    export_policy(policy, tmp_path / "m")
    graph, reference = (load_engine(tmp_path / "m", name) for name in ("onnx", "torch"))
    for k, observation in enumerate(made_up_observations(policy, 2)):
        noise = sampling_noise(1, k, (16, A))
        one, other = graph.sample(observation, noise), reference.sample(observation, noise)
        assert np.abs(one - other).max() / 250 < 1e-5
    with pytest.raises(ValueError, match="conditioning"):
        NetworkSpec.model_validate({"conditioning": "both"})


def _betas() -> torch.Tensor:
    """Squared-cosine schedule, 100 levels."""
    time = torch.arange(101, dtype=torch.float64) / 100
    remaining = torch.cos((time + 0.008) / 1.008 * torch.pi / 2) ** 2
    return (1 - remaining[1:] / remaining[:-1]).clamp(max=0.999).float()
