"""Make a model folder from a checkpoint of another project, and a task file to fill in.

    dp-ros import lerobot outputs/train/checkpoints/last/pretrained_model models/mine
    dp-ros import stanford epoch=0500-test_mean_score=0.900.ckpt models/mine

U-Nets on vectors, on pictures by a ResNet-18, or both. Without --task, a task is derived and written into the model
folder as task.yaml: fill in its topics, and give it to the policy node as `task`; names of actions stay as they are,
unless --task gives others. Streams of a task that you give may have another order where their names, or what they are,
tell which is which; else they must have the network's, which the message says.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml
from rich.console import Console

from dp_ros.errors import UserError
from dp_ros.task import TaskSpec, load_task

TASK_FILE = "task.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dp-ros import`."""
    parser.add_argument("project", choices=("lerobot", "stanford"), help="where the checkpoint comes from")
    parser.add_argument(
        "source", metavar="SOURCE", type=Path, help="folder (lerobot) or .ckpt file (stanford)"
    )
    parser.add_argument(
        "model", metavar="MODEL", type=Path, help="model folder to write; its name is the model's"
    )
    parser.add_argument(
        "--task", metavar="TASK", help="task that the policy is for, instead of a derived one"
    )
    parser.add_argument(
        "--rate-hz", type=float, default=10.0, metavar="HZ", help="rate of the derived task (default: 10)"
    )
    parser.add_argument("--force", action="store_true", help="replace a model that is there")


def _task_file(path: Path) -> str | None:
    """What stands in a task file that somebody may have filled in; None if there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else None


def about_scaling(task: TaskSpec) -> list[str]:
    """What to know of pictures that the policy scaled itself, and that a derived task scales; one line, or none."""
    resized = [key for key, spec in task.observations.items() if spec.resize is not None]
    if not resized:
        return []
    return [
        f"{', '.join(resized)}: the policy scales its pictures; here the task does (resize), by another filter, so "
        "pixels differ a little; a camera that gives this size needs no scaling"
    ]


def run(args: argparse.Namespace) -> int:
    """Write the model folder."""
    from dp_ros.importing.lerobot import load_lerobot
    from dp_ros.importing.stanford import load_stanford
    from dp_ros.inference.export import check_target, export_policy

    if not 0.0 < args.rate_hz <= 1000.0:
        raise UserError(f"--rate-hz: got {args.rate_hz}, expected more than 0 and at most 1000")
    check_target(args.model, args.force)
    task = load_task(args.task) if args.task else None
    load = load_lerobot if args.project == "lerobot" else load_stanford
    policy = load(args.source, "imported", args.rate_hz, task)
    filled_in = _task_file(args.model / TASK_FILE)
    manifest = export_policy(policy, args.model, force=args.force)
    lines = [f"{args.model}: {manifest.model_id}, {manifest.sampler.method} with "]
    lines[0] += f"{manifest.sampler.num_inference_steps} steps; graph and torch agree"
    if filled_in is not None:
        (args.model / TASK_FILE).write_text(filled_in, encoding="utf-8")
        lines.append(f"{args.model / TASK_FILE} was there already and is kept as it was")
    elif task is None:
        text = yaml.safe_dump(policy.task.model_dump(mode="json", exclude_unset=True), sort_keys=False)
        (args.model / TASK_FILE).write_text(text, encoding="utf-8")
        lines.append(f"fill in topics, rate and limits of {args.model / TASK_FILE} before a robot runs it")
    if task is None:
        lines += about_scaling(policy.task)
    Console().print("\n".join(lines), highlight=False, soft_wrap=True)
    return 0
