"""What `dagger.json` holds: what was asked for, and what each round brought.

Easy to get wrong: the gain of a round is the difference on the same start states with the same sampling noise, so
its interval is that of paired differences, far narrower than the two scores' own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from dp_ros.errors import UserError
from dp_ros.inference.manifest import explain
from dp_ros.runtime.execution import Mode
from dp_ros.sim.pusht_episodes import DemonstrationStyle
from dp_ros.sim.pusht_rollout import EpisodeResult
from dp_ros.training.checkpoint import write_atomically
from dp_ros.training.evaluate import summarize

DAGGER_FILE = "dagger.json"
_VERSION = 2
_RESAMPLES = 10000


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DaggerSettings(_Strict):
    """What was asked for.

    Attributes:
        run: whose policy the first round begins with.
        data: recording that the labels are added to a copy of.
        takeovers: recording of an operator's takeovers, instead of the expert in simulation.
        rounds: how many.
        episodes: start states of a round.
        first_seed: of the first round's first start state; the others follow.
        earliest, latest, patience: see `TakeoverRule`.
        style: how the expert demonstrates.
        mode, infer_every: how the policy's chunks are executed, for labels and scores, see `Execution`.
        latencies_ms: injected latencies, one a start state in turn for labels, each for scores; none: lockstep.
        processes: how many processes gather labels.
        eval_seeds: start states that each round's policy is scored on.
        overrides: values of the recipe of each round's training by dotted name.
    """

    run: str
    data: str
    takeovers: str | None = None
    rounds: int
    episodes: int
    first_seed: int
    earliest: int
    latest: int
    patience: int
    style: DemonstrationStyle = DemonstrationStyle()
    mode: Mode = "replace"
    infer_every: int | None = None
    latencies_ms: tuple[float, ...] = ()
    processes: int = 1
    eval_seeds: str
    overrides: dict[str, Any]


class Score(_Strict):
    """Of a policy on `eval_seeds`, one episode each at each latency."""

    mean_score: float
    interval_95: tuple[float, float] | None
    success_rate: float
    success_rates: dict[float, float] = {}
    """By injected latency, ms."""
    scores: dict[int, float]
    """By seed: mean over the latencies."""

    @classmethod
    def of(cls, episodes: Mapping[float | None, Sequence[EpisodeResult]]) -> Score:
        """Score of the episodes of each latency; None: lockstep."""
        together = [one for each in episodes.values() for one in each]
        summary = summarize(together)
        by_seed: dict[int, list[float]] = {}
        for one in together:
            by_seed.setdefault(one.seed, []).append(one.score)
        rates = {ms: summarize(each).success_rate for ms, each in episodes.items() if ms is not None}
        return cls(
            mean_score=summary.mean_score,
            interval_95=summary.interval_95,
            success_rate=summary.success_rate,
            success_rates=rates,
            scores={seed: float(np.mean(scores)) for seed, scores in by_seed.items()},
        )


class Labels(_Strict):
    """What the labelling of a round came to, in start states (or takeovers), and rows."""

    labelled: int
    solved: int = 0
    """By the policy before the expert came."""
    unsolved: int = 0
    """By the expert neither."""
    rows: int


class Round(_Strict):
    """One round; `score` is None where the task cannot be simulated."""

    labels: Labels
    run: str
    score: Score | None = None


class DaggerRecord(_Strict):
    """Contents of `dagger.json`."""

    schema_version: int = _VERSION
    settings: DaggerSettings
    before: Score | None = None
    """Of the policy that the first round begins with."""
    rounds: list[Round] = []

    def save(self, out: Path) -> None:
        """Write it into the folder, with the gains."""
        text = json.dumps({**self.model_dump(mode="json"), "gains": gains(self)}, indent=2)
        write_atomically(out / DAGGER_FILE, text + "\n")

    @classmethod
    def open(cls, out: Path) -> DaggerRecord:
        """Read it. Raises UserError if the folder has none, or another version of dp_ros wrote it otherwise."""
        path = out / DAGGER_FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            data.pop("gains", None)
        except OSError:
            raise UserError(f"{out}: has no {DAGGER_FILE}; `dp-ros dagger --run RUN` begins one") from None
        except (ValueError, AttributeError) as error:
            raise UserError(f"{path}: cannot be read: {error}") from None
        version = data.get("schema_version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise UserError(f"{path}: schema_version: got {version!r}, expected 1 to {_VERSION}")
        if version > _VERSION:
            raise UserError(f"{path}: schema_version {version} is newer than {_VERSION}; update dp_ros")
        try:
            return cls.model_validate({**data, "schema_version": _VERSION})
        except ValidationError as error:
            problems = "\n  ".join(explain(error))
            if version == _VERSION:
                raise UserError(f"{path}: {problems}") from None
            raise UserError(
                f"{path}: schema_version {version} is older than {_VERSION}, with settings that this dp_ros does not "
                f"have, so that its rounds cannot be gone on with; begin anew from the newest of them, with "
                f"--run {out}/round_N --data {out}/data.zarr and another --out\n  {problems}"
            ) from None


def gains(record: DaggerRecord) -> list[dict[str, Any]]:
    """Of each round over the one before it: mean difference of the scores and its 95 % interval."""
    found, before = [], record.before
    for one in record.rounds:
        if one.score is not None and before is not None:
            mean, interval = paired_gain(before.scores, one.score.scores)
            found.append({"mean_score": mean, "interval_95": interval})
        before = one.score
    return found


def paired_gain(
    before: dict[int, float], after: dict[int, float]
) -> tuple[float, tuple[float, float] | None]:
    """Mean difference over the same seeds, and its 95 % interval: percentile bootstrap of the seeds."""
    seeds = sorted(before.keys() & after.keys())
    change = np.array([after[seed] - before[seed] for seed in seeds])
    if len(change) < 2:
        return float(change.mean()), None
    drawn = np.random.default_rng(0).integers(len(change), size=(_RESAMPLES, len(change)))
    low, high = np.percentile(change[drawn].mean(axis=1), [2.5, 97.5])
    return float(change.mean()), (float(low), float(high))
