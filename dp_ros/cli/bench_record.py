"""`dp-ros bench record`: three 640x480 cameras at 30 Hz and joint states at 500 Hz into a recording on the disk.

    dp-ros bench record --seconds 60 --json out/record.json
    dp-ros bench record --seconds 600 --folder /mnt/data      about 70 MB a second

What is written is removed at the end. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dp_ros.benchmark import machine
from dp_ros.cli.eval import require_writable
from dp_ros.errors import UserError

SECONDS = 60.0
_CAMERAS, _HEIGHT, _WIDTH = 3, 480, 640
#: More than noisy pictures take, in MB a second.
_ROOM_MB = 85


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that are for `dp-ros bench record` alone."""
    parser.add_argument(
        "--folder", type=Path, help="record: where to write (default: the system's temporary folder)"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print, write what was asked for."""
    from dp_ros.benchmark.record import measure

    require_writable(args.json)
    seconds = SECONDS if args.seconds is None else args.seconds
    if not 2.0 <= seconds <= 3600.0:
        raise UserError(f"--seconds: got {seconds:g}, expected 2 to 3600")
    folder = args.folder or Path(tempfile.gettempdir())
    if not folder.is_dir():
        raise UserError(f"--folder {folder}: is not there")
    free_mb, needed_mb = shutil.disk_usage(folder).free / 1e6, _ROOM_MB * seconds + 2500
    if free_mb < needed_mb:
        raise UserError(
            f"{folder}: {needed_mb:.0f} MB are needed for {seconds:g} s, {free_mb:.0f} MB are free"
        )
    found, console = machine.describe() | {"busy_cores_before": machine.busy_cores()}, Console()
    with tempfile.TemporaryDirectory(dir=folder) as name, console.status("starting") as status:
        result = measure(
            Path(name), seconds, cameras=_CAMERAS, height=_HEIGHT, width=_WIDTH, report=status.update
        )
    result |= {"command": shlex.join(["dp-ros", *sys.argv[1:]]), **found}
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    table = Table("stream", "sent", "recorded", "lost", title=f"{_CAMERAS} cameras {_WIDTH}x{_HEIGHT}, 30 Hz")
    for key, counts in result["streams"].items():
        table.add_row(key, *(str(counts[name]) for name in ("sent", "recorded", "lost")))
    console.print(table)
    memory, rates = result["rss_mb"], result["mb_per_s"]
    console.print(
        f"{result['rows']} rows in {result['seconds']} s, {result['gaps']} gaps, "
        f"{result['late_joint_rows']} with late joint states; {rates['in']} MB/s in, "
        f"{rates['stored']} MB/s stored; recorder: {result['recorder_cores']} cores, resident "
        f"{memory['minute_1']} MB then, {memory['end']} MB at the end; saved in {result['save_s']} s; the source was "
        f"at most {result['source_latest_ms']} ms late; busy before: {found['busy_cores_before']} of "
        f"{found['cores']} cores",
        highlight=False,
        soft_wrap=True,
    )
    return 0
