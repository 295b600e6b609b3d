"""Make a model that draws in 1 to 4 denoising steps from one that needs 10 or more.

    dp-ros distill models/pusht_state --data data/pusht.zarr --out runs/fast
    dp-ros export runs/fast models/pusht_fast
    dp-ros distill --out runs/fast --resume

Multistep consistency distillation. Of the recording it takes what was observed, and actions to go on from; what is
right, the model says itself, so the data need not be what it was trained on. NAME=VALUE replaces a value of the recipe,
which is that of `dp-ros train` with a network like the teacher's. What comes of it runs as any model does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from dp_ros.errors import UserError
from dp_ros.training.overrides import parse_overrides

INTERMIXED = True
#: Steps of an optimiser that the state model of PushT needs, and their highest rate.
_STEPS, _RATE = 6000, 0.0002


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dp-ros distill`."""
    parser.add_argument(
        "teacher", metavar="MODEL", nargs="?", type=Path, help="model folder of a diffusion policy"
    )
    parser.add_argument("overrides", metavar="NAME=VALUE", nargs="*", help="instead of a value of the recipe")
    parser.add_argument("--data", metavar="ZARR", help="recording of the teacher's task")
    parser.add_argument("--out", metavar="RUN", type=Path, required=True, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument(
        "--num-inference-steps",
        type=int,
        default=2,
        metavar="N",
        help="denoising steps of the student (default 2)",
    )
    parser.add_argument("--steps", type=int, default=_STEPS, help=f"optimiser steps (default {_STEPS})")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers")


def run(args: argparse.Namespace) -> int:
    """Distil; Ctrl-C leaves a checkpoint to resume from."""
    from dp_ros.training.config import load_config, with_overrides
    from dp_ros.training.distill import Teacher, student_sampler
    from dp_ros.training.run_folder import open_run
    from dp_ros.training.trainer import train

    console = Console()
    if args.resume:
        if args.teacher is not None:
            raise UserError(
                "nothing but --data can be given with --resume: a run is resumed as it was started"
            )
        record = open_run(args.out)
        if record.distilled_from is None:
            raise UserError(f"{args.out}: is no distillation; go on with it by `dp-ros train --resume`")
        task, data, config = record.task_spec(args.out), args.data or record.data, record.config
        teacher = Teacher.load(record.distilled_from, task)
    else:
        if args.teacher is None or args.data is None:
            raise UserError("MODEL and --data: say which model to distil, and the recording to do it on")
        if not 1 <= args.num_inference_steps <= 4:
            raise UserError(f"--num-inference-steps: got {args.num_inference_steps}, expected 1 to 4")
        teacher = Teacher.load(args.teacher)
        task, data = teacher.policy.task, args.data
        base = load_config().model_copy(
            update={
                "network": teacher.manifest.network,
                "sampler": student_sampler(teacher.manifest.sampler, args.num_inference_steps),
            }
        )
        given = {"training.steps": args.steps, "training.seed": args.seed, "training.learning_rate": _RATE}
        config = with_overrides(base, {**given, **parse_overrides(args.overrides)})
    progress = train(task, data, args.out, config, resume=args.resume, teacher=teacher, console=console)
    console.print(
        f"{args.out}: {progress.step} steps in {progress.wall_time_s / 60:.1f} min; next: "
        f"dp-ros export {args.out} models/NAME",
        highlight=False,
        soft_wrap=True,
    )
    return 0
