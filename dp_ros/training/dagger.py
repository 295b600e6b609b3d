"""Rounds of DAgger: run the policy, have its mistakes corrected, train on, see what that brought.

    OUT/dagger.json       settings, and labels, score and gain of each round
    OUT/data.zarr         copy of the recording, to which the labels are added
    OUT/round_1/ ...      training run of each round, which begins with the weights of the one before

The recording that was given is never written to. Easy to get wrong: labels come from start states that no score is
taken on, and the score of a round from others than its training chose a checkpoint by; both are checked.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.takeovers import takeover_episodes
from dp_ros.errors import UserError
from dp_ros.inference.torch import sample_batch
from dp_ros.policies.policy import Policy
from dp_ros.policies.specs import labels_of
from dp_ros.process_pool import map_loaded
from dp_ros.runtime.execution import Execution
from dp_ros.sim.pusht_labels import Label, TakeoverRule, label_episodes
from dp_ros.sim.pusht_rollout import EpisodeResult
from dp_ros.task import TaskSpec
from dp_ros.training.config import REPORTED_SEEDS, TrainingConfig, with_overrides
from dp_ros.training.dagger_record import DAGGER_FILE, DaggerRecord, DaggerSettings, Labels, Round, Score
from dp_ros.training.evaluate import in_order, is_simulated, one_call, parse_seeds, run_batched
from dp_ros.training.evaluate_parallel import portions
from dp_ros.training.run_folder import RUN_FILE, open_run
from dp_ros.training.trained_policy import load_trained
from dp_ros.training.trainer import train

DATA = "data.zarr"


def begin(out: Path, settings: DaggerSettings) -> DaggerRecord:
    """Make the folder: the copy of the recording, and `dagger.json`.

    Raises:
        UserError: if there is something already, the recording is not one that rows can be added to, or the start
            states of labels, scores and reports overlap.
    """
    check(settings)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        other = "--resume goes on with it" if (out / DAGGER_FILE).exists() else "give another --out"
        raise UserError(f"{out}: is there already; {other}")
    _recorded_task(Path(settings.data))
    out.mkdir(parents=True, exist_ok=True)
    part = out / f".{DATA}.part"
    shutil.copytree(settings.data, part)
    part.replace(out / DATA)
    record = DaggerRecord(settings=settings)
    record.save(out)
    return record


def with_rounds(record: DaggerRecord, rounds: int) -> DaggerRecord:
    """`record` with so many rounds in all, as if it had been begun so.

    Raises:
        UserError: if more than that are done, or so many cannot be.
    """
    if rounds < len(record.rounds):
        raise UserError(
            f"--rounds: got {rounds}, but {len(record.rounds)} are done; give more, or leave it out"
        )
    settings = record.settings.model_copy(update={"rounds": rounds})
    check(settings)
    return record.model_copy(update={"settings": settings})


def check(settings: DaggerSettings) -> None:
    """Raise UserError for settings that cannot be, before anything is written."""
    run = Path(settings.run)
    record = open_run(run)
    task, network = record.task_spec(run), record.config.network
    if settings.mode == "rtc" and not network.denoises:
        raise UserError(
            f"--mode rtc: {run} has a {network.kind} policy, which cannot go on from the running plan as this mode "
            "asks for; expected a policy that denoises; choose --mode replace or ensemble, or another --run"
        )
    Execution(settings.mode, settings.infer_every).require(task, "guided" if network.denoises else "none")
    for learnt in labels_of(network):
        raise UserError(
            f"{run}: its encoder learns from recorded {learnt}, which corrections do not have; correct the policy "
            f"that observes {learnt}, and train the encoder once more with --start-from that run"
        )
    config = _round_config(settings, 1)
    if settings.takeovers is None and not is_simulated(task):
        raise UserError(
            f"task {task.name} is not one of the simulated robot, so there is no expert to ask; give --takeovers, "
            "a recording of runs in which an operator took over"
        )
    if settings.takeovers is not None and settings.rounds != 1:
        raise UserError(f"--rounds: got {settings.rounds} with --takeovers, which are one round of labels")
    spec = config.training
    taken = {
        "the start states of reports": set(REPORTED_SEEDS),
        "--eval-seeds": set(parse_seeds(settings.eval_seeds)),
        "the start states that a training chooses its checkpoint by": set(
            range(spec.eval_first_seed, spec.eval_first_seed + spec.eval_episodes)
        ),
    }
    labels = set(range(settings.first_seed, settings.first_seed + settings.rounds * settings.episodes))
    pairs = [("the start states of the labels", labels, name, seeds) for name, seeds in taken.items()]
    names = list(taken)
    pairs += [(names[1], taken[names[1]], other, taken[other]) for other in (names[0], names[2])]
    for one, seeds, other, others in pairs:
        if both := seeds & others:
            raise UserError(f"{one} and {other} have {min(both)} in common; choose others")


def run_rounds(out: Path, record: DaggerRecord, console: Console) -> DaggerRecord:
    """Run the rounds that are left; what was stopped or killed in between is gone on with.

    Raises:
        UserError: if a run, the recording or a training cannot be used.
    """
    settings = record.settings
    if record.before is None and not record.rounds:
        record = record.model_copy(update={"before": _score(Path(settings.run), settings, console)})
        record.save(out)
    for number in range(len(record.rounds) + 1, settings.rounds + 1):
        before = Path(record.rounds[-1].run) if record.rounds else Path(settings.run)
        labels = _add_labels(out / DATA, before, number, settings, console)
        run = out / f"round_{number}"
        task, going_on = open_run(before).task_spec(before), (run / RUN_FILE).exists()
        train(
            task,
            out / DATA,
            run,
            _round_config(settings, number),
            resume=going_on,
            start_from=None if going_on else before,
            console=console,
        )
        done = Round(labels=labels, run=str(run), score=_score(run, settings, console))
        record = record.model_copy(update={"rounds": [*record.rounds, done]})
        record.save(out)
    return record


def _round_config(settings: DaggerSettings, number: int) -> TrainingConfig:
    """Recipe of a round: the run's with what was asked for, and another seed in each."""
    config = open_run(Path(settings.run)).config
    seed = config.training.seed + number
    return with_overrides(config, {"training.seed": seed, **settings.overrides})


def _add_labels(data: Path, run: Path, number: int, settings: DaggerSettings, console: Console) -> Labels:
    """Add the round's labels to the recording, those that are not there yet."""
    with EpisodeWriter(data, _recorded_task(data), keep_unfinished=False) as writer:
        if settings.takeovers is not None:
            return _add_takeovers(writer, settings)
        first = settings.first_seed + (number - 1) * settings.episodes
        seeds = range(first, first + settings.episodes)
        recorded = set(writer.episode_seeds.tolist())
        left = [seed for seed in seeds if seed not in recorded]
        found = _labels(run, settings, left, writer.task)
        outcomes = []
        quiet = not console.is_terminal
        for label in track(found, f"labels of round {number}", len(left), console=console, disable=quiet):
            outcomes.append(label.outcome)
            if label.outcome == "labelled":
                for row in label.steps:
                    writer.add(row)
                writer.save(label.seed)
        mine = np.isin(writer.episode_seeds, list(seeds))
    lengths = np.diff(ReplayBuffer.open(data).episode_ends, prepend=0)
    return Labels(
        labelled=int(mine.sum()),
        solved=outcomes.count("solved"),
        unsolved=outcomes.count("unsolved"),
        rows=int(lengths[mine].sum()),
    )


def _labels(run: Path, settings: DaggerSettings, seeds: list[int], recorded: TaskSpec) -> Iterator[Label]:
    """What came of each start state, in one process or in several."""
    load, label = partial(_load_policy, run), partial(_label_portion, settings, recorded)
    work = portions(seeds, settings.processes, batches=True)
    with contextlib.closing(map_loaded(load, label, work, settings.processes)) as found:
        for labels in found:
            yield from labels


def _load_policy(run: Path) -> Policy:
    torch.set_num_threads(1)  # of an inference, as in `dp-ros eval`
    policy, _ = load_trained(run)
    return policy


def _label_portion(
    settings: DaggerSettings, recorded: TaskSpec, policy: Policy, seeds: Sequence[int]
) -> list[Label]:
    found = label_episodes(
        policy.task,
        one_call(policy.task, partial(sample_batch, policy)),
        seeds,
        TakeoverRule(settings.earliest, settings.latest, settings.patience),
        settings.style,
        recorded=recorded,
        latencies_ms=settings.latencies_ms,
        mode=settings.mode,
        infer_every=settings.infer_every,
    )
    return sorted(found, key=lambda one: one.seed)


def _add_takeovers(writer: EpisodeWriter, settings: DaggerSettings) -> Labels:
    """Add an operator's takeovers, those that are not there yet."""
    assert settings.takeovers is not None
    n_given = ReplayBuffer.open(settings.data).n_episodes
    rows = labelled = 0
    for seed, steps in takeover_episodes(Path(settings.takeovers), writer.task):
        labelled, rows = labelled + 1, rows + len(steps)
        if n_given + labelled > writer.n_episodes:
            for row in steps:
                writer.add(row)
            writer.save(seed)
    return Labels(labelled=labelled, rows=rows)


def _score(run: Path, settings: DaggerSettings, console: Console) -> Score | None:
    """Score of a run's policy; None where the task cannot be simulated."""
    policy, _ = load_trained(run)
    if not is_simulated(policy.task):
        return None
    seeds = parse_seeds(settings.eval_seeds)
    quiet = not console.is_terminal
    found: dict[float | None, list[EpisodeResult]] = {}
    for latency_ms in settings.latencies_ms or (None,):
        episodes = run_batched(
            policy.task,
            partial(sample_batch, policy),
            seeds,
            mode=settings.mode,
            infer_every=settings.infer_every,
            latency_ms=latency_ms,
        )
        at = "" if latency_ms is None else f" at {latency_ms:g} ms"
        shown = track(episodes, f"score of {run.name}{at}", len(seeds), console=console, disable=quiet)
        found[latency_ms] = in_order(shown, seeds)
    return Score.of(found)


def _recorded_task(data: Path) -> TaskSpec:
    """The task that a recording was made for. Raises UserError if it does not say."""
    task = ReplayBuffer.open(data).task
    if task is None:
        raise UserError(f"{data}: does not say for which task it was recorded, so nothing can be added to it")
    return task
