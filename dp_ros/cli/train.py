"""Train a diffusion policy on recorded episodes.

    dp-ros train --task pusht_state --data data/pusht.zarr --out runs/pusht
    dp-ros train --out runs/pusht --resume        after Ctrl-C, or a power cut
    dp-ros train --task pusht_state --data data/pusht.zarr --out runs/prefix --start-from runs/pusht \\
        --prefix-steps 7 --steps 4000 --lr 5e-4   teach it to go on from a prefix

Watch it with `tensorboard --logdir runs/pusht`; then `dp-ros export runs/pusht models/NAME`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from dp_ros.errors import UserError
from dp_ros.task import load_task

#: Option and the key of the recipe that it replaces.
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
    parser.add_argument("--task", metavar="FILE", help="task file, or the name of one in config/tasks")
    parser.add_argument("--data", metavar="ZARR", help="recording to learn from")
    parser.add_argument("--out", metavar="RUN", required=True, type=Path, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument(
        "--start-from", metavar="RUN", type=Path, help="begin with the best weights of another run"
    )
    parser.add_argument("--config", metavar="FILE", help="recipe, or the name of one in config/policies")
    recipe = parser.add_argument_group("instead of the recipe's values")
    recipe.add_argument("--steps", type=int, help="optimiser steps")
    recipe.add_argument("--batch-size", type=int, help="samples of a step")
    recipe.add_argument("--lr", type=float, help="highest learning rate")
    recipe.add_argument("--widths", type=_widths, metavar="A,B,C", help="channels of each level of the U-Net")
    recipe.add_argument("--prediction", help="what the network predicts: epsilon or sample")
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
    from dp_ros.training.config import DEFAULT_CONFIG, load_config, with_overrides
    from dp_ros.training.run_folder import open_run
    from dp_ros.training.trainer import train

    console = Console()
    overrides: dict[str, Any] = {
        key: getattr(args, option) for option, key in _OVERRIDES.items() if getattr(args, option) is not None
    }
    if args.resume:
        for name in ("config", "start_from"):
            if getattr(args, name) is not None:
                raise UserError(
                    f"--{name.replace('_', '-')} cannot be given with --resume: a run is resumed as it was started"
                )
        record = open_run(args.out)
        task = record.task_spec(args.out)
        if args.task is not None and load_task(args.task).digest() != task.digest():
            raise UserError(f"{args.out}: was started for another task than {args.task}; leave --task out")
        data, config = args.data or record.data, with_overrides(record.config, overrides)
    else:
        missing = [f"--{name}" for name in ("task", "data") if getattr(args, name) is None]
        if missing:
            raise UserError(f"{' and '.join(missing)}: missing; say what to learn and from which recording")
        task, data = load_task(args.task), args.data
        config = load_config(args.config or DEFAULT_CONFIG, overrides)
    try:
        progress = train(
            task, data, args.out, config, resume=args.resume, start_from=args.start_from, console=console
        )
    except KeyboardInterrupt:
        console.print(
            f"stopped; go on with: dp-ros train --out {args.out} --resume", highlight=False, soft_wrap=True
        )
        raise
    console.print(
        f"{args.out}: {progress.step} steps in {progress.wall_time_s / 60:.1f} min, best at step "
        f"{progress.best_step}; next: dp-ros export {args.out} models/NAME",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _widths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected whole numbers such as 32,64,128") from None
