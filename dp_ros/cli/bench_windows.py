"""`dp-ros bench windows`: random training windows a second from a recording, ours beside slices of its zarr arrays.

dp-ros bench windows                                      # made-up episodes of pusht_image
dp-ros bench windows --data demos.zarr --task my_task.yaml --batch 64 --json out/windows.json
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from dp_ros.benchmark import machine
from dp_ros.cli.eval import require_writable
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.errors import UserError
from dp_ros.task import load_task

SECONDS = 20.0
_EPISODES, _LENGTH = 40, 120


def run(args: argparse.Namespace) -> int:
    """Measure, print, write what was asked for."""
    from dp_ros.benchmark.windows import made_up_recording, measure

    require_writable(args.json)
    seconds = SECONDS if args.seconds is None else args.seconds
    batch = 64 if args.batch is None else args.batch
    if not 0.0 < seconds <= 3600.0 or batch < 1:
        raise UserError(
            f"--seconds {seconds:g}, --batch {batch}: expected up to 3600 seconds, a batch of 1 or more"
        )
    if args.data and not args.task:
        task = ReplayBuffer.open(args.data).task
        if task is None:
            raise UserError(f"{args.data}: does not say of which task it is; give it with --task")
    else:
        task = load_task(args.task or "pusht_image")
    found, console = machine.describe() | {"busy_cores_before": machine.busy_cores()}, Console()
    with tempfile.TemporaryDirectory() as folder, console.status(f"random windows for about {seconds:g} s"):
        data = args.data or str(Path(folder) / "made_up.zarr")
        if not args.data:
            made_up_recording(data, task, _EPISODES, _LENGTH)
        speed = measure(data, task, batch=batch, seconds=seconds)
    result = {
        **{key: round(value, 4) for key, value in speed._asdict().items()},
        "batch": batch,
        "task": task.name,
        "data": args.data,
        "command": shlex.join(["dp-ros", *sys.argv[1:]]),
        **found,
    }
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    console.print(
        f"task {task.name}: {speed.windows_per_s:.0f} windows/s, {speed.plain_windows_per_s:.0f} by slices of the "
        f"zarr arrays, {speed.speedup:.1f} times slower; the recording was opened in {speed.open_s:.2f} s\n"
        f"batches of {batch}, medians of {speed.turns} turns, on {found['cores']} cores of {found['cpu']}; busy "
        f"before: {found['busy_cores_before']} cores",
        highlight=False,
        soft_wrap=True,
    )
    return 0
