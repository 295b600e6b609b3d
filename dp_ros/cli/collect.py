"""Record demonstrations of the scripted expert on the simulated PushT robot.

By default the simulated robot, the teleoperation and the recorder run as processes over DDS, in lockstep;
with --fast everything runs in this process, which gives the same episodes for the same seeds. An existing
recording is appended to, with the seeds that follow those it has. Ctrl-C keeps every saved episode.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from dp_ros.cli.demonstration_style import add_style_arguments, style_of
from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.errors import UserError
from dp_ros.process_pool import follow_parent
from dp_ros.sim.pusht_episodes import (
    Demonstration,
    DemonstrationStyle,
    Outcome,
    generate_episode,
    seeds_to_record,
)
from dp_ros.task import TaskSpec, load_task


@dataclass
class Tally:
    """What a collection has come to so far."""

    recorded: int = 0
    attempts: int = 0
    successes: int = 0
    lengths: list[int] = field(default_factory=list)

    def count(self, *, success: bool, kept: bool, steps: int) -> None:
        """Add one attempt."""
        self.attempts += 1
        self.successes += success
        if kept:
            self.recorded += 1
            self.lengths.append(steps)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dp-ros collect`."""
    parser.add_argument("--task", default="pusht_state", help="task file or name (default: %(default)s)")
    parser.add_argument("--episodes", type=_positive, required=True, help="how many to add to the recording")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="X.zarr", help="recording to make or extend"
    )
    parser.add_argument("--seed", type=int, help="of the first episode (default: 0, or after those recorded)")
    add_style_arguments(parser)
    parser.add_argument(
        "--keep-failures", action="store_true", help="also keep episodes that did not succeed"
    )
    parser.add_argument("--fast", action="store_true", help="without ROS, in this process")
    parser.add_argument(
        "--workers", type=_positive, default=1, help="processes that --fast uses (default: 1)"
    )


def run(args: argparse.Namespace) -> int:
    """Collect; the exit status is 130 after Ctrl-C."""
    if args.workers > 1 and not args.fast:
        raise UserError("--workers needs --fast: over ROS the episodes are recorded one after the other")
    task, style = load_task(args.task), style_of(args)
    generate_episode(
        task, 0, style, max_steps=1
    )  # refuses what cannot be demonstrated before anything starts
    before = ReplayBuffer.open(args.out).n_episodes if args.out.exists() else 0
    console, tally, begin_s = Console(), Tally(), time.monotonic()
    if args.fast:
        collected = collect_in_process(task, args, style, console)
    else:
        from dp_ros.cli.ros_collect import collect_over_ros

        collected = collect_over_ros(task, args, style, console)
    interrupted = False
    try:
        with _progress(console) as progress:
            bar = progress.add_task(str(args.out), total=args.episodes)
            with contextlib.closing(collected):
                for success, kept, steps in collected:
                    tally.count(success=success, kept=kept, steps=steps)
                    progress.update(bar, completed=tally.recorded)
    except KeyboardInterrupt:
        interrupted = True
    if interrupted and not args.out.exists():
        console.print("interrupted before anything was recorded")
        return 130
    buffer = ReplayBuffer.open(args.out)
    if interrupted:
        added = buffer.n_episodes - before
        console.print(f"interrupted: {added} of {args.episodes} episodes recorded and kept")
    console.print(_summary(buffer, tally, time.monotonic() - begin_s))
    return 130 if interrupted else 0


def collect_in_process(
    task: TaskSpec, args: argparse.Namespace, style: DemonstrationStyle, console: Console
) -> Generator[Outcome, None, None]:
    """Generate and save episodes; yields what each came to, in the order of the seeds."""
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(EpisodeWriter(args.out, task, keep_unfinished=False))
        if writer.recovery:
            console.print(f"{args.out}: {writer.recovery}")
        seeds = seeds_to_record(args.seed, writer.episode_seeds)
        generate = partial(generate_episode, task, style=style)
        made: Iterator[Demonstration] = (
            map(generate, seeds)
            if args.workers == 1
            else stack.enter_context(_parallel(generate, seeds, args.workers))
        )
        recorded = 0
        while recorded < args.episodes:
            episode = next(made)
            kept = episode.success or args.keep_failures
            if kept:
                for step in episode.steps:
                    writer.add(step)
                writer.save(episode.seed)
                recorded += 1
            yield Outcome(episode.success, kept, len(episode.steps))


@contextlib.contextmanager
def _parallel(
    generate: partial[Demonstration], seeds: Iterator[int], workers: int
) -> Iterator[Iterator[Demonstration]]:
    """Episodes of `seeds` in order, made by `workers` processes a few episodes ahead of the reader."""
    with multiprocessing.get_context("spawn").Pool(workers, initializer=follow_parent) as pool:

        def ahead() -> Iterator[Demonstration]:
            pending = [pool.apply_async(generate, (seed,)) for seed in itertools.islice(seeds, 2 * workers)]
            while True:
                first = pending.pop(0)
                pending.append(pool.apply_async(generate, (next(seeds),)))
                yield first.get()

        yield ahead()


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("episodes"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


def _summary(buffer: ReplayBuffer, tally: Tally, wall_s: float) -> Table:
    size_bytes = sum(file.stat().st_size for file in buffer.path.rglob("*") if file.is_file())
    table = Table(title=str(buffer.path), title_justify="left")
    for heading in ("", "this run", "recording"):
        table.add_column(heading, justify="left" if not heading else "right")
    lengths = np.diff(buffer.episode_ends, prepend=0)
    table.add_row("episodes", str(tally.recorded), str(buffer.n_episodes))
    table.add_row("steps", str(sum(tally.lengths)), str(buffer.n_steps))
    table.add_row("mean length", _mean(tally.lengths), _mean(lengths.tolist()))
    table.add_row("successful", f"{tally.successes} of {tally.attempts}", "")
    table.add_row("size", "", f"{size_bytes / 1e6:.2f} MB")
    table.add_row("wall time", f"{wall_s:.1f} s", "")
    return table


def _mean(values: list[int]) -> str:
    return f"{np.mean(values):.1f}" if values else "-"


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected at least 1")
    return value
