"""Start the nodes of a bring-up as processes, without ros2 launch.

The same nodes, names, parameters and arguments as `ros2 launch dp_ros NAME.launch.py`, for a machine on
which `launch` is not installed. Ctrl-C stops them all; when a required node ends, so do the others.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dp_ros.bringup import BRINGUPS, Bringup, arguments_of, from_text, with_view
from dp_ros.errors import UserError
from dp_ros.processes import Echo, running

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dp-ros up`."""
    parser.add_argument("bringup", metavar="NAME", help=f"one of {', '.join(BRINGUPS)}")
    parser.add_argument("arguments", metavar="key:=value", nargs="*", help="see --show-args")
    parser.add_argument(
        "-s", "--show-args", action="store_true", help="list the bring-up's arguments and exit"
    )
    parser.add_argument(
        "--rerun",
        nargs="?",
        const="spawn",
        metavar="WHERE",
        help="show it in the rerun viewer: opens one, or HOST:PORT of one that runs, or FILE.rrd",
    )
    parser.add_argument(
        "--log-dir", type=Path, metavar="FOLDER", help="also write one log file for each node"
    )


def run(args: argparse.Namespace) -> int:
    """Run the nodes until one ends or the person stops them; the exit status is that of the node."""
    if args.show_args:
        Console().print(_arguments_table(args.bringup))
        return 0
    bringup = from_text(args.bringup, _pairs(args.arguments))
    if args.rerun:
        bringup = with_view(bringup, args.rerun)
    with running(bringup, log_dir=args.log_dir, echo=_prefixed(bringup)) as processes:
        for name, pid in processes.pids.items():
            print(f"dp-ros up: {name} started (process {pid})", file=sys.stderr)
        required = [node.name for node in bringup.nodes if node.required]
        while not (ended := [name for name in required if name in processes.ended()]):
            time.sleep(0.05)
        status = processes.ended()[ended[0]]
        how = f"exit status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
        print(f"dp-ros up: {ended[0]} ended with {how}; stopping the others", file=sys.stderr)
    return status if status >= 0 else 128 - status


def _pairs(arguments: list[str]) -> dict[str, str]:
    pairs = {}
    for argument in arguments:
        key, separator, value = argument.partition(":=")
        if not separator:
            raise UserError(f"got {argument!r}, expected key:=value, for example seed:=7")
        pairs[key] = value
    return pairs


def _prefixed(bringup: Bringup) -> Echo:
    """Prints each line with the name of its node, in the node's colour."""
    console = Console(soft_wrap=True, highlight=False)
    width = max(len(node.name) for node in bringup.nodes)
    colours = dict(zip((node.name for node in bringup.nodes), itertools.cycle(_COLOURS), strict=False))

    def echo(name: str, line: str) -> None:
        console.print(Text(f"{name:<{width}} | ", style=colours[name]) + Text.from_ansi(line))

    return echo


def _arguments_table(name: str) -> Table:
    table = Table(title=f"arguments of {name}", title_justify="left")
    for heading in ("argument", "type", "default", "description"):
        table.add_column(heading)
    for argument in arguments_of(name):
        default = "(required)" if argument.default is None else str(argument.default)
        table.add_row(argument.name, argument.type.__name__, default, argument.description)
    return table
