"""The training loop, in the order in which it runs.

Every random number is a function of the seed and the step, so a run that was killed and resumed is equal, bit
for bit, to one that was not, and an evaluation in between changes nothing. Easy to get wrong: the loss says
little about a diffusion policy; the score in simulation does, and it is taken from the averaged weights.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from dp_ros.data.windows import Demonstrations, Windows, cut_windows, load_demonstrations, split_episodes
from dp_ros.errors import UserError
from dp_ros.policies.diffusion import DiffusionPolicy, check_supported
from dp_ros.policies.normalizer import min_max
from dp_ros.task import TaskSpec
from dp_ros.training.checkpoint import Progress, load_checkpoint, load_weights, save_checkpoint, save_weights
from dp_ros.training.config import OptimizationSpec, TrainingConfig
from dp_ros.training.display import TrainingDisplay
from dp_ros.training.ema import WeightAverage
from dp_ros.training.evaluate import Sample, is_simulated, run_episodes, summarize
from dp_ros.training.run_folder import BEST, LAST, TENSORBOARD, RunRecord, create_run, open_run

_ORDER, _NOISE, _VALIDATION, _PREFIX = 1, 2, 3, 4  # what a random number is for
_MOST_VALIDATION_SAMPLES = 1024


class TrainingError(UserError):
    """Training cannot go on."""


def train(
    task: TaskSpec,
    data: str | Path,
    run: str | Path,
    config: TrainingConfig,
    *,
    resume: bool = False,
    start_from: str | Path | None = None,
    console: Console | None = None,
) -> Progress:
    """Train a policy and leave `last.safetensors` and `best.safetensors` in the run folder.

    Args:
        task: what is observed and commanded.
        data: recording to learn from.
        run: folder of the run; must not exist unless `resume`.
        config: the recipe.
        resume: go on where the run was stopped, or killed.
        start_from: another run, on data of the same range, whose best weights this one begins with.
        console: where progress is shown.

    Raises:
        UserError: if task, data and recipe do not fit, the run is there already, or the loss is not finite.
    """
    spec, run, console = config.training, Path(run), console or Console()
    torch.set_num_threads(spec.threads)
    torch.manual_seed(spec.seed)

    # Data: windows of whole episodes, cut in memory; some episodes are held out.
    check_supported(task)
    demonstrations = load_demonstrations(data, task)
    training, held_out = split_episodes(demonstrations.n_episodes, spec.validation_share, spec.seed)
    windows = cut_windows(demonstrations, task, training)
    samples = _Samples(windows)
    validation = _Samples(cut_windows(demonstrations, task, held_out))

    # Policy, its average, optimiser.
    statistics = _statistics(demonstrations, task, training)
    policy = DiffusionPolicy(task, statistics, config.network, config.sampler)
    origin = None if start_from is None else _start_from(Path(start_from), policy)
    average = WeightAverage(policy, spec.ema_power, spec.ema_max_decay)
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=0.0, betas=spec.betas, weight_decay=spec.weight_decay, fused=True
    )

    # Run folder: new, or with a checkpoint to go on from.
    record = RunRecord.of(task, data, demonstrations, policy.statistics, config, origin)
    progress = Progress()
    if resume:
        open_run(run).require_same(record, run)
        if (run / LAST).exists():
            progress = load_checkpoint(run / LAST, policy, average, optimizer)
    else:
        create_run(run, record)
    n_parameters = sum(p.numel() for p in policy.parameters())
    console.print(
        f"{len(windows)} windows from {len(training)} episodes, {len(held_out)} held out; "
        f"{n_parameters / 1e6:.2f} M parameters; {spec.steps} steps of {spec.batch_size} samples"
    )

    # Loop. A step that is due for evaluation or a checkpoint gets it before the next step is made.
    batches = _Batches(len(windows), spec)
    started_s = time.monotonic() - progress.wall_time_s
    with (
        SummaryWriter(str(run / TENSORBOARD), purge_step=progress.step + 1 if resume else None) as log,
        TrainingDisplay(console, spec, progress.step) as display,
        _stop_signals() as stopped,
    ):
        while True:
            step = progress.step
            due = step % spec.eval_every == 0 or step == spec.steps
            if due and step > progress.evaluated_step:
                metrics = _evaluate(average.policy, validation, spec, stopped)
                if metrics is not None:
                    progress.evaluated_step = step
                    progress.wall_time_s = time.monotonic() - started_s
                    is_best = _keep_best(run, average, progress, metrics)
                    for name, value in metrics.items():
                        log.add_scalar(f"eval/{name}", value, step)
                    display.evaluated(step, metrics, is_best)
            if step % spec.checkpoint_every == 0 or step == spec.steps or stopped():
                progress.wall_time_s = time.monotonic() - started_s
                save_checkpoint(run / LAST, policy, average, optimizer, progress)
            if stopped():
                raise KeyboardInterrupt
            if step == spec.steps:
                return progress

            chosen = batches.at(step)
            noise, level = _corruption(spec.seed, step, len(chosen), task, config.sampler.train_steps)
            known = _known_actions(spec, step, len(chosen), task, config.network.prefix_steps)
            loss = policy.loss(
                samples.observations_at(chosen),
                samples.actions[chosen],
                noise,
                level,
                known,
                spec.prefix_noise,
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            gradient_norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), spec.clip_norm, foreach=True)
            if not math.isfinite(loss.item()) or not math.isfinite(gradient_norm.item()):
                raise TrainingError(
                    f"step {step}: the loss is {loss.item():g}, its gradient {gradient_norm.item():g}: "
                    f"training has diverged. Start again with a lower --lr (now {spec.learning_rate:g}); "
                    f"{run / LAST} is the last good checkpoint"
                )
            rate = learning_rate(spec, step)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            average.update(policy, step + 1)
            progress.step = step + 1
            if display.advance(loss.item(), rate):
                log.add_scalar("train/loss", display.mean_loss, step + 1)
                log.add_scalar("train/gradient_norm", gradient_norm.item(), step + 1)
                log.add_scalar("train/learning_rate", rate, step + 1)


def _start_from(run: Path, policy: DiffusionPolicy) -> str:
    """Load the best weights of another run into `policy`; returns what its record says of that."""
    record = open_run(run)
    if record.statistics != policy.statistics:
        raise UserError(
            f"{run}: was trained on data of another range, so its weights mean other actions; "
            "start from a run on the same recording"
        )
    progress = load_weights(run / BEST, policy, as_start=True)
    samples = progress.step * record.config.training.batch_size
    return f"{run.name}, {progress.step} steps, {samples} samples, data {record.data_digest[:12]}"


def learning_rate(spec: OptimizationSpec, step: int) -> float:
    """Rate of optimiser step `step`, counted from 0: up along a line, then down to zero along a cosine."""
    if step < spec.warmup_steps:
        return spec.learning_rate * (step + 1) / spec.warmup_steps
    share = (step - spec.warmup_steps) / max(spec.steps - spec.warmup_steps, 1)
    return spec.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))


class _Samples:
    """Windows as tensors."""

    def __init__(self, windows: Windows) -> None:
        self.observations = {key: torch.from_numpy(value) for key, value in windows.observations.items()}
        self.actions = torch.from_numpy(windows.actions)

    def observations_at(self, chosen: Tensor) -> dict[str, Tensor]:
        return {key: value[chosen] for key, value in self.observations.items()}


class _Batches:
    """Which windows make up the batch of a step; each epoch has its own order and drops what is left over."""

    def __init__(self, n_windows: int, spec: OptimizationSpec) -> None:
        self._n, self._seed = n_windows, spec.seed
        self._size = min(spec.batch_size, n_windows)
        self._epoch = -1
        self._order = torch.empty(0)

    def at(self, step: int) -> Tensor:
        """Indices of the batch of `step`, counted from 0."""
        epoch, place = divmod(step, self._n // self._size)
        if epoch != self._epoch:
            rng = np.random.default_rng(np.random.SeedSequence([self._seed, _ORDER, epoch]))
            self._order, self._epoch = torch.from_numpy(rng.permutation(self._n)), epoch
        return self._order[place * self._size : (place + 1) * self._size]


def _corruption(
    seed: int, step: int, n: int, task: TaskSpec, train_steps: int, purpose: int = _NOISE
) -> tuple[Tensor, Tensor]:
    """Noise (n, horizon, action_dim) and noise levels (n,) of a step."""
    state = np.random.SeedSequence([seed, purpose, step]).generate_state(1)
    generator = torch.Generator().manual_seed(int(state[0]))
    noise = torch.randn((n, task.horizon, task.action.dim), generator=generator)
    return noise, torch.randint(train_steps, (n,), generator=generator)


def _known_actions(
    spec: OptimizationSpec, step: int, n: int, task: TaskSpec, prefix_steps: int
) -> Tensor | None:
    """Which actions (n, horizon) of the samples of a step are given clean; None for a policy without a prefix.

    A share `prefix_share` of the samples has a prefix, of 1 to `prefix_steps` executed actions. What comes before
    the first executed action belongs to older observations and is known as well.
    """
    if prefix_steps == 0:
        return None
    rng = np.random.default_rng(np.random.SeedSequence([spec.seed, _PREFIX, step]))
    executed = rng.integers(1, prefix_steps, size=n, endpoint=True)
    rows = np.where(rng.random(n) < spec.prefix_share, task.n_obs_steps - 1 + executed, 0)
    return torch.from_numpy(np.arange(task.horizon) < rows[:, None])


def _statistics(
    demonstrations: Demonstrations, task: TaskSpec, episodes: list[int]
) -> dict[str, dict[str, list[float]]]:
    """Range of every stream and of the action over the training episodes."""
    episode_of_row = np.searchsorted(demonstrations.episode_ends, np.arange(demonstrations.n_steps), "right")
    rows = np.isin(episode_of_row, episodes)
    return {key: min_max(values[: len(rows)][rows]) for key, values in demonstrations.arrays.items()}


@torch.no_grad()
def _evaluate(
    policy: DiffusionPolicy, validation: _Samples, spec: OptimizationSpec, stopped: Callable[[], bool]
) -> dict[str, float] | None:
    """Loss on held-out episodes and score in simulation, on the same noise each time; None if stopped."""
    metrics = {}
    if len(validation.actions):
        n = len(validation.actions)
        chosen = torch.linspace(0, n - 1, min(n, _MOST_VALIDATION_SAMPLES)).long()
        noise, level = _corruption(
            spec.seed, 0, len(chosen), policy.task, policy.sampler.train_steps, purpose=_VALIDATION
        )
        loss = policy.loss(validation.observations_at(chosen), validation.actions[chosen], noise, level)
        metrics["validation_loss"] = loss.item()
    if spec.eval_episodes and is_simulated(policy.task):
        seeds = range(spec.eval_first_seed, spec.eval_first_seed + spec.eval_episodes)
        episodes = []
        for episode in run_episodes(policy.task, _sample_one(policy), seeds):
            if stopped():
                return None
            episodes.append(episode)
        evaluation = summarize(episodes)
        metrics["mean_score"], metrics["success_rate"] = evaluation.mean_score, evaluation.success_rate
    return metrics


def _sample_one(policy: DiffusionPolicy) -> Sample:
    """The policy as a function of one observation."""

    def sample(observation: Mapping[str, NDArray[Any]], noise: NDArray[np.float32]) -> NDArray[np.float32]:
        batch = {key: torch.from_numpy(np.asarray(value))[None] for key, value in observation.items()}
        return np.asarray(policy.sample(batch, torch.from_numpy(noise)[None])[0].numpy())

    return sample


def _keep_best(run: Path, average: WeightAverage, progress: Progress, metrics: dict[str, float]) -> bool:
    """Save the averaged weights if they are the best so far (the later of equals); whether they are.

    By score in simulation, or by validation loss where there is none; by neither, the last are the best.
    """
    merit = metrics.get("mean_score", -metrics.get("validation_loss", -math.inf))
    if progress.best_merit is not None and not merit >= progress.best_merit:
        return False
    progress.best_merit, progress.best_step = merit, progress.step
    save_weights(run / BEST, average, progress)
    return True


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether Ctrl-C or SIGTERM came; the step under way is finished first."""
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)

    if threading.current_thread() is not threading.main_thread():  # only it can have handlers
        yield lambda: False
        return
    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
