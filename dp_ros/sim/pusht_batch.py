"""Many PushT episodes at once, with one inference for all of them.

Each episode has a world, a robot and a runtime of its own, as in `pusht_rollout.rollout`; only the inferences are
shared: what all running episodes ask for is answered by one call on a batch, which in torch costs little more than
one sample. Whoever ends makes room for the next. Easy to get wrong: the results equal those one by one up to
the rounding of the network alone, which depends on the size of the batch; over 300 steps of contact that is enough
for another score in a single episode, but not for another mean.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dp_ros.runtime.execution import InferenceRequest
from dp_ros.sim.pusht_rollout import EpisodeResult, episode
from dp_ros.task import TaskSpec

SampleRequests = Callable[[Sequence[InferenceRequest]], npt.NDArray[np.floating]]

#: Episodes at a time: beyond this a batch of the policies here gains no speed.
WIDTH = 64

#: What `pusht_rollout.episode` returns.
Running = Generator[InferenceRequest, npt.NDArray[np.floating], EpisodeResult]


def rollouts(
    task: TaskSpec,
    sample_requests: SampleRequests,
    starts: Iterable[tuple[int, int]],
    *,
    width: int = WIDTH,
    should_stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> Iterator[EpisodeResult]:
    """Run episodes, at most `width` at a time.

    Args:
        task: what is observed and commanded.
        sample_requests: B inference requests to actions (B, horizon, dim).
        starts: seed of the start state, and which draw of the sampling noise, of each episode.
        width: most episodes at a time, and most requests of a call.
        should_stop: asked before each inference; once it says so, what has not ended is left out.
        options: of `pusht_rollout.episode`, the same for all episodes.

    Yields:
        The episodes as they end, so not in the order of `starts`; without `inference_ms`.
    """
    begun = (episode(task, seed, repeat=repeat, **options) for seed, repeat in starts)
    return together(begun, sample_requests, width=width, should_stop=should_stop)


def together(
    episodes: Iterable[Running],
    sample_requests: SampleRequests,
    *,
    width: int = WIDTH,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[EpisodeResult]:
    """Run episodes (`pusht_rollout.episode`), at most `width` at a time; see `rollouts`."""
    if width < 1:
        raise ValueError(f"width: got {width}, expected at least 1")
    waiting = iter(episodes)
    running: list[tuple[Running, InferenceRequest]] = []
    while True:
        while len(running) < width and (begun := next(waiting, None)) is not None:
            try:
                running.append((begun, next(begun)))
            except StopIteration as end:  # over before its first inference
                yield end.value
        if not running or should_stop():
            return
        actions = sample_requests([request for _, request in running])
        answered, running = zip([one for one, _ in running], actions, strict=True), []
        for one, drawn in answered:
            try:
                running.append((one, one.send(drawn)))
            except StopIteration as end:
                yield end.value
