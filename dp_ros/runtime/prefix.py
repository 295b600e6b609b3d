"""Prefix: what a new chunk has to go on from, the plan that is executed while it is being sampled.

    rows of the horizon     0 ... n_known - 1 | n_known ... n_planned - 1 | n_planned ... horizon - 1
    in the running plan     executed by then  | planned, can be changed   | nothing planned
    weight                  1                 | falling towards 0         | 0

Real-time chunking (Black, Galliker and Levine, 2025, arXiv 2506.07339) fixes the first kind, so that the new chunk
joins where it takes over, and pulls the second towards what was planned, so that it does not change its mind at
every inference. Easy to get wrong: row 0 belongs to the *oldest* observation, so d actions executed from now on make
n_obs_steps - 1 + d known rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Prefix:
    """Known and planned actions that a sample starts with.

    Attributes:
        actions: (horizon, dim) float32 in the units of the policy's actions; what stands where the weight is 0 is
            of no effect, unless a draw begins with it.
        weights: (horizon,) float32 that never rise: 1 = fixed, between = pulled towards, 0 = free.
        warm: whether all `actions` are a plan, its last one held, which a draw may begin with whatever the weights
            (`SamplerSpec.warm_start`); (B,) of a stacked one.
    """

    actions: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    warm: bool | npt.NDArray[np.bool_] = False

    @classmethod
    def none(cls, shape: tuple[int, int]) -> Prefix:
        """One that changes nothing, for actions of a shape: for a sample among others that have one."""
        return cls(np.zeros(shape, np.float32), np.zeros(shape[0], np.float32))

    @classmethod
    def stacked(cls, prefixes: Sequence[Prefix]) -> Prefix:
        """B of them as one, whose arrays have B in front, as `Engine.sample_batch` takes it."""
        actions = np.stack([each.actions for each in prefixes])
        weights = np.stack([each.weights for each in prefixes])
        return cls(actions, weights, np.array([each.warm for each in prefixes], np.bool_))

    def __getitem__(self, rows: Any) -> Prefix:
        """One, or some, of a stacked one; `None` stacks one alone."""
        warm = np.broadcast_to(self.warm, self.actions.shape[:-2])
        return Prefix(self.actions[rows], self.weights[rows], warm[rows])

    @classmethod
    def from_plan(
        cls, planned: npt.NDArray[np.floating], *, n_known: int, horizon: int, soft: bool = True
    ) -> Prefix:
        """Prefix from the running plan.

        Args:
            planned: (n_planned, dim) actions of rows 0 to n_planned - 1; of more than `horizon`, the first count.
            n_known: rows that will have been executed, or are past, when the new chunk is ready; those beyond the
                plan cannot be known and are free.
            horizon: rows of a sample.
            soft: also pull the planned rows after the known ones (`prefix_weights`).

        Raises:
            ValueError: if nothing is planned, or a number is negative.
        """
        if len(planned) == 0:
            raise ValueError("a prefix needs at least one planned action")
        n_planned = min(len(planned), horizon)
        actions = np.empty((horizon, planned.shape[1]), np.float32)
        actions[:n_planned] = planned[:n_planned]
        actions[n_planned:] = planned[n_planned - 1]
        n_known = min(n_known, n_planned)
        return cls(actions, prefix_weights(horizon, n_known, n_planned if soft else n_known), warm=True)


def prefix_weights(horizon: int, n_known: int, n_planned: int) -> npt.NDArray[np.float32]:
    """Weights (horizon,): 1 for the known rows, falling exponentially over the planned ones, 0 after them.

    Equation 5 of arXiv 2506.07339: c (exp(c) - 1) / (exp(1) - 1) with c falling linearly from nearly 1 to nearly 0.

    Raises:
        ValueError: unless 0 <= n_known <= n_planned <= horizon.
    """
    if not 0 <= n_known <= n_planned <= horizon:
        raise ValueError(
            f"n_known {n_known}, n_planned {n_planned}, horizon {horizon}: "
            "expected 0 <= n_known <= n_planned <= horizon"
        )
    row = np.arange(horizon)
    share = np.clip((n_planned - row) / (n_planned - n_known + 1), 0.0, 1.0)
    falling = share * np.expm1(share) / math.expm1(1.0)
    return np.where(row < n_known, 1.0, falling).astype(np.float32)
