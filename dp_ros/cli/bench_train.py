"""`dp-ros bench train`: training steps a second, ours and the straightforward way, and what data loading costs.

    dp-ros bench train                                        # the default recipe on made-up episodes
    dp-ros bench train --data demos.zarr --widths 64,128,256 --batch 256 --json out/train.json
    dp-ros bench train --task pusht_image --config diffusion_unet_image --data pictures.zarr --image-memory 0

All are measured in turns in one run, on a copy of nothing: no run folder is made. Easy to get wrong: with other work
on the machine the speeds fall, but the ratios hold.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dp_ros.benchmark import machine
from dp_ros.cli.eval import require_writable
from dp_ros.errors import UserError

SECONDS = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that are for `dp-ros bench train` alone."""
    group = parser.add_argument_group("train, and where it says so inference")
    group.add_argument("--task", help="task file or name (default: pusht_state)")
    group.add_argument("--config", help="recipe, a file or the name of a shipped one (default: as for train)")
    group.add_argument("--data", metavar="X.zarr", help="recording to take batches from (default: made up)")
    group.add_argument(
        "--image-memory",
        type=float,
        metavar="MB",
        help="pictures of --data beyond so much are mapped from a file, not held in memory (default: as for train)",
    )
    group.add_argument(
        "--widths", metavar="N,...", help="channels of the levels of the U-Net; inference: random weights"
    )
    group.add_argument(
        "--encoder", choices=("small", "resnet18"), help="of pictures, inference only: random weights"
    )
    group.add_argument("--batch", type=int, help="samples a step")
    group.add_argument(
        "--threads", metavar="N", help="CPU threads; inference: one or several numbers (default 1)"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print, write what was asked for."""
    from dp_ros.benchmark.train import made_up_demonstrations, measure
    from dp_ros.data.windows import IMAGE_MEMORY_MB, load_demonstrations
    from dp_ros.policies.build import check_supported
    from dp_ros.policies.specs import labels_of
    from dp_ros.task import load_task
    from dp_ros.training.config import DEFAULT_CONFIG, load_config

    require_writable(args.json)
    memory_mb = IMAGE_MEMORY_MB if args.image_memory is None else args.image_memory
    if args.image_memory is not None and (not args.data or memory_mb < 0.0):
        raise UserError(f"--image-memory: got {memory_mb:g}; expected 0 or more, with --data X.zarr to read")
    seconds = SECONDS if args.seconds is None else args.seconds
    if not 0.0 < seconds <= 3600.0:
        raise UserError(f"--seconds: got {seconds:g}, expected up to 3600")
    task = load_task(args.task or "pusht_state")
    config = load_config(args.config or DEFAULT_CONFIG, _overrides(args))
    check_supported(task, config.network)
    found = machine.describe() | {"busy_cores_before": machine.busy_cores()}
    labels = labels_of(config.network)
    if args.data:
        data = load_demonstrations(args.data, task, labels=tuple(labels), image_memory_mb=memory_mb)
    else:
        data = made_up_demonstrations(task, labels=labels)
    console = Console()
    with console.status(f"training steps for about {seconds:g} s"):
        speed = measure(data, task, config, seconds)
    widths = getattr(config.network, "widths", None)
    result: dict[str, Any] = {
        **{key: round(value, 4) for key, value in speed._asdict().items()},
        "widths": None if widths is None else list(widths),
        "batch": config.training.batch_size,
        "threads": config.training.threads,
        "network": config.network.kind,
        "task": task.name,
        "data": args.data,
        "mapped": [key for key, array in data.arrays.items() if isinstance(array, np.memmap)],
        "command": shlex.join(["dp-ros", *sys.argv[1:]]),
        **found,
    }
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    table = Table("training step", "samples/s", "", title=f"{result['network']} {result['widths'] or ''}")
    table.add_row("dp-ros train", f"{speed.samples_per_s:.0f}", "")
    table.add_row(
        "with data in memory",
        f"{speed.in_memory_samples_per_s:.0f}",
        f"loading keeps {speed.loader_ratio:.1%} of it",
    )
    table.add_row(
        "straightforward", f"{speed.straightforward_samples_per_s:.0f}", f"{speed.speedup:.2f} times slower"
    )
    console.print(table)
    console.print(
        f"batch {result['batch']}, {result['threads']} thread(s), medians of {speed.turns} turns, on {found['cores']} "
        f"cores of {found['cpu']}; busy before: {found['busy_cores_before']} cores",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    if args.widths is not None:
        try:
            overrides["network.widths"] = [int(width) for width in args.widths.split(",")]
        except ValueError:
            raise UserError(f"--widths: got {args.widths!r}, expected numbers such as 32,64,128") from None
    if args.batch is not None:
        overrides["training.batch_size"] = args.batch
    if args.threads is not None:
        try:
            overrides["training.threads"] = int(args.threads)
        except ValueError:
            raise UserError(f"--threads: got {args.threads!r}, expected a number") from None
    return overrides
