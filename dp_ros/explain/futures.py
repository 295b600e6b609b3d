"""Many futures of a policy from one start, and how its mind changes from step to step.

Each future is an episode of its own with its own sampling noise, through the runtime that a robot has. Easy to get
wrong: a policy that does not draw has one future, drawn as often as it is asked; and the mean of many futures is none
of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_ros.explain.models import Explained
from dp_ros.explain.symmetric_start import BAR_HALF_PX, Floats, Side, lateral_px, side, symmetric_start
from dp_ros.runtime.execution import InferenceRequest
from dp_ros.sim.pusht_batch import rollouts

#: A plan that stays nearer to the axis than this has not chosen a side.
_UNDECIDED_PX = 20.0


@dataclass(frozen=True)
class Futures:
    """Futures of one policy.

    Attributes:
        paths: (n, steps + 1, 2) of the agent, px.
        chunks: (n, horizon, 2) drawn at the start, px.
        sides: which way round each went.
    """

    paths: Floats
    chunks: Floats
    sides: list[Side]

    @property
    def counts(self) -> dict[str, int]:
        """How many went which way."""
        return {name: self.sides.count(name) for name in ("above", "below", "neither")}

    def as_json(self) -> dict[str, Any]:
        """The numbers behind the picture."""
        mean = self.paths.mean(axis=0)
        nearest = np.abs(lateral_px(mean)).max()
        return {
            "sides": self.counts,
            "mean_path_goes": side(mean),
            "mean_path_farthest_from_axis_px": round(float(nearest), 2),
            "paths_px": self.paths.round(2).tolist(),
            "chunks_px": self.chunks.round(2).tolist(),
        }


@dataclass(frozen=True)
class Switching:
    """How plans of one policy follow one another when it is asked at every step.

    Attributes:
        inconsistency_px: (n, steps - 1) mean distance between a plan and the next one where they overlap.
        farthest_px: (n, steps) where each plan is farthest from the axis; the sign says on which side.
        undecided: (n, steps) bool, whether the agent had not yet come beyond an end of the bar.
        switches: (n,) how often a plan goes for the other side than the one before, as long as it had not.
    """

    inconsistency_px: Floats
    farthest_px: Floats
    undecided: NDArray[np.bool_]
    switches: NDArray[np.int64]

    def as_json(self) -> dict[str, Any]:
        """The numbers behind the picture."""
        return {
            "mean_inconsistency_px": round(float(self.inconsistency_px.mean()), 3),
            "mean_switches": round(float(self.switches.mean()), 3),
            "inconsistency_px": self.inconsistency_px.round(2).tolist(),
            "plan_farthest_from_axis_px": self.farthest_px.round(2).tolist(),
            "undecided": self.undecided.tolist(),
            "switches": self.switches.tolist(),
        }


def sample_futures(model: Explained, n: int, steps: int) -> Futures:
    """Run `n` futures of `steps` control steps from the symmetric start."""
    paths, drawn = _run(model, n, steps, infer_every=None)
    return Futures(paths, np.array([chunks[0] for chunks in drawn]), [side(path) for path in paths])


def sample_switching(model: Explained, n: int, steps: int) -> Switching:
    """Run `n` futures in which the policy is asked at every one of `steps` control steps."""
    paths, drawn = _run(model, n, steps, infer_every=1)
    chunks = np.array(drawn)  # (n, steps, horizon, 2)
    first = model.policy.task.n_obs_steps - 1
    gaps = np.linalg.norm(chunks[:, :-1, first + 1 :] - chunks[:, 1:, first:-1], axis=-1).mean(axis=-1)
    lateral = lateral_px(chunks)
    at = np.abs(lateral).argmax(axis=-1)
    farthest = np.take_along_axis(lateral, at[..., None], axis=-1)[..., 0]
    undecided = np.logical_and.accumulate(np.abs(lateral_px(paths[:, :-1])) < BAR_HALF_PX, axis=1)
    clear = np.abs(farthest) > _UNDECIDED_PX
    turned = (np.sign(farthest[:, 1:]) != np.sign(farthest[:, :-1])) & clear[:, 1:] & clear[:, :-1]
    return Switching(gaps, farthest, undecided, (turned & undecided[:, 1:]).sum(axis=1))


def _run(
    model: Explained, n: int, steps: int, infer_every: int | None
) -> tuple[Floats, list[list[NDArray[np.floating]]]]:
    """Paths (n, steps + 1, 2) of the agent, and the chunks that each future was made of, in order."""
    drawn: dict[int, list[NDArray[np.floating]]] = {}
    answer = model.sample_requests

    def sample_requests(requests: Sequence[InferenceRequest]) -> NDArray[np.floating]:
        actions = answer(requests)
        for request, chunk in zip(requests, actions, strict=True):
            drawn.setdefault(request.seed, []).append(chunk)
        return actions

    starts = [(0, repeat) for repeat in range(n)]
    task, start = model.policy.task, symmetric_start()
    episodes = sorted(
        rollouts(task, sample_requests, starts, state=start, max_steps=steps, infer_every=infer_every),
        key=lambda one: one.repeat,
    )
    paths = np.empty((n, steps + 1, 2))
    for path, one in zip(paths, episodes, strict=True):
        agent = np.array(one.states)[:, :2]
        path[: len(agent)], path[len(agent) :] = agent, agent[-1]
    return paths, [drawn[seed] for seed in sorted(drawn)]
