"""How fast a model draws a chunk: through its engine, the eager way, and as the machine could at best.

The eager way is what one writes first and what other implementations run: torch modules and the loop of diffusers
around them, with the same weights, noise, number of steps and threads. Both run in turns, one call each, and the
speedup is the median of the turns' ratios, so that other work on the machine falls on both. Easy to get wrong: the
first calls of either are slow (memory, threads, kernels chosen) and do not count here; what they cost a node is in the
start-up, measured in a process of its own. And the threads of torch stay awake for some milliseconds after a call, on
the cores that the next way needs: each call begins from rest, as on a robot between two chunks.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from dp_ros.benchmark.report import Quantiles
from dp_ros.benchmark.roofline import Limits, Work, limits_of_machine, work_of
from dp_ros.errors import UserError
from dp_ros.inference.engine import CheckedEngine, Engine
from dp_ros.inference.export import made_up_observations
from dp_ros.inference.load import load_engine
from dp_ros.inference.sampler import sampling_noise
from dp_ros.inference.torch import load_policy, sample_batch
from dp_ros.policies.diffusion import DiffusionPolicy

T = TypeVar("T")
_WARM_UP = 3
_FEWEST_TURNS = 10
_EVEN_TURNS = 100
_OBSERVATIONS = 8
#: Before a call that is timed: more than threads stay awake for nothing (those of GNU OpenMP about 6 ms).
_REST_S = 0.03
_START = """
import json, sys, time
begun = time.perf_counter()
from dp_ros.inference.load import load_engine
engine = load_engine(sys.argv[1], sys.argv[2], threads=int(sys.argv[3]))  # kept: it is what is resident
seconds = time.perf_counter() - begun
status = dict(line.split(":", 1) for line in open("/proc/self/status") if line.startswith("Vm"))
print(json.dumps([seconds, int(status["VmRSS"].split()[0]) / 1024]))
"""


@dataclass(frozen=True)
class InferenceSpeed:
    """Batch 1, one model, so many threads.

    Attributes:
        engine: that ran it.
        threads: of both ways.
        turns: calls of each way.
        total_ms: of a call through the engine, from arrays of an observation to the actions.
        p99_over_p50: of `total_ms`, how even the calls are.
        eager_ms: of a call the eager way.
        speedup: eager time over the engine's, median of the turns.
        max_abs_diff: largest difference of the two's actions, in the normalised range of 2.
        encoder_ms: of encoding all pictures of an observation; None without pictures, or where pictures are not encoded
            apart: with engine torch, and with ONNX Runtime in model folders of schema 2.
        sampler_ms: of a call whose pictures were encoded when they arrived.
        eager_encoder_ms: of encoding the same pictures the eager way.
        encoder_speedup: eager time over the engine's, median of the turns.
        startup_s: from the import to a warmed-up engine, in a process of its own.
        rss_mb: memory that this process then has resident, MiB.
        work: what a call computes.
        limits: of the machine, measured.
        roofline_fraction: shortest time that the limits allow over the median of `total_ms`.
        even_work_ms: of arithmetic of one thread that takes about as long as a call and is always the same: how uneven
            the machine makes even work.
    """

    engine: str
    threads: int
    turns: int
    total_ms: Quantiles
    p99_over_p50: float
    eager_ms: Quantiles
    speedup: float
    max_abs_diff: float
    encoder_ms: Quantiles | None
    sampler_ms: Quantiles | None
    eager_encoder_ms: Quantiles | None
    encoder_speedup: float | None
    startup_s: float
    rss_mb: float
    work: Work
    limits: Limits
    roofline_fraction: float
    even_work_ms: Quantiles


def measure_inference(folder: Path, engine_name: str, threads: int, seconds: float) -> InferenceSpeed:
    """Measure a model folder for about so many seconds, and no less than ten turns.

    Raises:
        UserError: if the folder cannot be used, or its policy does not denoise.
    """
    startup_s, rss_mb = _start(folder, engine_name, threads)
    engine = load_engine(folder, engine_name, threads=threads)
    policy = load_policy(folder, engine.manifest)
    if not isinstance(policy, DiffusionPolicy):
        raise UserError(
            f"model {folder}: a {engine.manifest.network.kind} policy does not denoise, so there is no eager loop to "
            "compare with; give a diffusion policy"
        )
    policy.eval()
    torch.set_num_threads(threads)
    observations = made_up_observations(policy, _OBSERVATIONS)
    scale = policy.normalizers["action"].scale.numpy()  # type: ignore[union-attr, operator]
    ours: list[float] = []
    eager: list[float] = []
    largest, begun = 0.0, time.perf_counter()
    turn = -_WARM_UP
    while turn < _FEWEST_TURNS or time.perf_counter() - begun < seconds:
        observation = observations[turn % _OBSERVATIONS]
        noise = sampling_noise(0, turn + _WARM_UP, (policy.task.horizon, policy.task.action.dim))
        ways = [lambda: engine.sample(observation, noise), lambda: _eager(policy, observation, noise)]  # noqa: B023
        found: dict[int, tuple[float, NDArray[np.float32]]] = {}
        for way in (0, 1) if turn % 2 else (1, 0):
            found[way] = _timed(ways[way])
        if turn >= 0:
            ours.append(found[0][0])
            eager.append(found[1][0])
        else:
            begun = time.perf_counter()
        largest = max(largest, float(np.abs((found[0][1] - found[1][1]) * scale).max()))
        turn += 1
    encoding = (
        _measure_encoder(engine, policy, observations, seconds / 4) if policy.vision is not None else None
    )
    work = work_of(policy, engine.name)
    total_ms = Quantiles.of(ours)
    limits = limits_of_machine(work.step_bytes, threads)
    return InferenceSpeed(
        engine=engine.name,
        threads=threads,
        turns=len(ours),
        total_ms=total_ms,
        p99_over_p50=total_ms.p99 / total_ms.p50,
        eager_ms=Quantiles.of(eager),
        speedup=float(np.median(np.array(eager) / np.array(ours))),
        max_abs_diff=largest,
        encoder_ms=Quantiles.of(encoding.ours) if encoding else None,
        sampler_ms=Quantiles.of(encoding.sampler) if encoding else None,
        eager_encoder_ms=Quantiles.of(encoding.eager) if encoding else None,
        encoder_speedup=float(np.median(np.array(encoding.eager) / np.array(encoding.ours)))
        if encoding
        else None,
        startup_s=startup_s,
        rss_mb=rss_mb,
        work=work,
        limits=limits,
        roofline_fraction=1e3 * limits.seconds(work) / total_ms.p50,
        even_work_ms=_even_work(total_ms.p50, min(len(ours), _EVEN_TURNS)),
    )


@dataclass(frozen=True)
class _Encoding:
    """Times of turns, ms: of encoding an observation, of a draw whose pictures are encoded, of the eager encoder."""

    ours: list[float]
    sampler: list[float]
    eager: list[float]


def _measure_encoder(
    engine: Engine, policy: DiffusionPolicy, observations: list[dict[str, NDArray[Any]]], seconds: float
) -> _Encoding | None:
    """None for an engine that encodes and draws in one."""
    if not isinstance(engine, CheckedEngine) or not engine.encode_pictures(observations[-1]):
        return None
    times = _Encoding([], [], [])
    noise = sampling_noise(0, 0, (policy.task.horizon, policy.task.action.dim))
    turn, begun = -_WARM_UP, time.perf_counter()
    while turn < _FEWEST_TURNS or time.perf_counter() - begun < seconds:
        observation = observations[turn % _OBSERVATIONS]  # no picture of it is remembered from the last round
        one = {key: value[None] for key, value in observation.items()}
        tensors = {key: torch.from_numpy(value) for key, value in one.items()}
        taken = []
        for way in (
            lambda: engine.encode_pictures(observation),  # noqa: B023
            lambda: engine.sample(observation, noise),  # noqa: B023
            lambda: policy.encode(tensors),  # noqa: B023
        ):
            with torch.inference_mode():
                taken.append(_timed(way)[0])
        if turn >= 0:
            for values, took in zip((times.ours, times.sampler, times.eager), taken, strict=True):
                values.append(took)
        turn += 1
    return times


def _timed(way: Callable[[], T]) -> tuple[float, T]:
    """ms of a call that begins from rest, and what it gives."""
    time.sleep(_REST_S)
    start = time.perf_counter()
    found = way()
    return 1e3 * (time.perf_counter() - start), found


def _even_work(ms: float, turns: int) -> Quantiles:
    """Times of arithmetic that takes about `ms`, from rest."""
    values = np.ones(2000, np.float32)
    other = np.empty_like(values)

    def work(rounds: int) -> None:
        for _ in range(rounds):
            np.multiply(values, np.float32(0.5), out=other)
            np.add(other, np.float32(0.5), out=values)

    rounds = 64
    while (took_ms := min(_timed(functools.partial(work, rounds))[0] for _ in range(3))) < ms / 2:
        rounds *= 2
    rounds = max(round(rounds * ms / took_ms), 1)
    return Quantiles.of([_timed(functools.partial(work, rounds))[0] for _ in range(turns)])


def _eager(
    policy: DiffusionPolicy, observation: Mapping[str, NDArray[Any]], noise: NDArray[np.float32]
) -> NDArray[np.float32]:
    return sample_batch(policy, {key: value[None] for key, value in observation.items()}, noise[None])[0]


def _start(folder: Path, engine_name: str, threads: int) -> tuple[float, float]:
    """Seconds and resident MiB of a process that loads the model and no more."""
    command = [sys.executable, "-c", _START, str(folder), engine_name, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), timeout=300)
    if done.returncode:
        raise UserError(f"model {folder}: could not be loaded: {done.stderr.strip().splitlines()[-1]}")
    seconds, rss_mb = json.loads(done.stdout.splitlines()[-1])
    return float(seconds), float(rss_mb)
