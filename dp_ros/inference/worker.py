"""One thread that runs one inference at a time, so that no callback ever waits for a model.

Results are handed over on the caller's thread: `wake` only announces them, `take` fetches them. Easy to get
wrong: the thread must be joined before its engine goes away, and a result that nobody takes must not keep it
alive.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import numpy as np
import numpy.typing as npt

from dp_ros.inference.engine import Engine
from dp_ros.inference.sampler import sampling_noise
from dp_ros.runtime.execution import InferenceRequest


@dataclass(frozen=True)
class InferenceResult:
    """What became of a request: actions (horizon, dim), or why there are none."""

    request: InferenceRequest
    actions: npt.NDArray[np.float32] | None
    problem: str
    inference_ns: int


def sample_request(engine: Engine, request: InferenceRequest) -> npt.NDArray[np.float32]:
    """Actions (horizon, dim) for a request, with the noise that its seed and step stand for."""
    shape = (engine.task.horizon, engine.task.action.dim)
    noise = sampling_noise(request.seed, request.step, shape)
    if request.prefix is None:
        return engine.sample(request.window.observations, noise)
    return engine.sample(request.window.observations, noise, request.prefix)


class InferenceWorker:
    """Runs an engine in a thread of its own.

    Args:
        engine: releases the interpreter lock while it computes.
        wake: called from the thread when a result is there to be taken.
    """

    def __init__(self, engine: Engine, wake: Callable[[], None]) -> None:
        self._engine, self._wake = engine, wake
        self._requests: SimpleQueue[InferenceRequest | None] = SimpleQueue()
        self._results: SimpleQueue[InferenceResult] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def submit(self, request: InferenceRequest) -> None:
        """Queue an inference."""
        self._requests.put(request)

    def take(self) -> InferenceResult | None:
        """The next result, None if there is none."""
        try:
            return self._results.get_nowait()
        except Empty:
            return None

    def close(self, timeout_s: float = 5.0) -> bool:
        """End the thread after the inference under way; False if that took longer than `timeout_s`."""
        self._requests.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (request := self._requests.get()) is not None:
            begin_ns = time.monotonic_ns()
            actions, problem = None, ""
            try:
                actions = sample_request(self._engine, request)
            except Exception as error:  # whatever an engine raises must end the run, not the thread
                problem = f"{type(error).__name__}: {error}"
            self._results.put(InferenceResult(request, actions, problem, time.monotonic_ns() - begin_ns))
            self._wake()
