from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from dp_ros.training.ema import WeightAverage  # noqa: E402
from test.policies.small import small_policy  # noqa: E402


def test_the_decay_rises_towards_its_maximum() -> None:
    average = WeightAverage(small_policy(), power=0.75, max_decay=0.999)
    assert average.decay(1) == pytest.approx(1 - 2**-0.75)
    assert average.decay(100) == pytest.approx(1 - 101**-0.75)
    assert average.decay(10**6) == 0.999


def test_the_average_follows_the_weights() -> None:
    policy = small_policy()
    average = WeightAverage(policy, power=0.75, max_decay=0.9999)
    weight, averaged = policy.unet.film.weight, average.policy.unet.film.weight
    before = averaged.clone()
    with torch.no_grad():
        weight += 1.0
    average.update(1)
    torch.testing.assert_close(averaged - before, torch.full_like(before, 2**-0.75), rtol=1e-4, atol=1e-5)
    assert not averaged.requires_grad


def test_weights_that_stand_still_are_their_own_average() -> None:
    policy = small_policy()
    average = WeightAverage(policy, power=0.75, max_decay=0.9999)
    for step in range(1, 6):
        average.update(step)
    for old, new in zip(policy.parameters(), average.policy.parameters(), strict=True):
        assert torch.equal(old, new)
