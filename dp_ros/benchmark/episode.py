"""One episode on the simulated robot with a given way to execute chunks and an injected latency."""

from __future__ import annotations

from dataclasses import dataclass

from dp_ros.benchmark.report import BenchmarkMode
from dp_ros.inference.engine import Engine
from dp_ros.inference.worker import sample_request
from dp_ros.sim.pusht_rollout import EpisodeResult, rollout


@dataclass(frozen=True, order=True)
class Cell:
    """One entry of the table.

    Attributes:
        mode: how chunks are executed.
        infer_every: steps between inferences, 0 for back to back.
        latency_ms: from an observation to the actions that come of it.
    """

    mode: BenchmarkMode
    infer_every: int
    latency_ms: int


def run_episode(engine: Engine, cell: Cell, seed: int, repeat: int) -> EpisodeResult:
    """Run one episode; the same arguments give the same episode."""
    return rollout(
        engine.task,
        lambda request: sample_request(engine, request),
        seed,
        repeat=repeat,
        mode=cell.mode,
        infer_every=cell.infer_every,
        latency_ms=float(cell.latency_ms),
        warm_start=engine.manifest.sampler.warm_start > 0,
    )
