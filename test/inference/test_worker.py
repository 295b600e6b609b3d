"""The thread around an engine: what it does while no inference is due, and how alternatives are drawn."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dp_ros.inference.engine import CheckedEngine
from dp_ros.inference.load import load_engine
from dp_ros.inference.sampler import sampling_noise
from dp_ros.inference.worker import ALTERNATIVES_AT_ONCE, InferenceResult, InferenceWorker, sample_request
from dp_ros.paths import share_dir
from dp_ros.runtime.execution import InferenceRequest
from dp_ros.runtime.observation import FrameStamp, ObservationBuffer, Window
from dp_ros.task import load_task

TASK = load_task("pusht_state")
PATIENCE_S = 20.0


class FakeEngine:
    """Notes its calls; the first one waits until it is released."""

    task, cores = TASK, ()
    manifest = SimpleNamespace(model_id="fake")

    def __init__(self, batches: bool = True) -> None:
        self.batches, self.calls = batches, list[Any]()
        self.released, self.begun = threading.Event(), threading.Event()

    def _call(self, what: Any) -> None:
        self.calls.append(what)
        self.begun.set()
        assert self.released.wait(PATIENCE_S)

    def see(self, key: str, picture: Any, frame: FrameStamp) -> None:
        self._call(("see", frame.stamp_ns))
        if picture is None:
            raise ValueError("broken")

    def sample(self, observation: Any, noise: Any, prefix: Any = None, frames: Any = None) -> Any:
        self._call("sample")
        return noise

    def sample_batch(self, observation: Any, noise: Any, prefix: Any = None) -> Any:
        assert len(observation["agent_pos"]) == len(noise)
        self._call(("sample_batch", len(noise)))
        return noise


def request(step: int = 0) -> InferenceRequest:
    observations = {
        key: np.zeros((TASK.n_obs_steps, *spec.shape), np.float32) for key, spec in TASK.observations.items()
    }
    return InferenceRequest(1, Window(0, observations), 5, step)


class Worker:
    """An `InferenceWorker` whose results can be waited for."""

    def __init__(self, engine: Any) -> None:
        self._there = threading.Semaphore(0)
        self.worker = InferenceWorker(engine, self._there.release)

    def result(self) -> InferenceResult:
        assert self._there.acquire(timeout=PATIENCE_S)
        result = self.worker.take()
        assert result is not None
        return result


PICTURE = np.zeros((2, 2, 3), np.uint8)


def test_a_due_inference_waits_for_no_more_than_the_picture_under_way() -> None:
    engine = FakeEngine()
    worker = Worker(engine)
    worker.worker.look_ahead("image", FrameStamp(0, 1), PICTURE)
    assert engine.begun.wait(PATIENCE_S)
    for stamp in range(2, 5):
        worker.worker.look_ahead("image", FrameStamp(0, stamp), PICTURE)
    worker.worker.submit(request())
    engine.released.set()
    assert worker.result().actions is not None
    assert engine.calls[:2] == [("see", 1), "sample"]
    assert worker.worker.close()
    assert engine.calls[2:] == [("see", 2), ("see", 3), ("see", 4)], "what waits is done once there is time"


def test_few_pictures_wait_and_the_newest_win() -> None:
    engine = FakeEngine()
    worker = Worker(engine)
    worker.worker.submit(request())
    assert engine.begun.wait(PATIENCE_S)
    for stamp in range(100):
        worker.worker.look_ahead("image", FrameStamp(0, stamp), PICTURE)
    engine.released.set()
    assert worker.worker.close()
    assert engine.calls == ["sample", *(("see", stamp) for stamp in range(92, 100))]


def test_a_picture_that_cannot_be_encoded_ends_nothing() -> None:
    engine = FakeEngine()
    engine.released.set()
    worker = Worker(engine)
    worker.worker.look_ahead("image", FrameStamp(0, 1), None)  # type: ignore[arg-type]
    worker.worker.submit(request())
    assert worker.result().problem == ""
    assert worker.worker.close()


@pytest.mark.parametrize(
    ("batches", "calls"),
    [(True, [("sample_batch", ALTERNATIVES_AT_ONCE), ("sample_batch", 2)]), (False, ["sample"] * 6)],
)
def test_alternatives_are_sampled_together_where_that_is_faster(batches: bool, calls: list[Any]) -> None:
    engine = FakeEngine(batches)
    engine.released.set()
    worker = Worker(engine)
    worker.worker.sample_alternatives(request(), 6)
    drawn = worker.result().alternatives
    assert drawn is not None
    assert engine.calls == calls
    expected = [sampling_noise(5 + k * 2**64, 0, (TASK.horizon, TASK.action.dim)) for k in range(1, 7)]
    np.testing.assert_array_equal(drawn, expected)
    assert worker.worker.close()


def test_a_due_inference_breaks_alternatives_off_between_two_parts() -> None:
    engine = FakeEngine()
    worker = Worker(engine)
    worker.worker.sample_alternatives(request(), 32)
    assert engine.begun.wait(PATIENCE_S)
    worker.worker.submit(request(1))
    engine.released.set()
    alternatives = worker.result().alternatives
    assert alternatives is not None
    assert len(alternatives) == ALTERNATIVES_AT_ONCE
    assert worker.result().request.step == 1
    assert worker.worker.close()


def test_alternatives_that_are_sampled_together_are_those_that_would_be_sampled_alone() -> None:
    engine = load_engine(share_dir() / "models" / "pusht_state")
    worker = Worker(engine)
    worker.worker.sample_alternatives(request(), 5)
    drawn = worker.result().alternatives
    assert drawn is not None
    for k, actions in enumerate(drawn, start=1):
        alone = sample_request(engine, InferenceRequest(1, request().window, 5 + k * 2**64, 0))
        np.testing.assert_array_equal(actions, alone)
    assert worker.worker.close()


def test_pictures_encoded_ahead_change_no_bit() -> None:
    """Two windows of the shipped model that share times and not pictures, with and without looking ahead."""
    ahead, alone = (load_engine(share_dir() / "models" / "pusht_image", "native") for _ in range(2))
    assert isinstance(ahead, CheckedEngine)
    task, rng = ahead.task, np.random.default_rng(0)
    for _ in range(2):  # two episodes with the same stamps
        buffer = ObservationBuffer(task)
        for k in range(1, 4):
            buffer.add("agent_pos", k * task.dt_ns, np.full(2, 200.0 + k, np.float32))
            buffer.add("image", k * task.dt_ns, rng.integers(0, 256, (96, 96, 3), dtype=np.uint8))
            found = buffer.newest_frame("image")
            assert found is not None
            ahead.see("image", found[1], found[0])
        window = buffer.window(3 * task.dt_ns)
        before = ahead.pictures_encoded
        drawn = sample_request(ahead, InferenceRequest(1, window, 0, 0))
        assert ahead.pictures_encoded == before, "both were encoded when they came"
        without = sample_request(alone, InferenceRequest(1, Window(0, window.observations), 0, 0))
        np.testing.assert_array_equal(drawn, without)
