"""The execution that a model gets by default."""

from __future__ import annotations

import pytest

from dp_ros.benchmark.choice import Candidate, choose, infer_every_candidates


def flat(mode: str, infer_every: int, merit: float, spread: float = 0.0) -> Candidate:
    """A candidate whose merit differs from seed to seed by `spread`, in its own way."""
    phase = len(mode) + infer_every
    return Candidate(mode, infer_every, {s: merit + spread * (-1) ** (s // phase) for s in range(100, 160)})


def test_the_best_is_taken_when_it_is_clearly_best() -> None:
    choice = choose([flat("replace", 8, 0.7), flat("rtc", 0, 0.9), flat("rtc", 4, 0.8)])
    assert (choice.chosen.mode, choice.chosen.infer_every) == ("rtc", 0)
    assert "highest merit" in choice.reason


def test_what_the_seeds_cannot_tell_from_the_best_is_taken_if_it_is_simpler() -> None:
    choice = choose([flat("rtc", 4, 0.81, 0.2), flat("replace", 8, 0.80, 0.2), flat("ensemble", 8, 0.3, 0.2)])
    assert choice.best.mode == "rtc"
    assert choice.chosen.mode == "replace"
    assert "simpler" in choice.reason


def test_the_comparison_is_paired_over_seeds() -> None:
    # Both vary much from seed to seed, but in the same way: the difference is certain.
    merits = {seed: (seed % 2) * 0.8 for seed in range(50)}
    better = Candidate("rtc", 8, {seed: merit + 0.05 for seed, merit in merits.items()})
    assert choose([Candidate("replace", 8, merits), better]).chosen is better


def test_of_equals_the_one_that_infers_less_often_is_taken() -> None:
    choice = choose([flat("rtc", 0, 0.8), flat("rtc", 4, 0.8), flat("rtc", 8, 0.8)])
    assert choice.chosen.infer_every == 8


def test_back_to_back_counts_as_most_often() -> None:
    assert choose([flat("rtc", 0, 0.8), flat("rtc", 1, 0.8)]).chosen.infer_every == 1


def test_candidates_of_different_seeds_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different seeds"):
        choose([Candidate("rtc", 8, {1: 0.5}), Candidate("replace", 8, {2: 0.5})])


def test_all_half_of_and_no_steps_between_inferences_are_tried() -> None:
    assert infer_every_candidates(8) == (8, 4, 0)
    assert infer_every_candidates(1) == (1, 0)
