"""Train a policy on recorded episodes.

    dp-ros train --task pusht_state --data data/pusht.zarr --out runs/pusht
    dp-ros train --out runs/pusht --resume        after Ctrl-C, or a power cut
    dp-ros train --task pusht_state --data data/pusht.zarr training.seed=42 network.widths=[64,128]
    accelerate launch --multi_gpu --num_processes 2 -m dp_ros.cli.main train --task pusht_state --data ...
    dp-ros train --task pusht_state --data data/pusht.zarr --out runs/prefix --start-from runs/pusht \\
        --prefix-steps 7 --steps 4000 --lr 5e-4   teach it to go on from a prefix; a model folder will do, too

NAME=VALUE replaces a value of the recipe (config/policies/*.yaml). Watch a run with `tensorboard --logdir RUN`;
`dp-ros report RUN` shows what became of it, `dp-ros export RUN models/NAME` makes a model of it.
"""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from dp_ros.errors import UserError
from dp_ros.task import TaskSpec, load_task
from dp_ros.training.config import DEFAULT_CONFIG, TrainingConfig, load_config, with_overrides
from dp_ros.training.overrides import parse_overrides

#: Overrides may stand between the options.
INTERMIXED = True
#: Option and the value of the recipe that it is short for.
_OVERRIDES = {
    "steps": "training.steps",
    "batch_size": "training.batch_size",
    "lr": "training.learning_rate",
    "seed": "training.seed",
    "threads": "training.threads",
    "eval_every": "training.eval_every",
    "eval_episodes": "training.eval_episodes",
    "checkpoint_every": "training.checkpoint_every",
    "widths": "network.widths",
    "prediction": "sampler.prediction",
    "prefix_steps": "network.prefix_steps",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dp-ros train`."""
    parser.add_argument("overrides", metavar="NAME=VALUE", nargs="*", help="instead of a value of the recipe")
    parser.add_argument("--task", metavar="FILE", help="task file, or the name of one in config/tasks")
    parser.add_argument("--data", metavar="ZARR", help="recording to learn from")
    parser.add_argument(
        "--out", metavar="RUN", type=Path, help="folder of the run (default: runs/DATE/TIME_TASK_RECIPE)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument(
        "--start-from",
        metavar="FOLDER",
        type=Path,
        help="begin with the best weights of another run, or with those of a model",
    )
    parser.add_argument("--config", metavar="FILE", help="recipe, or the name of one in config/policies")
    recipe = parser.add_argument_group("short for NAME=VALUE")
    recipe.add_argument("--steps", type=int, help="optimiser steps")
    recipe.add_argument("--batch-size", type=int, help="samples of a step")
    recipe.add_argument("--lr", type=float, help="highest learning rate")
    recipe.add_argument("--widths", type=_widths, metavar="A,B,C", help="channels of each level of the U-Net")
    recipe.add_argument("--prediction", help="what the network predicts: epsilon, sample or v_prediction")
    recipe.add_argument(
        "--prefix-steps",
        type=int,
        metavar="N",
        help="learn to go on from up to N actions that are already decided (real-time chunking); 0 for none",
    )
    recipe.add_argument("--seed", type=int, help="of all random numbers")
    recipe.add_argument("--threads", type=int, help="CPU threads")
    recipe.add_argument("--eval-every", type=int, metavar="STEPS", help="steps between evaluations")
    recipe.add_argument("--eval-episodes", type=int, metavar="N", help="simulated episodes of an evaluation")
    recipe.add_argument("--checkpoint-every", type=int, metavar="STEPS", help="steps between checkpoints")


def run(args: argparse.Namespace) -> int:
    """Train; Ctrl-C leaves a checkpoint to resume from."""
    from dp_ros.training.run_folder import dated_run
    from dp_ros.training.trainer import train
    from dp_ros.training.workers import join_workers

    task, data, config = _what_to_train(args)
    with join_workers(config.training.device) as workers:
        recipe = args.config or DEFAULT_CONFIG
        out: Path = workers.on_main(lambda: args.out or dated_run(task, recipe, datetime.now()))
        console = Console(quiet=not workers.is_main)
        try:
            progress = train(
                task,
                data,
                out,
                config,
                resume=args.resume,
                start_from=args.start_from,
                console=console,
                workers=workers,
            )
        except KeyboardInterrupt:
            console.print(
                f"stopped; go on with: dp-ros train --out {out} --resume", highlight=False, soft_wrap=True
            )
            raise
    console.print(
        f"{out}: {progress.step} steps in {progress.wall_time_s / 60:.1f} min, best at step "
        f"{progress.best_step}; next: dp-ros report {out}, dp-ros export {out} models/NAME",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _what_to_train(args: argparse.Namespace) -> tuple[TaskSpec, str, TrainingConfig]:
    """Task, recording and recipe: those that are given, or those of the run that is resumed."""
    from dp_ros.training.run_folder import open_run

    overrides = _overrides(args)
    if not args.resume:
        missing = [f"--{name}" for name in ("task", "data") if getattr(args, name) is None]
        if missing:
            raise UserError(f"{' and '.join(missing)}: missing; say what to learn and from which recording")
        return load_task(args.task), args.data, load_config(args.config or DEFAULT_CONFIG, overrides)
    if args.out is None:
        raise UserError("--resume: say which run with --out RUN")
    for name in ("config", "start_from"):
        if getattr(args, name) is not None:
            raise UserError(
                f"--{name.replace('_', '-')} cannot be given with --resume: a run is resumed as it was started"
            )
    record = open_run(args.out)
    task = record.task_spec(args.out)
    if args.task is not None and load_task(args.task).digest() != task.digest():
        raise UserError(f"{args.out}: was started for another task than {args.task}; leave --task out")
    return task, args.data or record.data, with_overrides(record.config, overrides)


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    """Values by name, from NAME=VALUE and from the options that are short for it."""
    overrides = parse_overrides(args.overrides)
    for option, name in _OVERRIDES.items():
        value = getattr(args, option)
        if value is None:
            continue
        if name in overrides:
            raise UserError(f"--{option.replace('_', '-')} and {name}: are the same value; leave one out")
        overrides[name] = value
    return overrides


def _widths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected whole numbers such as 32,64,128") from None
