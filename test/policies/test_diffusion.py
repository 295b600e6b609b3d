from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from dp_ros.errors import UserError  # noqa: E402
from dp_ros.inference.manifest import NetworkSpec  # noqa: E402
from dp_ros.inference.sampler import SamplerSpec, signal_shares  # noqa: E402
from dp_ros.policies.diffusion import DiffusionPolicy  # noqa: E402
from dp_ros.policies.schedulers import scheduler_of  # noqa: E402
from dp_ros.task import load_task  # noqa: E402
from test.policies.small import (  # noqa
    NETWORK,
    STATISTICS,
    observation_batch,
    prefix_policy,
    small_policy,
)  # noqa: E402


def test_the_observation_is_laid_out_step_by_step_with_the_streams_in_the_tasks_order() -> None:
    policy = small_policy()
    observation = observation_batch(1)
    encoded = policy.encode(observation)
    assert encoded.shape == (1, 40)
    low, high = 20.0, 490.0
    assert encoded[0, 0].item() == pytest.approx(
        (observation["keypoint"][0, 0, 0].item() - low) / (high - low) * 2 - 1, abs=1e-5
    )
    assert encoded[0, 38].item() == pytest.approx(
        (observation["agent_pos"][0, 1, 0].item() - 10) / 490 * 2 - 1, abs=1e-5
    )


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_the_same_noise_gives_the_same_actions_and_other_noise_others(prediction: str) -> None:
    policy, observation = small_policy(prediction=prediction), observation_batch(2)
    noise = torch.randn((2, 16, 2), generator=torch.Generator().manual_seed(0))
    actions = policy.sample(observation, noise)
    assert torch.equal(actions, policy.sample(observation, noise))
    assert not torch.equal(actions, policy.sample(observation, -noise))


def test_clipped_actions_lie_within_the_range_of_the_training_data() -> None:
    actions = small_policy().sample(observation_batch(4), torch.randn((4, 16, 2)) * 3)
    low, high = torch.tensor([5.0, 25.0]), torch.tensor([505.0, 485.0])
    assert (actions >= low - 1e-3).all()
    assert (actions <= high + 1e-3).all()


def test_sampling_takes_any_number_of_steps() -> None:
    policy, observation = small_policy(), observation_batch(1)
    noise = torch.randn((1, 16, 2), generator=torch.Generator().manual_seed(0))
    assert not torch.equal(policy.sample(observation, noise, 3), policy.sample(observation, noise, 50))


def test_a_policy_that_knows_the_noise_draws_the_actions_it_was_made_from() -> None:
    """Whatever the noise, DDIM must land on the clean actions when the network is right about them."""
    policy = small_policy(prediction="sample")
    wanted = torch.full((1, 16, 2), 0.25)
    policy.unet.forward = lambda *_: wanted  # type: ignore[method-assign]
    actions = policy.sample(observation_batch(1), torch.randn((1, 16, 2)))
    torch.testing.assert_close(
        actions, policy.normalizers["action"].unnormalize(wanted), rtol=1e-5, atol=1e-3
    )


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_the_loss_is_zero_for_the_right_prediction(prediction: str) -> None:
    policy, actions = small_policy(prediction=prediction), torch.rand((4, 16, 2)) * 400 + 50
    noise = torch.randn((4, 16, 2))
    right = noise if prediction == "epsilon" else policy.normalizers["action"].normalize(actions)
    policy.unet.forward = lambda *_: right  # type: ignore[method-assign]
    step = torch.tensor([0, 10, 50, 99])
    assert policy.prediction_loss(observation_batch(4), actions, noise, step).item() == 0.0
    assert (
        policy.prediction_loss(observation_batch(4), actions, noise + 1, step).item() > 0.0
        or prediction == "sample"
    )


def test_the_velocity_is_that_of_the_path_from_the_actions_to_the_noise() -> None:
    policy, actions = small_policy(prediction="v_prediction"), torch.rand((4, 16, 2)) * 400 + 50
    noise, step = torch.randn((4, 16, 2)), torch.tensor([0, 10, 50, 99])
    shares = torch.tensor(signal_shares(policy.sampler)[step.numpy()], dtype=torch.float32).view(-1, 1, 1)
    clean = policy.normalizers["action"].normalize(actions)
    policy.unet.forward = lambda *_: shares.sqrt() * noise - (1 - shares).sqrt() * clean  # type: ignore[method-assign]
    assert policy.prediction_loss(observation_batch(4), actions, noise, step).item() < 1e-8


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_known_actions_are_seen_clean_and_are_not_judged(prediction: str) -> None:
    policy, actions = prefix_policy(prediction=prediction), torch.rand((3, 16, 2)) * 400 + 50
    noise, step = torch.randn((3, 16, 2)), torch.tensor([0, 50, 99])
    clean = policy.normalizers["action"].normalize(actions)
    known = torch.arange(16) < torch.tensor([0, 3, 8])[:, None]
    target = noise if prediction == "epsilon" else clean
    seen = {}

    def network(given: torch.Tensor, step: object, condition: object, mask: torch.Tensor) -> torch.Tensor:
        seen.update(given=given, mask=mask)
        return torch.where(known[..., None], torch.tensor(1e6), target + 0.5)

    policy.unet.forward = network  # type: ignore[method-assign, assignment]
    loss = policy.prediction_loss(observation_batch(3), actions, noise, step, known)
    assert loss.item() == pytest.approx(0.25, rel=1e-4)
    assert torch.equal(seen["mask"], known)
    assert torch.equal(seen["given"][known], clean[known])
    assert not torch.isclose(seen["given"][~known], clean[~known], atol=1e-4).all()
    policy.prediction_loss(observation_batch(3), actions, noise, step, known, 0.1)
    torch.testing.assert_close(seen["given"][known], (clean + 0.1 * noise)[known])


def test_where_nothing_is_known_the_loss_is_the_plain_one() -> None:
    policy, actions = prefix_policy(), torch.rand((4, 16, 2)) * 400
    given = observation_batch(4), actions, torch.randn((4, 16, 2)), torch.tensor([0, 10, 50, 99])
    none_known = torch.zeros((4, 16), dtype=torch.bool)
    assert policy.prediction_loss(*given, none_known, 0.1).item() == pytest.approx(
        policy.prediction_loss(*given).item(), rel=1e-6
    )


def test_a_prefix_that_leaves_nothing_to_predict_is_refused() -> None:
    with pytest.raises(UserError, match="prefix_steps 15 leaves nothing .* expected at most 14"):
        prefix_policy(prefix_steps=15)


def test_the_timesteps_are_those_of_the_paper() -> None:
    scheduler = scheduler_of(SamplerSpec())
    scheduler.set_timesteps(10)
    assert scheduler.timesteps.tolist() == [90, 80, 70, 60, 50, 40, 30, 20, 10, 0]


def test_a_small_policy_learns_one_demonstration_by_heart() -> None:
    policy = small_policy(prediction="sample").train()
    observation = observation_batch(1)
    time = torch.linspace(0, 3, 16)
    wanted = torch.stack([250 + 150 * time.sin(), 250 + 150 * time.cos()], dim=-1)[None]
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    batch = {key: value.expand(32, *value.shape[1:]) for key, value in observation.items()}
    for _ in range(150):
        noise = torch.randn((32, 16, 2), generator=generator)
        step = torch.randint(100, (32,), generator=generator)
        optimizer.zero_grad()
        policy.prediction_loss(batch, wanted.expand(32, 16, 2), noise, step).backward()
        optimizer.step()
    drawn = policy.eval().sample(observation, torch.randn((1, 16, 2), generator=generator))
    assert (drawn - wanted).abs().mean() < 15  # of a range of 500 px


def test_a_task_with_images_is_refused_with_what_to_do() -> None:
    with pytest.raises(
        UserError, match="observation image is an image.*diffusion_unet_image.*such as pusht_state"
    ):
        DiffusionPolicy(load_task("pusht_image"), STATISTICS, NETWORK, SamplerSpec())


def test_a_horizon_that_cannot_be_halved_is_refused() -> None:
    task = load_task("pusht_state").model_copy(update={"horizon": 18})
    with pytest.raises(UserError, match="horizon 18 is not divisible by 4"):
        DiffusionPolicy(task, STATISTICS, NetworkSpec(widths=(8, 8, 8)), SamplerSpec())


def test_missing_statistics_are_named() -> None:
    rest = {key: value for key, value in STATISTICS.items() if key != "agent_pos"}
    with pytest.raises(UserError, match="nothing for agent_pos"):
        DiffusionPolicy(load_task("pusht_state"), rest, NETWORK, SamplerSpec())
