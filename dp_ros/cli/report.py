"""Show what became of a training run: tables here, and a page with curves and pictures in RUN/report.html.

    dp-ros report runs/pusht
    dp-ros report runs/pusht --html out/pusht.html

A run that is still going on can be looked at, too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from dp_ros.cli.eval import require_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dp-ros report`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a training run")
    parser.add_argument(
        "--html", metavar="FILE", type=Path, help="where the page goes (default: RUN/report.html)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the tables, write the page."""
    from dp_ros.training.report import history_table, summarize_run, summary_table
    from dp_ros.training.report_page import report_page
    from dp_ros.training.run_folder import REPORT, open_run

    record = open_run(args.run)
    summary = summarize_run(args.run)
    path = args.html or args.run / REPORT
    require_writable(path)
    path.write_text(report_page(args.run, record, summary), encoding="utf-8")
    console = Console()
    if summary.evaluations:
        console.print(history_table(summary))
    console.print(summary_table(summary))
    console.print(f"page: {path}", highlight=False, soft_wrap=True)
    return 0
