from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from dp_ros.policies.policy import Batch, Draw  # noqa: E402
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


def test_of_two_ways_it_takes_the_mean_which_is_neither() -> None:
    policy = toy_policy(SMALL["regression"])
    losses = train(policy, both_ways(64), steps=60, rate=3e-3)
    assert losses[-1] < losses[0]
    drawn = draws(policy, 32)[..., 0]
    assert share_near(drawn, MIDDLE) == 1.0
    assert share_near(drawn, LEFT) == share_near(drawn, RIGHT) == 0.0


def test_where_there_is_one_way_it_learns_it() -> None:
    policy, batch = toy_policy(SMALL["regression"]), both_ways(64)
    train(policy, Batch(batch.observation, batch.actions[::2].repeat(2, 1, 1)), steps=60, rate=3e-3)
    assert share_near(draws(policy, 4)[..., 0], LEFT) == 1.0


def test_the_loss_is_the_mean_squared_error_in_the_normalised_range() -> None:
    policy, batch = toy_policy(SMALL["regression"]), both_ways(4)
    policy.chunk = lambda frames: policy.normalizers["action"].normalize(batch.actions) + 0.5  # type: ignore
    assert policy.loss(batch, Draw(0, 2, 0)).item() == pytest.approx(0.25, rel=1e-4)
