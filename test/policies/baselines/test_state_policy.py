from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from dp_ros.errors import UserError  # noqa: E402
from dp_ros.inference.sampler import SamplerSpec  # noqa: E402
from dp_ros.policies.baselines.state_policy import choice_from, uniform_from  # noqa: E402
from dp_ros.policies.build import build_policy, check_supported  # noqa: E402
from dp_ros.policies.policy import Batch, Draw  # noqa: E402
from dp_ros.task import load_task  # noqa: E402
from test.policies.baselines.toy import SMALL, both_ways, draws, toy_policy, toy_task  # noqa: E402
from test.policies.small import STATISTICS, observation_batch  # noqa: E402

kinds = pytest.mark.parametrize("kind", SMALL)
chancy = pytest.mark.parametrize("kind", [kind for kind in SMALL if kind != "regression"])


@kinds
def test_a_chunk_is_drawn_for_each_observation_in_the_range_of_the_training_actions(kind: str) -> None:
    policy = toy_policy(SMALL[kind], horizon=16).eval()
    actions = policy.sample(observation_batch(3), torch.randn((3, 16, 2)))
    assert actions.shape == (3, 16, 2)
    assert (actions >= torch.tensor([5.0, 25.0]) - 1e-2).all()
    assert (actions <= torch.tensor([505.0, 485.0]) + 1e-2).all()


@kinds
def test_a_draw_is_decided_by_its_noise_and_by_nothing_else(kind: str) -> None:
    policy = toy_policy(SMALL[kind]).eval()
    torch.manual_seed(1)
    first = draws(policy, 4)
    torch.manual_seed(2)
    assert torch.equal(first, draws(policy, 4))
    assert torch.equal(first, draws(policy, 4, seed=5)) == (kind == "regression")


@kinds
def test_what_is_drawn_does_not_depend_on_the_rest_of_the_batch(kind: str) -> None:
    policy = toy_policy(SMALL[kind]).eval()
    observation, noise = (
        observation_batch(3),
        torch.randn((3, 4, 2), generator=torch.Generator().manual_seed(3)),
    )
    together = policy.sample(observation, noise)
    alone = policy.sample({key: value[1:2] for key, value in observation.items()}, noise[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-2)


@kinds
def test_the_gradient_reaches_every_weight(kind: str) -> None:
    policy = toy_policy(SMALL[kind])
    batch = both_ways(32)
    loss = policy.loss(batch, Draw(0, 2, 0))
    assert loss.shape == ()
    loss.backward()
    for name, weight in policy.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name


@kinds
def test_the_loss_is_a_function_of_the_draw(kind: str) -> None:
    policy, batch = toy_policy(SMALL[kind]), both_ways(8)
    torch.manual_seed(1)
    first = policy.loss(batch, Draw(0, 2, 7))
    torch.manual_seed(2)
    assert torch.equal(first, policy.loss(batch, Draw(0, 2, 7)))


@kinds
def test_a_batch_in_two_parts_has_the_loss_of_the_whole(kind: str) -> None:
    policy, batch = toy_policy(SMALL[kind]), both_ways(8)
    parts = []
    for first in (0, 4):
        observation = {key: value[first : first + 4] for key, value in batch.observation.items()}
        part = Batch(observation, batch.actions[first : first + 4])
        parts.append(policy.loss(part, Draw(0, 2, 7, first=first, total=8)).item())
    assert sum(parts) / 2 == pytest.approx(policy.loss(batch, Draw(0, 2, 7)).item(), rel=1e-4)


@kinds
def test_denoising_steps_and_a_prefix_are_refused(kind: str) -> None:
    policy = toy_policy(SMALL[kind]).eval()
    given = observation_batch(1), torch.zeros((1, 4, 2))
    with pytest.raises(UserError, match=f"num_inference_steps: a {kind} policy has none"):
        policy.sample(*given, 5)
    with pytest.raises(UserError, match=f"prefix: a {kind} policy has none"):
        policy.sample(*given, prefix=(torch.zeros((1, 4, 2)), torch.zeros((1, 4))))


@kinds
def test_a_task_with_images_is_refused_before_anything_is_made(kind: str) -> None:
    with pytest.raises(
        UserError, match=f"observation image is an image, and a {kind} policy takes vectors only"
    ):
        check_supported(load_task("pusht_image"), SMALL[kind])  # type: ignore[arg-type]


def test_missing_statistics_are_named() -> None:
    rest = {key: value for key, value in STATISTICS.items() if key != "agent_pos"}
    with pytest.raises(UserError, match="nothing for agent_pos"):
        build_policy(toy_task(), rest, SMALL["regression"], SamplerSpec())  # type: ignore[arg-type]


def test_standard_normal_numbers_become_even_ones() -> None:
    torch.testing.assert_close(
        uniform_from(torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0])), torch.tensor([0.0, 0.1587, 0.5, 0.8413, 1.0]),
        rtol=0, atol=1e-4,
    )  # fmt: skip


def test_a_choice_has_the_probabilities_of_its_logits() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    uniform = torch.tensor([0.0, 0.49, 0.51, 0.79, 0.81, 1.0])
    chosen = choice_from(logits.expand(6, 3), uniform)
    assert chosen.argmax(-1).tolist() == [0, 0, 1, 1, 2, 2]
    assert chosen.sum(-1).tolist() == [1.0] * 6


@chancy
def test_an_even_grid_of_noise_is_no_special_case(kind: str) -> None:
    """Noise that is 0 throughout is one draw like any other."""
    actions = toy_policy(SMALL[kind]).eval().sample(observation_batch(1), torch.zeros((1, 4, 2)))
    assert actions.isfinite().all()
