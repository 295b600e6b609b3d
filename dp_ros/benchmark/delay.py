"""Scores under injected latency: what each way to execute chunks loses when the model is slow.

Episodes run in one process on a clock that moves on while an inference is under way (`sim.pusht_rollout`), so that
a latency of 400 ms costs no waiting and a run can be repeated exactly. Every cell, a mode at a latency, runs the
same start states with the same sampling noise. Easy to get wrong: modes may be compared within a table, but a cell
over 50 seeds still moves by 0.02 with the sampling noise alone, which is what repeats are for.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dp_ros.benchmark.choice import RULE, Candidate, Choice
from dp_ros.benchmark.episode import Cell, run_episode
from dp_ros.benchmark.report import DelayResult
from dp_ros.inference.engine import Engine
from dp_ros.inference.load import load_engine
from dp_ros.process_pool import map_loaded
from dp_ros.runtime.execution import Mode
from dp_ros.sim.pusht_rollout import EpisodeResult
from dp_ros.training.evaluate import mean_interval_95

LATENCIES_MS = (0, 100, 200, 400)


@dataclass(frozen=True)
class Job:
    """One episode."""

    cell: Cell
    seed: int
    repeat: int


def jobs_of(cells: Sequence[Cell], seeds: Sequence[int], repeats: int) -> list[Job]:
    """All episodes: start state by start state, so that whoever stops early has the whole table of some."""
    return [Job(cell, seed, repeat) for repeat, seed, cell in itertools.product(range(repeats), seeds, cells)]


def run_jobs(
    model: Path, engine: str, jobs: Sequence[Job], processes: int
) -> Iterator[tuple[Job, EpisodeResult]]:
    """Run the episodes, as they end, in this process or in several.

    Args:
        model: model folder.
        engine: which engine loads it; one processor thread an inference.
        jobs: what to run.
        processes: how many at a time; with 1 no process is started.
    """
    load = partial(load_engine, str(model), engine, threads=1)
    with contextlib.closing(map_loaded(load, run_job, jobs, processes)) as episodes:
        yield from zip(jobs, episodes, strict=True)


def run_job(engine: Engine, job: Job) -> EpisodeResult:
    """Run one episode; what it looked like is not kept."""
    episode = run_episode(engine, job.cell, job.seed, job.repeat)
    return replace(episode, states=[], plans=[], trajectories=[])


def collect(
    runs: Iterable[tuple[Job, EpisodeResult]],
    n_cells: int,
    budget_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[Cell, list[EpisodeResult]]:
    """Episodes by cell.

    Args:
        runs: in the order of `jobs_of`.
        n_cells: cells of the table; a multiple of it is taken, so that all cells have the same start states.
        budget_s: after this time only what has been begun is finished; None takes everything.
        clock: for tests.
    """
    end_s = None if budget_s is None else clock() + budget_s
    found: dict[Cell, list[EpisodeResult]] = {}
    for count, (job, episode) in enumerate(runs, start=1):
        found.setdefault(job.cell, []).append(episode)
        if end_s is not None and count % n_cells == 0 and clock() >= end_s:
            break
    return found


def summarize(cell: Cell, outcomes: Sequence[EpisodeResult]) -> DelayResult:
    """Mean, interval and success of a cell's episodes, of which there is at least one."""
    return DelayResult(
        mean_score=float(np.mean([outcome.score for outcome in outcomes])),
        success_rate=float(np.mean([outcome.success for outcome in outcomes])),
        interval_95=mean_interval_95(outcomes),
        episodes=len(outcomes),
        infer_every=cell.infer_every,
    )


def candidates_of(outcomes: Mapping[Cell, Sequence[EpisodeResult]]) -> list[Candidate]:
    """Executions with their merit by seed, over all latencies; the naive loop is no candidate."""
    merits: dict[tuple[Mode, int], dict[int, list[float]]] = {}
    for cell, found in outcomes.items():
        if cell.mode == "naive":
            continue
        by_seed = merits.setdefault((cell.mode, cell.infer_every), {})
        for outcome in found:
            by_seed.setdefault(outcome.seed, []).append((outcome.score + outcome.success) / 2)
    return [
        Candidate(mode, infer_every, {seed: float(np.mean(values)) for seed, values in by_seed.items()})
        for (mode, infer_every), by_seed in merits.items()
    ]


def execution_json(
    choice: Choice, candidates: Sequence[Candidate], outcomes: Mapping[Cell, Sequence[EpisodeResult]]
) -> dict[str, Any]:
    """The choice, its rule and every candidate with its scores."""
    rows = []
    for candidate in sorted(candidates, key=lambda c: -c.merit):
        execution = (candidate.mode, candidate.infer_every)
        scores = {
            str(cell.latency_ms): vars(summarize(cell, found))
            for cell, found in outcomes.items()
            if (cell.mode, cell.infer_every) == execution
        }
        rows.append(
            {"mode": execution[0], "infer_every": execution[1], "merit": candidate.merit, "delay": scores}
        )
    chosen = choice.chosen
    return {
        "mode": chosen.mode,
        "infer_every": chosen.infer_every,
        "reason": choice.reason,
        "rule": RULE,
        "candidates": rows,
    }
