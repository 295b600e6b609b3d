"""The thread that runs one inference at a time, so that no callback ever waits for a model.

Results are handed over on the caller's thread: `wake` only announces them, `take` fetches them. A model is changed
in the queue too, so always between two inferences. While none is due, pictures are encoded that the next will look at.
Easy to get wrong: the thread must be joined before its engine goes away, and a result that nobody takes must not keep
it alive.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from dp_ros.inference.engine import Engine
from dp_ros.inference.placement import available_cores, confine
from dp_ros.inference.sampler import sampling_noise
from dp_ros.runtime.execution import InferenceRequest
from dp_ros.runtime.observation import FrameStamp
from dp_ros.runtime.prefix import Prefix

Actions = npt.NDArray[np.float32]
#: Seeds of alternatives are this far from the run's own, so that no run draws them.
ALTERNATIVE_SEED = 2**64
#: Of them, so many are sampled at once where the engine gains by that; then an inference that is due has its turn.
ALTERNATIVES_AT_ONCE = 4
#: Pictures that wait to be encoded before an inference is due, at most; of more the newest win.
PICTURES_AHEAD = 8

log = logging.getLogger(__name__)


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
    options: dict[str, Any] = {} if request.prefix is None else {"prefix": request.prefix}
    if request.window.frames:
        options["frames"] = request.window.frames
    return engine.sample(request.window.observations, _noise(engine, request), **options)


def _noise(engine: Engine, request: InferenceRequest) -> npt.NDArray[np.float32]:
    return sampling_noise(request.seed, request.step, (engine.task.horizon, engine.task.action.dim))


@dataclass(frozen=True)
class _Job:
    request: InferenceRequest
    submitted_ns: int
    alternatives: int | None = None


class _LookAhead:
    """Asks the thread to encode what waits for it."""


class InferenceWorker:
    """Runs an engine in a thread of its own.

    Args:
        engine: releases the interpreter lock while it computes.
        wake: called from the thread when a result is there to be taken.
    """

    def __init__(self, engine: Engine, wake: Callable[[], None]) -> None:
        self._engine, self._wake = engine, wake
        self._jobs: SimpleQueue[_Job | _LookAhead | Engine | None] = SimpleQueue()
        self._pictures: deque[tuple[str, FrameStamp, npt.NDArray[Any]]] = deque(maxlen=PICTURES_AHEAD)
        self._submitted = self._begun = 0
        self._results: SimpleQueue[InferenceResult] = SimpleQueue()
        self._urgent = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def submit(self, request: InferenceRequest) -> None:
        """Queue an inference."""
        self._urgent.set()
        self._submitted += 1
        self._jobs.put(_Job(request, time.monotonic_ns()))

    def look_ahead(self, key: str, frame: FrameStamp, picture: npt.NDArray[Any]) -> None:
        """Encode a picture of a camera while no inference is due; one that comes waits for it and for no other."""
        self._pictures.append((key, frame, picture))
        self._jobs.put(_LookAhead())

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
        anywhere = available_cores()
        confine(self._engine.cores or anywhere)
        while (job := self._jobs.get()) is not None:
            if isinstance(job, _LookAhead):
                self._encode_ahead()
                continue
            if not isinstance(job, _Job):
                self._engine = job
                confine(job.cores or anywhere)
                continue
            self._begun += job.alternatives is None
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
            self._encode_ahead()

    def _encode_ahead(self) -> None:
        """Encode the pictures that wait, until an inference is due, which encodes itself what it needs."""
        while self._pictures and self._submitted == self._begun:
            key, frame, picture = self._pictures.popleft()
            try:
                self._engine.see(key, picture, frame)
            except Exception as error:  # the inference that needs it fails for the same reason, and says so
                log.debug("%s could not be encoded ahead: %s", key, error)

    def _alternatives(self, job: _Job) -> tuple[Actions, ...]:
        engine, wanted = self._engine, job.alternatives or 0
        found: list[Actions] = []
        at_once = ALTERNATIVES_AT_ONCE if engine.batches else 1
        while len(found) < wanted and not self._urgent.is_set():
            numbers = range(len(found) + 1, min(len(found) + at_once, wanted) + 1)
            requests = [replace(job.request, seed=job.request.seed + k * ALTERNATIVE_SEED) for k in numbers]
            found += (
                _sample_together(engine, requests)
                if at_once > 1
                else map(partial(sample_request, engine), requests)
            )
            self._encode_ahead()
        return tuple(found)


def _sample_together(engine: Engine, requests: list[InferenceRequest]) -> list[Actions]:
    """Actions for requests that differ in their noise alone."""
    n, first = len(requests), requests[0]
    observation = {key: np.stack([value] * n) for key, value in first.window.observations.items()}
    prefix = first.prefix and Prefix.stacked([first.prefix] * n)
    return list(
        engine.sample_batch(observation, np.stack([_noise(engine, each) for each in requests]), prefix)
    )
