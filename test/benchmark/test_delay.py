"""The table of scores: which episodes are run, and what is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dp_ros import bringup
from dp_ros.benchmark.delay import Job, candidates_of, collect, jobs_of, run_jobs, summarize
from dp_ros.benchmark.episode import Cell
from dp_ros.sim.pusht_rollout import EpisodeResult

SOLVED_QUICKLY = 100007
CELLS = [Cell(mode, 8, ms) for mode in ("replace", "rtc") for ms in (0, 400)]


def episode(seed: int, score: float, success: bool = False, repeat: int = 0) -> EpisodeResult:
    return EpisodeResult(seed, repeat, score, success, score, 10)


def runs(jobs: list[Job]) -> list[tuple[Job, EpisodeResult]]:
    return [(job, episode(job.seed, 0.5, repeat=job.repeat)) for job in jobs]


def test_every_cell_gets_every_start_state_and_repeat_once() -> None:
    jobs = jobs_of(CELLS, [3, 5, 8], 2)
    assert len(set(jobs)) == len(jobs) == 4 * 3 * 2


def test_without_a_budget_everything_is_taken() -> None:
    found = collect(runs(jobs_of(CELLS, [3, 5, 8], 2)), len(CELLS))
    assert {cell: len(episodes) for cell, episodes in found.items()} == dict.fromkeys(CELLS, 6)


def test_a_budget_ends_after_a_start_state_that_all_cells_have() -> None:
    now = iter(range(1000))  # a second passes at each look: at the start, and after each start state
    found = collect(runs(jobs_of(CELLS, list(range(50)), 1)), len(CELLS), 3.0, lambda: float(next(now)))
    assert {cell: [e.seed for e in episodes] for cell, episodes in found.items()} == dict.fromkeys(
        CELLS, [0, 1, 2]
    )


def test_a_budget_that_is_over_at_once_still_gives_one_start_state() -> None:
    now = iter(range(0, 10_000, 100))
    found = collect(runs(jobs_of(CELLS, [1, 2], 1)), len(CELLS), 1.0, lambda: float(next(now)))
    assert [len(episodes) for episodes in found.values()] == [1] * len(CELLS)


def test_a_cell_is_summarized_with_its_interval() -> None:
    result = summarize(Cell("rtc", 4, 400), [episode(1, 0.2), episode(2, 1.0, True), episode(3, 0.9, True)])
    assert result.mean_score == pytest.approx(0.7)
    assert result.success_rate == pytest.approx(2 / 3)
    assert result.interval_95 is not None
    assert result.interval_95[0] <= 0.7 <= result.interval_95[1]
    assert (result.episodes, result.infer_every) == (3, 4)


def test_merit_is_the_mean_of_score_and_success_over_latencies_and_repeats() -> None:
    outcomes = {
        Cell("rtc", 8, 0): [episode(1, 1.0, True), episode(1, 0.8, False, repeat=1)],
        Cell("rtc", 8, 400): [episode(1, 0.4, False), episode(1, 0.2, False, repeat=1)],
        Cell("replace", 8, 0): [episode(1, 0.5)],
    }
    merits = {c.mode: c.merit for c in candidates_of(outcomes)}
    assert merits["rtc"] == pytest.approx((1.0 + 0.4 + 0.2 + 0.1) / 4)
    assert merits["replace"] == pytest.approx(0.25)


def test_several_processes_give_the_same_episodes_as_one() -> None:
    model = Path(bringup.model_folder("pusht_state"))
    jobs = jobs_of([Cell("naive", 8, 0), Cell("replace", 8, 200)], [SOLVED_QUICKLY], 1)
    alone, together = (list(run_jobs(model, "onnx", jobs, processes)) for processes in (1, 2))
    assert [job for job, _ in together] == jobs
    for (_, one), (_, other) in zip(alone, together, strict=True):
        assert (one.score, one.steps, one.success) == (other.score, other.steps, other.success)
        assert not other.states, "pictures of hundreds of episodes are not sent between processes"
