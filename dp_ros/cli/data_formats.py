"""`dp-ros data import` and `export`: recordings from, and as, the formats that people already have.

    dp-ros data import bags/monday monday.zarr --from bag --task my_robot
    dp-ros data import lerobot/pusht pusht.zarr --from lerobot --task pusht_image
    dp-ros data export demos.zarr demos.mcap --to mcap
    dp-ros data export demos.zarr dataset --to lerobot
    dp-ros data export demos.zarr demos.rrd --to rerun --episodes 0:5

What is there already is never written into. Each format is a module with a function of its own, imported when it is
asked for, because each needs libraries that the others do not.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.errors import UserError
from dp_ros.task import load_task


@dataclass(frozen=True)
class _Format:
    """One format: which function of which module reads or writes it."""

    module: str
    function: str
    text: str

    def load(self) -> Callable[..., Any]:
        return getattr(importlib.import_module(self.module), self.function)  # type: ignore[no-any-return]


#: import_*(source, task, out, progress, **options) -> what was done, for a person
SOURCES = {
    "bag": _Format("dp_ros.bridge.bags.reading", "import_bag", "a rosbag2 folder or file, MCAP or SQLite"),
    "lerobot": _Format(
        "dp_ros.data.formats.lerobot_import", "import_dataset", "a LeRobot data set, version 3"
    ),
}
#: export_*(buffer, episodes, out, progress, **options) -> what was done, for a person
TARGETS = {
    "mcap": _Format("dp_ros.bridge.bags.writing", "export_mcap", "a rosbag2 file in MCAP, with ROS messages"),
    "lerobot": _Format(
        "dp_ros.data.formats.lerobot_export", "export_dataset", "a LeRobot data set, version 3"
    ),
    "zip": _Format("dp_ros.data.archive", "export_zip", "one file, which is read like the folder"),
    "rerun": _Format("dp_ros.data.formats.rerun", "export_rrd", "a file that the rerun viewer opens"),
}


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dp-ros data import`."""
    parser.add_argument("source", type=Path)
    parser.add_argument("recording", type=Path, help="the recording to make; must not be there")
    parser.add_argument("--from", dest="format", choices=SOURCES, required=True, help=_listed(SOURCES))
    parser.add_argument("--task", required=True, help="task file or name: topics, streams and rate")
    parser.add_argument(
        "--takeover-topic",
        help="bag: on which a policy said that an operator had taken over; marks these steps",
    )
    parser.add_argument(
        "--map",
        nargs="+",
        metavar="STREAM=FEATURE",
        help="lerobot: which feature is which stream of the task, or action",
    )
    parser.add_argument("--min-steps", type=int, help="bag: shorter episodes are left out (default: 2)")


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dp-ros data export`."""
    parser.add_argument("recording", type=Path)
    parser.add_argument("out", type=Path, help="what to make; must not be there")
    parser.add_argument("--to", dest="format", choices=TARGETS, required=True, help=_listed(TARGETS))
    parser.add_argument("--codec", help="lerobot: of the videos: av1 (default), h264 or lossless")
    parser.add_argument("--episodes", default=":", help="such as 0:40 (default: all)")


def run_import(args: argparse.Namespace) -> int:
    """Make a recording from another format."""
    task = load_task(args.task)
    if args.recording.exists():
        raise UserError(f"{args.recording}: is there already; give another name")
    if not args.source.exists():
        raise UserError(f"{args.source}: is not there; give {SOURCES[args.format].text}")
    options = _given(args, {"takeover_topic": "bag", "min_steps": "bag", "map": "lerobot"})
    if "map" in options:
        options["names"] = _mapping(options.pop("map"))
    read = SOURCES[args.format].load()
    with Progress(transient=True) as progress:
        bar = progress.add_task("episodes", total=None)
        done = read(args.source, task, args.recording, lambda: progress.advance(bar), **options)
    _say(f"{args.recording}: {done}")
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Write a recording as another format."""
    from dp_ros.data.surgery import parse_episodes

    buffer = ReplayBuffer.open(args.recording)
    episodes = parse_episodes(args.episodes, buffer.n_episodes)
    if args.out.exists():
        raise UserError(f"{args.out}: is there already; give another name")
    options = _given(args, {"codec": "lerobot"})
    write = TARGETS[args.format].load()
    with Progress(transient=True) as progress:
        bar = progress.add_task("episodes", total=len(episodes))
        done = write(buffer, episodes, args.out, lambda: progress.advance(bar), **options)
    _say(f"{args.out}: {done}")
    return 0


def _given(args: argparse.Namespace, of_format: dict[str, str]) -> dict[str, Any]:
    """Options that were given. Raises UserError if one is for another format."""
    options = {name: getattr(args, name) for name in of_format if getattr(args, name) is not None}
    for name in options:
        if of_format[name] != args.format:
            raise UserError(f"--{name.replace('_', '-')}: is for {of_format[name]}, this is {args.format}")
    return options


def _mapping(pairs: list[str]) -> dict[str, str]:
    names = {}
    for pair in pairs:
        stream, separator, feature = pair.partition("=")
        if not (stream and separator and feature):
            raise UserError(
                f"--map: got {pair!r}, expected STREAM=FEATURE, such as agent_pos=observation.state"
            )
        names[stream] = feature
    return names


def _listed(formats: dict[str, _Format]) -> str:
    return "; ".join(f"{name}: {known.text}" for name, known in formats.items())


def _say(text: str) -> None:
    Console().print(text, highlight=False, markup=False, soft_wrap=True)
