"""Scores a policy on simulated episodes, and says how sure the score is.

Needs no torch: the policy comes in as the `sample` of an engine. Easy to get wrong: repeats of a seed share
their start state and are not independent, so the interval resamples seeds, not episodes; and a score over 50
seeds moves by 0.02 with the sampling noise alone, which is what repeats are for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dp_ros.errors import UserError
from dp_ros.inference.sampler import sampling_noise
from dp_ros.runtime.controller import InferenceRequest
from dp_ros.runtime.prefix import Prefix
from dp_ros.sim.pusht_batch import WIDTH, SampleRequests, rollouts
from dp_ros.sim.pusht_rollout import EpisodeResult, rollout
from dp_ros.task import TaskSpec

INTERVAL_METHOD = (
    "percentile bootstrap of the mean score, 10000 resamples of the seeds with all their repeats"
)
_RESAMPLES = 10000
_MAX_SEEDS = 100_000

#: Observation {stream: (n_obs_steps, *shape)} and noise (horizon, dim) to actions of that shape, robot units.
Sample = Callable[[Mapping[str, NDArray[Any]], NDArray[np.float32]], NDArray[np.float32]]


class SampleBatch(Protocol):
    """Draws for several observations at once, as `Engine.sample_batch` and `inference.torch.sample_batch` do."""

    def __call__(
        self,
        observation: Mapping[str, NDArray[Any]],
        noise: NDArray[np.float32],
        prefix: Prefix | None = None,
    ) -> NDArray[np.float32]:
        """Actions (B, horizon, dim), robot units.

        Args:
            observation: {stream: (B, n_obs_steps, *shape)}, robot units; pictures as encoded.
            noise: standard normal (B, horizon, dim).
            prefix: what the actions go on from, actions (B, horizon, dim) and weights (B, horizon); None, or weights
                of 0 in a row of it: nothing.
        """


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Attributes:
        episodes: every episode.
        mean_score: mean of the episodes' scores.
        interval_95: of the mean score (INTERVAL_METHOD), None with fewer than two seeds.
        success_rate: share of the episodes whose coverage exceeded 0.95.
        inference_p50_ms: median wall time of an inference.
        inference_p99_ms: 99th percentile of it.
    """

    episodes: list[EpisodeResult]
    mean_score: float
    interval_95: tuple[float, float] | None
    success_rate: float
    inference_p50_ms: float
    inference_p99_ms: float

    def as_json(self) -> dict[str, Any]:
        """The result as `dp-ros eval --json` writes it, without what the command adds."""
        keys = ("seed", "repeat", "score", "success", "final_coverage", "steps", "late_steps")
        return {
            "mean_score": self.mean_score,
            "interval_95": self.interval_95,
            "interval_method": INTERVAL_METHOD,
            "success_rate": self.success_rate,
            "inference_ms": {"p50": self.inference_p50_ms, "p99": self.inference_p99_ms},
            "episodes": [{key: getattr(episode, key) for key in keys} for episode in self.episodes],
        }


def is_simulated(task: TaskSpec) -> bool:
    """Whether the simulated PushT robot shows and takes what the task names."""
    topics = {"/pusht/keypoints", "/pusht/joint_states", "/pusht/image"}
    observed = {spec.topic for spec in task.observations.values()}
    return observed <= topics and task.action.topic == "/pusht/joint_trajectory"


def run_episodes(
    task: TaskSpec, sample: Sample, seeds: Sequence[int], repeats: int = 1
) -> Iterator[EpisodeResult]:
    """Run each seed `repeats` times, each time with other sampling noise, in this process."""
    shape = (task.horizon, task.action.dim)

    def sample_actions(request: InferenceRequest) -> NDArray[np.float32]:
        return sample(request.window.observations, sampling_noise(request.seed, request.step, shape))

    for seed, repeat in starts_of(seeds, repeats):
        yield rollout(task, sample_actions, seed, repeat=repeat)


def run_batched(
    task: TaskSpec,
    sample_batch: SampleBatch,
    seeds: Sequence[int],
    repeats: int = 1,
    *,
    width: int = WIDTH,
    should_stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> Iterator[EpisodeResult]:
    """The episodes of `run_episodes`, many at once with one inference for all of them.

    Args:
        task: what is observed and commanded.
        sample_batch: draws for all observations that are due.
        seeds: start states.
        repeats: episodes of each, with other sampling noise.
        width: most episodes at a time.
        should_stop: asked before each inference; once it says so, what has not ended is left out.
        options: of `pusht_rollout.episode`, the same for all episodes.

    Yields:
        The episodes as they end, so in another order; `in_order` puts them right.
    """
    starts = starts_of(seeds, repeats)
    sample_requests = one_call(task, sample_batch)
    return rollouts(task, sample_requests, starts, width=width, should_stop=should_stop, **options)


def one_call(task: TaskSpec, sample_batch: SampleBatch) -> SampleRequests:
    """Answers inference requests of several episodes with one call, each with its own noise."""
    shape = (task.horizon, task.action.dim)

    def sample_requests(requests: Sequence[InferenceRequest]) -> NDArray[np.float32]:
        windows = [request.window.observations for request in requests]
        observation = {key: np.stack([window[key] for window in windows]) for key in task.observations}
        noise = np.stack([sampling_noise(request.seed, request.step, shape) for request in requests])
        prefixes = [request.prefix for request in requests]
        if all(prefix is None for prefix in prefixes):
            return sample_batch(observation, noise)
        return sample_batch(
            observation, noise, Prefix.stacked([prefix or Prefix.none(shape) for prefix in prefixes])
        )

    return sample_requests


def starts_of(seeds: Sequence[int], repeats: int) -> list[tuple[int, int]]:
    """Seed and repeat of every episode."""
    return [(seed, repeat) for seed in seeds for repeat in range(repeats)]


def in_order(episodes: Iterable[EpisodeResult], seeds: Sequence[int]) -> list[EpisodeResult]:
    """Episodes by the place of their seed in `seeds`, then by repeat, as `run_episodes` yields them."""
    place = {seed: index for index, seed in enumerate(seeds)}
    return sorted(episodes, key=lambda one: (place[one.seed], one.repeat))


def summarize(episodes: Sequence[EpisodeResult], inference_ms: Sequence[float] | None = None) -> Evaluation:
    """Mean, interval and rates of at least one episode.

    Args:
        episodes: what is scored.
        inference_ms: wall times of single inferences, where the episodes shared theirs; None: the episodes' own.
    """
    if not episodes:
        raise UserError("no episodes to summarize; give at least one seed")
    if inference_ms is None:
        inference_ms = [ms for episode in episodes for ms in episode.inference_ms] or [0.0]
    return Evaluation(
        episodes=list(episodes),
        mean_score=float(np.mean([episode.score for episode in episodes])),
        interval_95=mean_interval_95(episodes),
        success_rate=float(np.mean([episode.success for episode in episodes])),
        inference_p50_ms=float(np.percentile(inference_ms, 50)),
        inference_p99_ms=float(np.percentile(inference_ms, 99)),
    )


def mean_interval_95(episodes: Sequence[EpisodeResult]) -> tuple[float, float] | None:
    """95 % interval of the mean score by INTERVAL_METHOD; None with fewer than two seeds."""
    by_seed: dict[int, list[float]] = {}
    for episode in episodes:
        by_seed.setdefault(episode.seed, []).append(episode.score)
    if len(by_seed) < 2:
        return None
    sums = np.array([sum(scores) for scores in by_seed.values()])
    counts = np.array([len(scores) for scores in by_seed.values()])
    drawn = np.random.default_rng(0).integers(len(sums), size=(_RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def parse_seeds(text: str) -> list[int]:
    """Seeds from `a:b` (a to b - 1) or `a,b,c`.

    Raises:
        UserError: if it is neither, names a seed twice, is empty or out of range.
    """
    wanted = "expected a range such as 100000:100050 (the end is not included) or a list such as 3,5,8"
    try:
        if ":" in text:
            start, end = (int(part) for part in text.split(":"))
            if end - start > _MAX_SEEDS:
                raise UserError(f"seeds: {text} are {end - start} seeds, at most {_MAX_SEEDS} at a time")
            seeds = list(range(start, end))
        else:
            seeds = [int(part) for part in text.split(",")]
    except UserError:
        raise
    except ValueError:
        raise UserError(f"seeds: got {text!r}, {wanted}") from None
    if not seeds:
        raise UserError(f"seeds: {text} is empty, {wanted}")
    if min(seeds) < 0 or max(seeds) >= 2**32:
        raise UserError(f"seeds: got {text}, each must be from 0 to {2**32 - 1}")
    if len(set(seeds)) != len(seeds):
        raise UserError(f"seeds: {text} names a seed twice; use --repeats to run each more than once")
    return seeds
