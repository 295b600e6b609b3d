from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from dp_ros.policies.baselines.lstm_gmm import LstmGmmPolicy  # noqa: E402
from dp_ros.policies.baselines.specs import LstmGmmSpec  # noqa: E402
from dp_ros.policies.policy import Draw  # noqa: E402
from test.policies.baselines.toy import (  # noqa: E402
    LEFT,
    MIDDLE,
    RIGHT,
    SMALL,
    both_ways,
    draws,
    share_near,
    toy_policy,
    train,
)


def test_it_keeps_both_ways() -> None:
    policy = toy_policy(SMALL["lstm_gmm"])
    losses = train(policy, both_ways(64), steps=200, rate=1e-2)
    assert losses[-1] < losses[0]
    drawn = draws(policy, 64)[..., 0]
    left, right = share_near(drawn, LEFT), share_near(drawn, RIGHT)
    assert left + right > 0.95
    assert min(left, right) > 0.3


def test_the_way_it_took_is_more_likely_to_be_the_next_one() -> None:
    """By the action drawn last; steps on their own would agree with the first in 5 of 8."""
    policy = toy_policy(SMALL["lstm_gmm"].model_copy(update={"components": 2}))
    train(policy, both_ways(64), steps=300, rate=1e-2)
    went_left = draws(policy, 64)[..., 0] < MIDDLE
    assert (went_left == went_left[:, :1]).float().mean() > 0.75


def test_components_begin_apart() -> None:
    policy = toy_policy(SMALL["lstm_gmm"])
    assert isinstance(policy, LstmGmmPolicy)
    _, means, stds = policy.mixtures(torch.zeros(32))
    assert torch.pdist(means).min() > 0.05
    assert stds.max() < 0.3


@pytest.mark.parametrize("layers", [1, 2])
def test_the_cell_that_is_exported_is_the_lstm_that_is_trained(layers: int) -> None:
    policy = toy_policy(LstmGmmSpec(width=8, layers=layers))
    assert isinstance(policy, LstmGmmPolicy)
    inputs = torch.randn((3, 5, policy.lstm.input_size), generator=torch.Generator().manual_seed(0))
    zero = torch.zeros((3, 8))
    state, outputs = [(zero, zero)] * layers, []
    for t in range(5):
        output, state = policy._cell(inputs[:, t], state)
        outputs.append(output)
    torch.testing.assert_close(torch.stack(outputs, 1), policy.lstm(inputs)[0])


def test_the_loss_is_the_negative_log_likelihood_of_the_mixture() -> None:
    """Of one standard normal component at the action itself: log(2 pi) for two dimensions."""
    policy, batch = toy_policy(LstmGmmSpec(width=8, layers=1, components=1)), both_ways(4)
    clean = policy.normalizers["action"].normalize(batch.actions)
    policy.mixtures = lambda output: (torch.zeros(4, 4, 1), clean.unsqueeze(-2), torch.ones(4, 4, 1, 2))  # type: ignore
    assert policy.loss(batch, Draw(0, 2, 0)).item() == pytest.approx(1.8379, abs=1e-3)


def test_no_component_is_narrower_than_the_least_standard_deviation() -> None:
    policy = toy_policy(LstmGmmSpec(width=8, min_std=0.2))
    assert isinstance(policy, LstmGmmPolicy)
    _, _, stds = policy.mixtures(torch.randn((50, 8)) * 100)
    assert stds.min() >= 0.2
