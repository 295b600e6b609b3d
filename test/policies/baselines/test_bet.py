from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from dp_ros.errors import UserError  # noqa: E402
from dp_ros.inference.sampler import SamplerSpec  # noqa: E402
from dp_ros.policies.baselines.bet import BetPolicy, CausalBlock, k_means  # noqa: E402
from dp_ros.policies.baselines.specs import BetSpec  # noqa: E402
from dp_ros.policies.policy import Draw  # noqa: E402
from test.policies.baselines.toy import (  # noqa: E402
    LEFT,
    RIGHT,
    SMALL,
    both_ways,
    draws,
    share_near,
    toy_policy,
    toy_task,
    train,
)
from test.policies.small import STATISTICS  # noqa: E402


def test_it_keeps_both_ways() -> None:
    policy = toy_policy(SMALL["bet"])
    losses = train(policy, both_ways(64), steps=100, rate=1e-2)
    assert losses[-1] < losses[0]
    drawn = draws(policy, 64)[..., 0]
    left, right = share_near(drawn, LEFT), share_near(drawn, RIGHT)
    assert left + right > 0.98
    assert min(left, right) > 0.3


def test_each_step_draws_its_bin_for_itself() -> None:
    """Nothing ties the steps of a chunk to one way, which is what the paper finds wrong with it."""
    policy = toy_policy(SMALL["bet"])
    train(policy, both_ways(64), steps=60, rate=1e-2)
    drawn = draws(policy, 64)[..., 0] < 255.0
    assert (drawn != drawn[:, :1]).any()


def test_k_means_finds_the_clusters_whatever_their_order() -> None:
    wanted = torch.tensor([[-0.8, 0.0], [0.0, 0.5], [0.9, -0.9]])
    points = (
        wanted[:, None] + torch.randn((3, 50, 2), generator=torch.Generator().manual_seed(0)) * 0.02
    ).flatten(0, 1)
    centres = k_means(points, 3)
    torch.testing.assert_close(centres[centres[:, 0].argsort()], wanted, rtol=0, atol=0.02)
    assert torch.equal(centres, k_means(points, 3))


def test_fewer_different_actions_than_bins_are_refused() -> None:
    policy = BetPolicy(toy_task(), STATISTICS, BetSpec(bins=8, width=8, layers=1, heads=1), SamplerSpec())
    with pytest.raises(
        UserError, match="network.bins 8: the training data has 2 different actions.*lower network.bins"
    ):
        policy.prepare(torch.tensor([[100.0, 100.0], [200.0, 200.0]]).repeat(6, 2, 1))


def test_training_without_centres_is_an_error_of_the_caller() -> None:
    policy = BetPolicy(toy_task(), STATISTICS, BetSpec(bins=8, width=8, layers=1, heads=1), SamplerSpec())
    with pytest.raises(RuntimeError, match="prepare"):
        policy.loss(both_ways(4), Draw(0, 2, 0))


def test_the_centres_travel_with_the_weights() -> None:
    policy = toy_policy(SMALL["bet"])
    other = BetPolicy(policy.task, STATISTICS, SMALL["bet"], SamplerSpec())  # type: ignore[arg-type]
    other.load_state_dict(policy.state_dict())
    assert torch.equal(draws(policy.eval(), 8), draws(other.eval(), 8))


def test_an_action_is_centre_and_offset_of_its_bin() -> None:
    policy, batch = toy_policy(SMALL["bet"]), both_ways(6)
    assert isinstance(policy, BetPolicy)
    clean = policy.normalizers["action"].normalize(batch.actions)
    bins = torch.cdist(clean, policy.centres).argmin(-1)
    sure = torch.nn.functional.one_hot(bins, 3) * 50.0
    offsets = clean.unsqueeze(-2) - policy.centres
    policy.outputs = lambda frames: (sure, offsets)  # type: ignore
    assert policy.loss(batch, Draw(0, 2, 0)).item() == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(
        policy.sample(batch.observation, torch.randn((6, 4, 2))), batch.actions, rtol=0, atol=0.01
    )


def test_what_is_later_changes_nothing_earlier() -> None:
    torch.manual_seed(0)
    block, x = CausalBlock(8, 2), torch.randn((1, 5, 8))
    changed = x.clone()
    changed[:, 3, 0] += 1.0
    before, after = block(x), block(changed)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 4], after[:, 4])
