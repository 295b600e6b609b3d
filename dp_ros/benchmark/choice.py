"""Which execution suits a model, chosen from its scores under delay.

The candidates run the same episodes (seeds, repeats, latencies). A candidate's merit is the mean of score and
success over all injected latencies: score alone hides what delay does, success shows it. Of all candidates within
one standard error of the best, the simplest is taken ("one standard error rule", Breiman et al., Classification and
Regression Trees, 1984): a difference that 50 seeds cannot show should not buy complexity. Easy to get wrong: the
standard error is of the paired difference over seeds, since the candidates share them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dp_ros.benchmark.report import interval_words
from dp_ros.runtime.execution import MODES, Mode

RULE = (
    "merit = mean over the injected latencies of (mean score + success rate) / 2; of the candidates within one "
    "standard error (paired over seeds) of the best, the simplest: replace before ensemble before rtc, then the "
    "one that infers less often"
)


@dataclass(frozen=True)
class Candidate:
    """An execution and how it did.

    Attributes:
        mode: as in `Execution`; those are in the order of simplicity.
        infer_every: steps between inferences, 0 for back to back.
        merit_by_seed: seed to the mean of (score + success) / 2 over its repeats and all latencies.
    """

    mode: Mode
    infer_every: int
    merit_by_seed: Mapping[int, float]

    @property
    def merit(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(list(self.merit_by_seed.values())))

    @property
    def words(self) -> str:
        """The candidate, for a person."""
        return f"{self.mode}, {interval_words(self.infer_every)}"


@dataclass(frozen=True)
class Choice:
    """What was chosen, the best by merit, and why they differ if they do."""

    chosen: Candidate
    best: Candidate
    reason: str


def infer_every_candidates(n_action_steps: int) -> tuple[int, ...]:
    """Steps between inferences that are tried: all executed steps, half of them, back to back."""
    return tuple(dict.fromkeys((n_action_steps, max(n_action_steps // 2, 1), 0)))


def choose(candidates: Sequence[Candidate]) -> Choice:
    """Apply RULE.

    Raises:
        ValueError: if there are no candidates or they ran different seeds.
    """
    if not candidates:
        raise ValueError("nothing to choose from")
    if any(set(c.merit_by_seed) != set(candidates[0].merit_by_seed) for c in candidates):
        raise ValueError("the candidates ran different seeds")
    best = max(candidates, key=lambda candidate: candidate.merit)
    near = [c for c in candidates if best.merit - c.merit <= _standard_error(best, c)]
    chosen = min(near, key=_complexity)
    if chosen is best:
        reason = f"{chosen.words} has the highest merit, {best.merit:.3f}"
    else:
        reason = (
            f"{chosen.words} (merit {chosen.merit:.3f}) is simpler than {best.words} ({best.merit:.3f}) and "
            f"less than one standard error ({_standard_error(best, chosen):.3f}) behind it"
        )
    return Choice(chosen, best, reason)


def _standard_error(a: Candidate, b: Candidate) -> float:
    """Of the mean difference, paired over seeds; 0 with fewer than two seeds."""
    differences = [a.merit_by_seed[seed] - b.merit_by_seed[seed] for seed in a.merit_by_seed]
    if len(differences) < 2:
        return 0.0
    return float(np.std(differences, ddof=1) / np.sqrt(len(differences)))


def _complexity(candidate: Candidate) -> tuple[int, float]:
    inferences_a_step = 1 / candidate.infer_every if candidate.infer_every else np.inf
    return MODES.index(candidate.mode), inferences_a_step
