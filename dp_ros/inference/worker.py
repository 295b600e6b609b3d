"""The thread that runs one inference at a time, so that no callback ever waits for a model.

Results are handed over on the caller's thread: `wake` only announces them, `take` fetches them. A model is changed
in the queue too, so always between two inferences. Easy to get wrong: the thread must be joined before its engine
goes away, and a result that nobody takes must not keep it alive.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue

import numpy as np
import numpy.typing as npt

from dp_ros.inference.engine import Engine
from dp_ros.inference.sampler import sampling_noise
from dp_ros.runtime.execution import InferenceRequest

Actions = npt.NDArray[np.float32]
#: Seeds of alternatives are this far from the run's own, so that no run draws them.
ALTERNATIVE_SEED = 2**64


@dataclass(frozen=True)
class InferenceResult:
    """What became of a request: actions (horizon, dim), or why there are none.

    Attributes:
        request: what was asked for.
        actions: what was sampled, None if that failed.
        problem: why, for a person.
        inference_ns: wall time that it took, from its submission on.
        model_id: of the engine that ran, which another may have replaced since.
        alternatives: further samples for the same observations, if this was asked for with `sample_alternatives`.
    """

    request: InferenceRequest
    actions: Actions | None
    problem: str
    inference_ns: int
    model_id: str
    alternatives: tuple[Actions, ...] | None = None


def sample_request(engine: Engine, request: InferenceRequest) -> Actions:
    """Actions (horizon, dim) for a request, with the noise that its seed and step stand for."""
    shape = (engine.task.horizon, engine.task.action.dim)
    noise = sampling_noise(request.seed, request.step, shape)
    if request.prefix is None:
        return engine.sample(request.window.observations, noise)
    return engine.sample(request.window.observations, noise, request.prefix)


@dataclass(frozen=True)
class _Job:
    request: InferenceRequest
    submitted_ns: int
    alternatives: int | None = None


class InferenceWorker:
    """Runs an engine in a thread of its own.

    Args:
        engine: releases the interpreter lock while it computes.
        wake: called from the thread when a result is there to be taken.
    """

    def __init__(self, engine: Engine, wake: Callable[[], None]) -> None:
        self._engine, self._wake = engine, wake
        self._jobs: SimpleQueue[_Job | Engine | None] = SimpleQueue()
        self._results: SimpleQueue[InferenceResult] = SimpleQueue()
        self._urgent = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def submit(self, request: InferenceRequest) -> None:
        """Queue an inference."""
        self._urgent.set()
        self._jobs.put(_Job(request, time.monotonic_ns()))

    def sample_alternatives(self, request: InferenceRequest, n: int) -> None:
        """Sample `n` more times for a request, with other noise; broken off by the next `submit`."""
        self._urgent.clear()
        self._jobs.put(_Job(request, time.monotonic_ns(), n))

    def change_engine(self, engine: Engine) -> None:
        """Run another engine from the next inference on."""
        self._jobs.put(engine)

    def take(self) -> InferenceResult | None:
        """The next result, None if there is none."""
        try:
            return self._results.get_nowait()
        except Empty:
            return None

    def close(self, timeout_s: float = 5.0) -> bool:
        """End the thread after the inference under way; False if that took longer than `timeout_s`."""
        self._urgent.set()
        self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not isinstance(job, _Job):
                self._engine = job
                continue
            actions, alternatives, problem = None, None, ""
            try:
                if job.alternatives is not None:
                    alternatives = self._alternatives(job)
                else:
                    actions = sample_request(self._engine, job.request)
            except Exception as error:  # whatever an engine raises must end the run, not the thread
                problem, alternatives = (
                    f"{type(error).__name__}: {error}",
                    () if job.alternatives is not None else None,
                )
            took_ns = time.monotonic_ns() - job.submitted_ns
            model_id = self._engine.manifest.model_id
            self._results.put(InferenceResult(job.request, actions, problem, took_ns, model_id, alternatives))
            self._wake()

    def _alternatives(self, job: _Job) -> tuple[Actions, ...]:
        found: list[Actions] = []
        for k in range(1, (job.alternatives or 0) + 1):
            if self._urgent.is_set():
                break
            seed = job.request.seed + k * ALTERNATIVE_SEED
            found.append(sample_request(self._engine, replace(job.request, seed=seed)))
        return tuple(found)
