"""The training loop, in the order in which it runs.

Every random number is a function of the seed, the step and the sample, so a run that was killed and resumed is equal,
bit for bit on a CPU, to one that was not, an evaluation in between changes nothing, and a batch that is cut in parts
or over processes is the same batch. Easy to get wrong: the loss says little about a diffusion policy; the score in
simulation does, and it is taken from the averaged weights.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from dp_ros.data.layout import NO_SEED
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.windows import cut_windows, load_demonstrations, split_episodes
from dp_ros.errors import UserError
from dp_ros.inference.torch import sample_batch
from dp_ros.policies.build import build_policy, check_supported
from dp_ros.policies.policy import Batch, Draw, Policy
from dp_ros.policies.specs import labels_of, observed_steps
from dp_ros.sim.pusht_rollout import EpisodeResult
from dp_ros.task import TaskSpec
from dp_ros.training.batches import Batches, Part, Samples, fetch_ahead, ranges_of, weighted_batch
from dp_ros.training.checkpoint import (
    Progress,
    keep_among_best,
    load_checkpoint,
    save_checkpoint,
    save_weights,
)
from dp_ros.training.config import OptimizationSpec, TrainingConfig
from dp_ros.training.display import TrainingDisplay
from dp_ros.training.distill import Teacher
from dp_ros.training.ema import WeightAverage
from dp_ros.training.episode_record import save_episodes
from dp_ros.training.evaluate import in_order, is_simulated, run_batched, summarize
from dp_ros.training.metrics import Line, MetricsLog, merit, require_logger, score_metrics
from dp_ros.training.origin import Origin
from dp_ros.training.run_folder import BEST, LAST, LOG, RunRecord, create_run, open_run
from dp_ros.training.workers import Workers

_NOISE, _VALIDATION, _PREFIX = 2, 3, 4  # what a random number is for; 1 is the order of the samples
_MOST_VALIDATION_SAMPLES = 1024
_SLICE = 256  # of them at a time, for the memory that pictures need
_MOST_SAMPLED = 64  # draws that train_action_mse_error compares with the recorded actions


#: What is learnt: policy, batch and random numbers to a number.
Loss = Callable[[Policy, Batch, Draw], Tensor]


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
    workers: Workers | None = None,
    teacher: Teacher | None = None,
) -> Progress:
    """Train a policy and leave `last.safetensors` and `best.safetensors` in the run folder.

    Args:
        task: what is observed and commanded.
        data: recording to learn from.
        run: folder of the run; must not exist unless `resume`.
        config: the recipe.
        resume: go on where the run was stopped, or killed.
        start_from: a run, on data of about the same range, whose best weights this one begins with, or a model; see
            `Origin`.
        console: where progress is shown.
        workers: the processes that train together; None: this one alone.
        teacher: the policy whose draws this one learns to make in fewer steps, and whose weights it begins with; None:
            it learns from the data.

    Raises:
        UserError: if task, data and recipe do not fit, the run is there already, or the loss is not finite.
    """
    spec, run, console = config.training, Path(run), console or Console()
    workers = workers or Workers(torch.device(spec.device))
    torch.set_num_threads(spec.threads)
    torch.manual_seed(spec.seed)

    # Data: windows of whole episodes; some episodes are held out.
    require_logger(spec.logger)
    check_supported(task, config.network)
    demonstrations = load_demonstrations(data, task, labels=tuple(labels_of(config.network)))
    training, held_out = split_episodes(demonstrations.n_episodes, spec.validation_share, spec.seed)
    rows = observed_steps(config.network, task)
    samples = Samples(cut_windows(demonstrations, task, training, rows))
    validation = Samples(cut_windows(demonstrations, task, held_out, rows))
    batches = Batches(len(samples), spec, workers.count)
    starts = _start_states(task, data, training, spec)

    # Policy, its average, optimiser.
    before = open_run(run) if resume else None
    statistics = before.statistics if before else ranges_of(samples.windows, task)
    origin = None if start_from is None else Origin(Path(start_from), task, config)
    if origin is not None:
        statistics = origin.statistics(statistics)
    if teacher is not None:
        statistics = {key: dict(value) for key, value in teacher.policy.statistics.items()}
    policy = build_policy(task, statistics, config.network, config.sampler)
    policy.prepare(samples.actions)
    started_from = None if origin is None else origin.load_into(policy)
    loss_of: Loss = _own_loss
    if teacher is not None:
        policy.load_state_dict(teacher.policy.state_dict())
        teacher.policy.to(workers.device)
        started_from, loss_of = teacher.manifest.model_id, teacher.loss
    policy.to(workers.device)
    parameters = list(policy.parameters())
    average = WeightAverage(policy, spec.ema_power, spec.ema_max_decay)
    optimizer = torch.optim.AdamW(
        policy.parameter_groups(spec.weight_decay), lr=0.0, betas=spec.betas, fused=True
    )

    # Run folder: new, or with a checkpoint to go on from.
    distilled_from = None if teacher is None else str(teacher.folder)
    record = RunRecord.of(
        task,
        data,
        demonstrations,
        statistics,
        config,
        started_from,
        workers.count,
        distilled_from,
        [] if origin is None else origin.ancestors,
    )
    progress = Progress()
    if before is not None:
        before.require_same(record, run)
        if (run / LAST).exists():
            progress = load_checkpoint(run / LAST, policy, average, optimizer)
    else:
        workers.on_main(lambda: create_run(run, record))
    n_parameters = sum(p.numel() for p in parameters)
    console.print(
        f"{run}: {len(samples)} windows from {len(training)} episodes, {len(held_out)} held out; "
        f"{n_parameters / 1e6:.2f} M parameters; {spec.steps} steps of {batches.size} samples on {workers}",
        highlight=False,
        soft_wrap=True,
    )

    # Loop. A step that is due for evaluation or a checkpoint gets it before the next step is made.
    facts, log_file = record.model_dump(mode="json"), run / LOG if workers.is_main else None
    started_s = time.monotonic() - progress.wall_time_s
    with (
        fetch_ahead(samples, batches, spec.steps, workers.device, workers.rank) as ahead,
        MetricsLog(run, spec.logger, progress.step, facts, active=workers.is_main) as log,
        TrainingDisplay(console, spec, progress, batches.size, log_file) as display,
        _stop_signals() as stopped,
    ):
        while True:
            step = progress.step
            due = step % spec.eval_every == 0 or step == spec.steps
            if due and step > progress.evaluated_step and workers.is_main:
                result = _evaluate(average.policy, loss_of, samples, validation, starts, spec, stopped)
                if result is not None:
                    metrics, episodes = result
                    progress.evaluated_step = step
                    progress.wall_time_s = time.monotonic() - started_s
                    save_episodes(run, step, episodes)
                    is_best = _keep_best(run, average, progress, metrics, spec.keep_best)
                    log.write(step, {"epoch": batches.epochs(step), **metrics})
                    display.evaluated(step, metrics, is_best)
            stop = workers.any(stopped())
            if workers.is_main and (step % spec.checkpoint_every == 0 or step == spec.steps or stop):
                progress.wall_time_s = time.monotonic() - started_s
                save_checkpoint(run / LAST, policy, average, optimizer, progress)
            if stop:
                raise KeyboardInterrupt
            if step == spec.steps:
                return progress

            # One step: this process's parts of the batch, their gradients averaged over parts and processes.
            optimizer.zero_grad(set_to_none=True)
            loss = torch.zeros((), device=workers.device)
            for part, observation, actions in ahead.at(step):
                known = _known_actions(spec, step, part, task, config)
                batch = weighted_batch(spec, observation, actions, known)
                with _precision(spec, workers.device):
                    part_loss = loss_of(policy, batch, Draw(spec.seed, _NOISE, step, part.first, part.total))
                weighted = part_loss * (part.share * workers.count)
                weighted.backward()
                loss += weighted.detach()
            workers.average([loss, *(p.grad for p in parameters if p.grad is not None)])
            gradient_norm = torch.nn.utils.clip_grad_norm_(parameters, spec.clip_norm, foreach=True)
            if not math.isfinite(loss.item()) or not math.isfinite(gradient_norm.item()):
                raise TrainingError(
                    f"step {step}: the loss is {loss.item():g}, its gradient {gradient_norm.item():g}: "
                    f"training has diverged. Start again with a lower --lr (now {spec.learning_rate:g}); "
                    f"{run / LAST} is the last good checkpoint"
                )
            rate = learning_rate(spec, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            average.update(step + 1)
            progress.step = step + 1
            if display.advance(loss.item(), rate):
                values = {"lr": rate, "train_loss": display.mean_loss, "gradient_norm": gradient_norm.item()}
                log.write(step + 1, {"epoch": batches.epochs(step + 1), **values})


def _own_loss(policy: Policy, batch: Batch, draw: Draw) -> Tensor:
    return policy.loss(batch, draw)


def _start_states(
    task: TaskSpec, data: str | Path, training: list[int], spec: OptimizationSpec
) -> dict[str, list[int]]:
    """Seeds of the simulated episodes of an evaluation: fresh ones, and some that demonstrations began with.

    Raises:
        UserError: if a demonstration began with one that is to be fresh.
    """
    if not is_simulated(task) or not spec.eval_episodes:
        return {}
    recorded = ReplayBuffer.open(data).episode_seeds
    fresh = list(range(spec.eval_first_seed, spec.eval_first_seed + spec.eval_episodes))
    known = sorted(set(fresh) & set(recorded.tolist()))
    if known:
        raise UserError(
            f"training.eval_first_seed {spec.eval_first_seed}: {len(known)} of the {len(fresh)} start states (first "
            f"{known[0]}) are those of demonstrations in {data}, so their score would say too much; choose others"
        )
    seen = [int(recorded[i]) for i in training if recorded[i] != NO_SEED]
    groups = {"test": fresh, "train": list(dict.fromkeys(seen))[: spec.eval_train_episodes]}
    return {group: seeds for group, seeds in groups.items() if seeds}


def learning_rate(spec: OptimizationSpec, step: int) -> float:
    """Rate of optimiser step `step`, counted from 0: up along a line, then down to zero along a cosine."""
    if step < spec.warmup_steps:
        return spec.learning_rate * (step + 1) / spec.warmup_steps
    share = (step - spec.warmup_steps) / max(spec.steps - spec.warmup_steps, 1)
    return spec.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))


def _precision(spec: OptimizationSpec, device: torch.device) -> Any:
    """Products in bfloat16 where the recipe says so; weights, losses and the optimiser stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=spec.precision == "bfloat16")


def _known_actions(
    spec: OptimizationSpec, step: int, part: Part, task: TaskSpec, config: TrainingConfig
) -> Tensor | None:
    """Which actions (B, horizon) of the samples of a part are given clean; None for a policy without a prefix.

    A share `prefix_share` of the samples has a prefix, of 1 to `prefix_steps` executed actions. What comes before
    the first executed action belongs to older observations and is known as well.
    """
    prefix_steps = getattr(config.network, "prefix_steps", 0)
    if prefix_steps == 0:
        return None
    rng = np.random.default_rng(np.random.SeedSequence([spec.seed, _PREFIX, step]))
    executed = rng.integers(1, prefix_steps, size=part.total, endpoint=True)
    rows = np.where(rng.random(part.total) < spec.prefix_share, task.n_obs_steps - 1 + executed, 0)
    own = rows[part.first : part.first + len(part.chosen)]
    return torch.from_numpy(np.arange(task.horizon) < own[:, None])


@torch.no_grad()
def _evaluate(
    policy: Policy,
    loss_of: Loss,
    samples: Samples,
    validation: Samples,
    starts: Mapping[str, list[int]],
    spec: OptimizationSpec,
    stopped: Callable[[], bool],
) -> tuple[Line, dict[str, list[EpisodeResult]]] | None:
    """Losses and scores, on the same noise each time, and the simulated episodes by group; None if stopped."""
    device = next(policy.parameters()).device
    metrics: Line = {}
    chosen = validation.spread(_MOST_VALIDATION_SAMPLES)
    for first in range(0, len(chosen), _SLICE):
        observation, actions = validation.at(chosen[first : first + _SLICE], device)
        draw = Draw(spec.seed, _VALIDATION, 0, first, len(chosen))
        share = len(actions) / len(chosen)
        found = {"val_loss": loss_of(policy, weighted_batch(spec, observation, actions), draw).item()}
        found |= {f"val_{key}_error": error for key, error in policy.label_errors(observation).items()}
        for name, value in found.items():
            metrics[name] = metrics.get(name, 0.0) + share * value
    observation, actions = samples.at(samples.spread(_MOST_SAMPLED), device)
    noise = Draw(spec.seed, _VALIDATION, 1, 0, len(actions)).normal(len(actions), *policy.noise_shape)
    metrics["train_action_mse_error"] = F.mse_loss(
        policy.sample(observation, noise.to(device)), actions
    ).item()
    groups: dict[str, list[EpisodeResult]] = {}
    for group, seeds in starts.items():
        sample = partial(sample_batch, policy, device=device)
        episodes = list(run_batched(policy.task, sample, seeds, should_stop=stopped))
        if stopped():
            return None
        if episodes:
            groups[group] = in_order(episodes, seeds)
            metrics |= score_metrics(summarize(groups[group]), group)
    return metrics, groups


def _keep_best(run: Path, average: WeightAverage, progress: Progress, metrics: Line, keep: int) -> bool:
    """Save the averaged weights if they are among the best; whether they are the best (the later of equals).

    By score in simulation, or by validation loss where there is none; by neither, the last are the best.
    """
    value = merit(metrics)
    if value is not None:
        keep_among_best(run, average, progress, value, keep)
    if progress.best_merit is not None and value is not None and not value >= progress.best_merit:
        return False
    progress.best_merit, progress.best_step = value, progress.step
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
