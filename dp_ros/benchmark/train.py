"""How fast training steps are: ours, ours with the data in memory, and the straightforward way.

The straightforward way is what one writes first: the network's modules as they are, AdamW with its defaults, one
sample at a time through torch's DataLoader, a loop over the parameters for the clipped norm and one for the average.
Network, batch, threads, data and loss are the same. Easy to get wrong: a machine is rarely quiet for long, so the
three run in turns of a few steps and are compared turn by turn; each turn's ratio counts, not the best time of each.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dp_ros.benchmark.turns import in_turns, median_ratio
from dp_ros.data.layout import ACTION, observation_dtype
from dp_ros.data.windows import Demonstrations, Windows, cut_windows
from dp_ros.policies.build import build_policy
from dp_ros.policies.policy import Draw, Policy
from dp_ros.policies.specs import observed_steps
from dp_ros.task import TaskSpec
from dp_ros.training.batches import Batches, Fetched, Samples, fetch_ahead, ranges_of, weighted_batch
from dp_ros.training.config import OptimizationSpec, TrainingConfig
from dp_ros.training.ema import WeightAverage

_STEPS_A_TURN = 4
_WARMUP_STEPS = 3
_NOISE = 2  # what the random numbers are for, as in training
_LEARNING_RATE = 1e-4


class TrainingSpeed(NamedTuple):
    """Medians over the turns.

    Attributes:
        samples_per_s: of a training step as `dp-ros train` makes it, data loading included.
        straightforward_samples_per_s: of the straightforward step.
        speedup: by how much ours is faster, turn by turn.
        in_memory_samples_per_s: of our step with its batches already in memory.
        loader_ratio: speed with data loading as a share of the speed without.
        turns: that each was measured in.
    """

    samples_per_s: float
    straightforward_samples_per_s: float
    speedup: float
    in_memory_samples_per_s: float
    loader_ratio: float
    turns: int


def measure(
    demonstrations: Demonstrations, task: TaskSpec, config: TrainingConfig, seconds: float
) -> TrainingSpeed:
    """Measure for about so many seconds, and no less than a few turns of each."""
    spec = config.training
    torch.set_num_threads(spec.threads)
    windows = cut_windows(
        demonstrations, task, range(demonstrations.n_episodes), observed_steps(config.network, task)
    )
    ranges = ranges_of(windows, task)

    def policy() -> Policy:
        torch.manual_seed(spec.seed)
        made = build_policy(task, ranges, config.network, config.sampler)
        made.prepare(torch.from_numpy(windows.actions))
        return made

    samples, batches = Samples(windows), Batches(len(windows), spec)
    with fetch_ahead(samples, batches, 2**40, torch.device("cpu")) as ahead:
        held = [ahead.at(step) for step in range(_STEPS_A_TURN)]
        ways = {
            "ours": _ours(policy(), spec, ahead.at),
            "in_memory": _ours(policy(), spec, lambda step: held[step % len(held)]),
            "straightforward": _straightforward(policy(), spec, windows),
        }
        times = in_turns(ways, seconds, steps=_STEPS_A_TURN, warmup=_WARMUP_STEPS)
    n = {way: batches.size * _STEPS_A_TURN / statistics.median(each) for way, each in times.items()}
    return TrainingSpeed(
        samples_per_s=n["ours"],
        straightforward_samples_per_s=n["straightforward"],
        speedup=median_ratio(times["straightforward"], times["ours"]),
        in_memory_samples_per_s=n["in_memory"],
        loader_ratio=median_ratio(times["in_memory"], times["ours"]),
        turns=len(times["ours"]),
    )


def made_up_demonstrations(
    task: TaskSpec, n_episodes: int = 40, length: int = 120, labels: Mapping[str, int] | None = None
) -> Demonstrations:
    """Random walks in the shape of a task, and of `labels` of so many values each, for speed alone."""
    draw, n = np.random.default_rng(0), n_episodes * length
    arrays: dict[str, Any] = {}
    for key, stream in task.observations.items():
        if stream.is_image:
            arrays[key] = draw.integers(0, 256, (n, *stream.shape)).astype(observation_dtype(stream))
        else:
            arrays[key] = draw.normal(size=(n, *stream.shape)).cumsum(axis=0).astype(np.float32)
    for key, shape in (
        (ACTION, task.action.shape),
        *((key, (size,)) for key, size in (labels or {}).items()),
    ):
        arrays[key] = draw.normal(size=(n, *shape)).cumsum(axis=0).astype(np.float32)
    return Demonstrations(arrays, length * np.arange(1, n_episodes + 1), "", labels=tuple(labels or ()))


def _ours(
    policy: Policy, spec: OptimizationSpec, fetch: Callable[[int], list[Fetched]]
) -> Callable[[int], None]:
    """A step as in `training.trainer`."""
    parameters = list(policy.parameters())
    average = WeightAverage(policy, spec.ema_power, spec.ema_max_decay)
    optimizer = torch.optim.AdamW(
        parameters, _LEARNING_RATE, betas=spec.betas, weight_decay=spec.weight_decay, fused=True
    )

    def take(step: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros(())
        for part, observation, actions in fetch(step):
            draw = Draw(spec.seed, _NOISE, step, part.first, part.total)
            part_loss = policy.loss(weighted_batch(spec, observation, actions), draw) * part.share
            part_loss.backward()
            loss += part_loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(parameters, spec.clip_norm, foreach=True)
        assert np.isfinite(loss.item()) and np.isfinite(norm.item())
        optimizer.step()
        average.update(step + 1)

    return take


def _straightforward(policy: Policy, spec: OptimizationSpec, windows: Windows) -> Callable[[int], None]:
    for module in policy.modules():
        if hasattr(module, "fast_training"):
            setattr(module, "fast_training", False)  # noqa: B010
    average = WeightAverage(policy, spec.ema_power, spec.ema_max_decay)
    averaged = list(average.policy.parameters())
    parameters = list(policy.parameters())
    optimizer = torch.optim.AdamW(
        policy.parameters(), _LEARNING_RATE, betas=spec.betas, weight_decay=spec.weight_decay
    )
    batches = _one_by_one(windows, min(spec.batch_size, len(windows)))

    def take(step: int) -> None:
        observation, actions = next(batches)
        loss = policy.loss(weighted_batch(spec, observation, actions), Draw(spec.seed, _NOISE, step))
        optimizer.zero_grad()
        loss.backward()
        norm = sum(float(p.grad.norm()) ** 2 for p in parameters if p.grad is not None) ** 0.5
        if norm > spec.clip_norm:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(spec.clip_norm / norm)
        optimizer.step()
        decay = average.decay(step + 1)
        with torch.no_grad():
            for old, new in zip(averaged, parameters, strict=True):
                old.mul_(decay).add_(new, alpha=1.0 - decay)
        loss.item()

    return take


class _WindowDataset(Dataset[tuple[dict[str, Tensor], Tensor]]):
    """One window at a time."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        observations, actions = self._windows.at(np.array([index]))
        return {key: torch.from_numpy(value[0]) for key, value in observations.items()}, torch.from_numpy(
            actions[0]
        )


def _one_by_one(windows: Windows, batch_size: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    loader = DataLoader(_WindowDataset(windows), batch_size, shuffle=True, drop_last=True)
    while True:
        yield from loader
