from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from dp_ros.policies.baselines.ibc import IbcPolicy, resample  # noqa: E402
from dp_ros.policies.policy import Draw  # noqa: E402
from test.policies.baselines.toy import LEFT, RIGHT, SMALL, both_ways, draws, share_near, toy_policy, train  # noqa: E402


def test_it_keeps_both_ways() -> None:
    policy = toy_policy(SMALL["ibc"])
    losses = train(policy, both_ways(64), steps=150, rate=1e-2)
    assert losses[-1] < 0.6 * losses[0]
    drawn = draws(policy, 32)[..., 0]
    left, right = share_near(drawn, LEFT), share_near(drawn, RIGHT)
    assert left + right > 0.75
    assert min(left, right) > 0.15


def test_the_search_finds_the_least_energy() -> None:
    policy = toy_policy(SMALL["ibc"])
    wanted = torch.tensor([0.4, -0.6])
    policy.energies = lambda seen, place, previous, candidates: 200.0 * (candidates - wanted).square().sum(-1)  # type: ignore
    drawn = policy.normalizers["action"].normalize(draws(policy.eval(), 16))
    assert (drawn - wanted).abs().mean() < 0.05
    assert (drawn - wanted).abs().max() < 0.25


def test_energies_that_tell_nothing_cost_as_much_as_guessing() -> None:
    policy = toy_policy(SMALL["ibc"])
    policy.energies = lambda seen, place, previous, candidates: candidates.sum(-1) * 0.0  # type: ignore
    assert policy.loss(both_ways(8), Draw(0, 2, 0)).item() == pytest.approx(
        torch.tensor(33.0).log().item(), rel=1e-5
    )


def test_the_first_candidate_is_the_demonstrated_action_and_the_one_before_it_is_seen() -> None:
    policy, seen = toy_policy(SMALL["ibc"].model_copy(update={"action_noise": 0.0})), {}
    assert isinstance(policy, IbcPolicy)
    batch = both_ways(8)
    clean = policy.normalizers["action"].normalize(batch.actions)

    def record(
        _: object, place: torch.Tensor, previous: torch.Tensor, candidates: torch.Tensor
    ) -> torch.Tensor:
        seen.update(place=place, previous=previous, candidates=candidates)
        return candidates.sum(-1)

    policy.energies = record  # type: ignore
    policy.loss(batch, Draw(0, 2, 3))
    steps = (seen["place"][..., None, :] - policy.place).abs().sum(-1).argmin(-1)
    assert steps.unique().tolist() == [0, 1, 2, 3]
    rows = torch.arange(8)[:, None]
    assert torch.equal(seen["candidates"][:, :, 0], clean[rows, steps])
    before = torch.where(steps[..., None] > 0, clean[rows, (steps - 1).clamp(min=0)], 0.0)
    assert torch.equal(seen["previous"], before)
    assert seen["candidates"].abs().max() <= 1.05


def test_resampling_keeps_the_shares() -> None:
    candidates = torch.arange(4.0).reshape(1, 4, 1)
    logits = torch.tensor([[0.5, 0.25, 0.25, 1e-9]]).log()
    drawn = resample(candidates, logits, torch.tensor([0.5]), 8).flatten().tolist()
    assert drawn == [0, 0, 0, 0, 1, 1, 2, 2]
