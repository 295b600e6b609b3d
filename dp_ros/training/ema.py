"""Exponential moving average of a policy's weights; this copy is what is evaluated and exported.

The decay rises with the step, `1 - (1 + step) ** -power`, so that the average forgets the random start. Easy
to get wrong: the average belongs to the state of a run as much as the weights do; a resumed run must load
both.
"""

from __future__ import annotations

import copy

import torch

from dp_ros.policies.policy import Policy


class WeightAverage:
    """Keeps `policy`, a copy of the given policy with averaged weights.

    Args:
        policy: the policy being trained; its parameters are those that it has now, whose values change.
        power: how fast the decay rises.
        max_decay: where it ends.
    """

    def __init__(self, policy: Policy, power: float, max_decay: float) -> None:
        self.policy = copy.deepcopy(policy).eval().requires_grad_(False)
        self._averaged: list[torch.Tensor] = list(self.policy.parameters())
        self._followed: list[torch.Tensor] = list(policy.parameters())
        self._power, self._max_decay = power, max_decay

    def decay(self, step: int) -> float:
        """Weight of the old average in the update after optimiser step `step`, counted from 1."""
        return min(self._max_decay, 1.0 - (1.0 + step) ** -self._power)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights as they are after optimiser step `step`, counted from 1."""
        torch._foreach_lerp_(self._averaged, self._followed, 1.0 - self.decay(step))
