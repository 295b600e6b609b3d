"""Episodes in several processes and on a Ray cluster: the same as in one process."""

from __future__ import annotations

import importlib.util
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dp_ros.errors import UserError
from dp_ros.inference.load import load_engine
from dp_ros.inference.manifest import ExecutionSpec, load_manifest, write_manifest
from dp_ros.inference.worker import sample_request
from dp_ros.sim.pusht_batch import WIDTH
from dp_ros.sim.pusht_rollout import rollout
from dp_ros.training.evaluate import in_order, starts_of
from dp_ros.training.evaluate_parallel import (
    portions,
    run_engine,
    run_in_processes,
    run_on_ray,
    single_inferences_ms,
)

SEEDS = [100002, 100000]
STARTS = starts_of(SEEDS, 1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    from dp_ros.inference.export import export_policy
    from test.policies.small import small_policy

    folder = tmp_path_factory.mktemp("models") / "small"
    export_policy(small_policy(num_inference_steps=1), folder)
    return folder


@pytest.fixture(scope="module")
def here(exported: Path) -> list[tuple]:
    """What the episodes came to in this process."""
    return outcomes(run_engine(load_engine(exported, "onnx"), STARTS))


def outcomes(episodes: Any) -> list[tuple]:
    return [(e.seed, e.repeat, e.score, e.steps, e.final_coverage) for e in in_order(episodes, SEEDS)]


def test_processes_change_nothing(exported: Path, here: list[tuple]) -> None:
    there = list(run_in_processes(exported, "onnx", STARTS, 2, batches=False))
    assert outcomes(there) == here
    assert not any(one.states for one in there), "what an episode looked like does not travel"


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_local_ray_cluster_changes_nothing(exported: Path, here: list[tuple]) -> None:
    there = list(run_on_ray(exported, "onnx", STARTS, "local", 2, batches=False))
    assert outcomes(there) == here


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_cluster_that_is_not_there_is_said_so(exported: Path) -> None:
    with pytest.raises(UserError, match="--ray 127.0.0.1:1: no cluster there"):
        list(run_on_ray(exported, "onnx", STARTS, "127.0.0.1:1", batches=False))


def test_without_ray_it_is_said_how_to_get_it(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match="Ray is not installed; `pip install ray`"):
        list(run_on_ray(exported, "onnx", STARTS, "auto", batches=False))


def test_an_engine_that_is_faster_on_batches_gets_them(
    exported: Path, here: list[tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_engine(exported, "torch")
    sizes: list[int] = []
    batch = engine.sample_batch

    def count(observation: Any, noise: Any) -> Any:
        sizes.append(len(noise))
        return batch(observation, noise)

    monkeypatch.setattr(engine, "sample_batch", count)
    torch = outcomes(run_engine(engine, STARTS))
    assert sizes == [2] * 38
    for one, other in zip(torch, here, strict=True):
        assert one[:2] == other[:2]
        assert one[2] == pytest.approx(other[2], abs=0.02)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_a_batch_of_an_engine_is_its_samples(exported: Path, engine: str) -> None:
    loaded = load_engine(exported, engine)
    rng = np.random.default_rng(0)
    seen = {"keypoint": rng.uniform(0, 512, (3, 2, 18)), "agent_pos": rng.uniform(0, 512, (3, 2, 2))}
    seen = {key: value.astype(np.float32) for key, value in seen.items()}
    noise = rng.standard_normal((3, 16, 2)).astype(np.float32)
    batch = loaded.sample_batch(seen, noise)
    for i in range(3):
        assert batch[i] == pytest.approx(
            loaded.sample({k: v[i] for k, v in seen.items()}, noise[i]), abs=1e-2
        )


def test_every_worker_gets_as_many_batches_and_none_is_larger_than_may_be() -> None:
    starts = starts_of(range(150), 1)
    for workers in (1, 2, 3):
        found = portions(starts, workers, batches=True)
        assert [start for portion in found for start in portion] == starts
        sizes = [len(portion) for portion in found]
        assert max(sizes) <= WIDTH
        assert len(found) % workers == 0
        assert max(sizes) - min(sizes) <= len(found)
    assert [len(portion) for portion in portions(starts, 2, batches=False)] == [1] * 150


def test_single_inferences_are_timed(exported: Path) -> None:
    times = single_inferences_ms(load_engine(exported, "torch"), 3)
    assert len(times) == 3
    assert all(ms > 0 for ms in times)


@pytest.mark.parametrize("mode", ["replace", "rtc"])
def test_chunks_are_executed_as_the_manifest_says(exported: Path, mode: Any, tmp_path: Path) -> None:
    told = tmp_path / "told"
    shutil.copytree(exported, told)
    execution = ExecutionSpec(mode=mode, infer_every=5)
    write_manifest(told, load_manifest(told).model_copy(update={"execution": execution}))
    engine = load_engine(told, "onnx")
    (episode,) = run_engine(engine, STARTS[:1])
    expected = rollout(engine.task, partial(sample_request, engine), STARTS[0][0], mode=mode, infer_every=5)
    assert np.array_equal(episode.states, expected.states)
    assert len(episode.inference_ms) == -(-episode.steps // 5)
