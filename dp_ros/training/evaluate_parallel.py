"""Episodes of a model folder: in this process, in several, or on a Ray cluster.

A worker loads the model once and runs portions of the episodes: single ones, or, with an engine that is faster on
batches, as many at once as make equal portions. Easy to get wrong: which episodes share a batch changes the rounding
of a torch engine, so with it another number of processes may move a single episode's score; with ONNX Runtime it
moves nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dp_ros.errors import UserError
from dp_ros.inference.engine import Engine
from dp_ros.inference.load import load_engine
from dp_ros.inference.sampler import sampling_noise
from dp_ros.inference.worker import sample_request
from dp_ros.process_pool import map_in_processes
from dp_ros.sim.pusht import PushT
from dp_ros.sim.pusht_batch import WIDTH, rollouts
from dp_ros.sim.pusht_rollout import EpisodeResult, observe, rollout
from dp_ros.training.evaluate import one_call

Start = tuple[int, int]
#: What `ray.init` is told where it starts a cluster of its own: nothing of it is open to others.
_LOOPBACK = {"_node_ip_address": "127.0.0.1", "include_dashboard": False}
T = TypeVar("T")


def run_engine(engine: Engine, starts: Sequence[Start]) -> Iterator[EpisodeResult]:
    """Run episodes, given by seed and repeat, in this process; as they end, where the engine is faster on batches.

    Chunks are executed as the manifest says, as the policy node does.
    """
    task, said = engine.task, engine.manifest.execution
    options: dict[str, Any] = {} if said is None else {"mode": said.mode, "infer_every": said.infer_every}
    options["warm_start"] = engine.manifest.sampler.warm_start > 0
    if engine.batches:
        return rollouts(task, one_call(task, engine.sample_batch), starts, **options)
    sample_actions = partial(sample_request, engine)
    return (rollout(task, sample_actions, seed, repeat=repeat, **options) for seed, repeat in starts)


def run_in_processes(
    model: Path, engine: str, starts: Sequence[Start], processes: int, *, batches: bool, threads: int = 1
) -> Iterator[EpisodeResult]:
    """Run episodes in several processes; as they end, without what they looked like.

    Args:
        model: model folder.
        engine: which engine loads it.
        starts: seed and repeat of each episode.
        processes: how many at a time.
        batches: whether the engine is faster on batches.
        threads: CPU threads of an inference.
    """
    load = partial(load_engine, str(model), engine, threads=threads)
    work = portions(starts, processes, batches=batches)
    with contextlib.closing(map_in_processes(load, _outcomes, work, processes)) as found:
        for episodes in found:
            yield from episodes


def run_on_ray(
    model: Path,
    engine: str,
    starts: Sequence[Start],
    address: str,
    workers: int | None = None,
    *,
    batches: bool,
    threads: int = 1,
) -> Iterator[EpisodeResult]:
    """Run episodes on a Ray cluster, whose machines need dp_ros installed and get the model folder sent.

    Args:
        model: model folder, on this machine.
        engine: which engine loads it.
        starts: seed and repeat of each episode.
        address: of the cluster as `ray.init` takes it; `local` starts one on this machine for the time being.
        workers: how many workers; None: as many as the cluster has processors for.
        batches: whether the engine is faster on batches.
        threads: CPU threads of an inference.

    Raises:
        UserError: if Ray is not installed, or the cluster cannot be reached.
    """
    ray = _import_ray()
    try:
        _knock(address)
        own = _LOOPBACK if address == "local" else {}
        ray.init(address=address, log_to_driver=False, configure_logging=False, **own)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise UserError(
            f"--ray {address}: no cluster there ({' '.join(str(error).split())}); start one with `ray start --head`, "
            "or give `local` for one on this machine"
        ) from None
    try:
        count = workers or max(int(ray.cluster_resources().get("CPU", 1)) // threads, 1)
        work = portions(starts, count, batches=batches)
        files = ray.put({file.name: file.read_bytes() for file in model.iterdir() if file.is_file()})
        remote = ray.remote(num_cpus=threads)(RayWorker)
        actors = [remote.remote(files, model.name, engine, threads) for _ in range(min(count, len(work)))]
        pool = ray.util.ActorPool(actors)
        for episodes in pool.map_unordered(lambda actor, portion: actor.run.remote(portion), work):
            yield from episodes
    finally:
        ray.shutdown()


class RayWorker:
    """Loads a model from the bytes of its files and runs portions of episodes."""

    def __init__(self, files: dict[str, bytes], name: str, engine: str, threads: int) -> None:
        with tempfile.TemporaryDirectory(prefix="dp_ros_model_") as parent:
            folder = Path(parent) / name
            folder.mkdir()
            for file, content in files.items():
                (folder / file).write_bytes(content)
            self._engine = load_engine(folder, engine, threads=threads)

    def run(self, starts: Sequence[Start]) -> list[EpisodeResult]:
        """Episodes of a portion, without what they looked like."""
        return _outcomes(self._engine, starts)


def portions(starts: Sequence[T], workers: int, *, batches: bool) -> list[list[T]]:
    """What a worker gets at a time: one episode, or a batch, as many batches for each worker and of equal size."""
    size = 1
    if batches and starts:
        rounds = math.ceil(len(starts) / (workers * WIDTH))
        size = math.ceil(len(starts) / (workers * rounds))
    return [list(starts[i : i + size]) for i in range(0, len(starts), size)]


def single_inferences_ms(engine: Engine, n: int = 30) -> list[float]:
    """Wall times of `n` inferences one after the other, on a start state, for episodes that shared theirs."""
    world, task = PushT(), engine.task
    world.reset(0)
    seen = {key: np.stack([value] * task.n_obs_steps) for key, value in observe(task, world).items()}
    times = []
    for k in range(n):
        noise = sampling_noise(0, k, (task.horizon, task.action.dim))
        begin = time.perf_counter_ns()
        engine.sample(seen, noise)
        times.append((time.perf_counter_ns() - begin) / 1e6)
    return times


def _outcomes(engine: Engine, starts: Sequence[Start]) -> list[EpisodeResult]:
    return [replace(one, states=[], plans=[], trajectories=[]) for one in run_engine(engine, starts)]


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at `host:port`: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5.0).close()


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports its use to its makers
    try:
        importlib.import_module("ray.util")
        return importlib.import_module("ray")
    except ImportError:
        raise UserError("--ray: Ray is not installed; `pip install ray`, or use --processes") from None
