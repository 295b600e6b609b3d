"""Demonstrations that go left as often as right from one and the same start, and small policies to learn them."""

from __future__ import annotations

import torch

from dp_ros.inference.sampler import SamplerSpec
from dp_ros.policies.baselines.specs import BaselineSpec, BetSpec, IbcSpec, LstmGmmSpec, RegressionSpec
from dp_ros.policies.baselines.state_policy import StatePolicy
from dp_ros.policies.build import build_policy
from dp_ros.policies.policy import Batch, Draw
from dp_ros.task import TaskSpec, load_task
from test.policies.small import STATISTICS, observation_batch

LEFT, MIDDLE, RIGHT = 100.0, 255.0, 410.0  # px, of a range from 5 to 505
SMALL: dict[str, BaselineSpec] = {
    "regression": RegressionSpec(width=32, blocks=1),
    "lstm_gmm": LstmGmmSpec(width=32, layers=1),
    "bet": BetSpec(bins=3, width=16, layers=1, heads=2),
    "ibc": IbcSpec(observation_width=32, width=32, layers=1, counter_examples=32, candidates=128),
}


def toy_task(horizon: int = 4) -> TaskSpec:
    """PushT with a short horizon."""
    return load_task("pusht_state").model_copy(update={"horizon": horizon, "n_action_steps": 3})


def toy_policy(network: BaselineSpec, seed: int = 0, horizon: int = 4) -> StatePolicy:
    """A policy with random weights, its bins (if it has any) in the toy's actions."""
    torch.manual_seed(seed)
    policy = build_policy(toy_task(horizon), STATISTICS, network, SamplerSpec())  # type: ignore[arg-type]
    assert isinstance(policy, StatePolicy)
    policy.prepare(both_ways(64, horizon).actions)
    return policy


def both_ways(n: int, horizon: int = 4) -> Batch:
    """n samples with one observation; every other goes left, with a little spread."""
    one = observation_batch(1)
    side = torch.where(torch.arange(n) % 2 == 0, LEFT, RIGHT)[:, None].expand(n, horizon)
    spread = torch.randn((n, horizon, 2), generator=torch.Generator().manual_seed(n)) * 3.0
    actions = torch.stack([side, torch.full_like(side, 200.0)], dim=-1) + spread
    return Batch({key: value.expand(n, *value.shape[1:]) for key, value in one.items()}, actions)


def train(policy: StatePolicy, batch: Batch, steps: int, rate: float) -> list[float]:
    """Losses of so many steps on the one batch, the rate falling to zero as in a real training."""
    optimizer = torch.optim.AdamW(policy.parameters(), lr=rate, betas=(0.95, 0.999))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    policy.train()
    for step in range(steps):
        optimizer.zero_grad()
        loss = policy.loss(batch, Draw(0, 2, step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    policy.eval()
    return losses


def draws(policy: StatePolicy, n: int, seed: int = 0) -> torch.Tensor:
    """n drawn chunks (n, horizon, 2), px, for the one observation."""
    noise = torch.randn((n, *policy.noise_shape), generator=torch.Generator().manual_seed(seed))
    return policy.sample(both_ways(n).observation, noise)


def share_near(values: torch.Tensor, wanted: float, within: float = 40.0) -> float:
    """Share of the values within so many px."""
    return ((values - wanted).abs() < within).float().mean().item()
