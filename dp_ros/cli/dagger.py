"""Let the expert correct a policy's own mistakes, train on, and see what each round brought.

    dp-ros dagger --run runs/state --out runs/dagger --rounds 3 --episodes 100
    dp-ros dagger --run runs/arm --out runs/arm_dagger --takeovers data/corrected.zarr
    dp-ros dagger --out runs/dagger --resume

In simulation the policy runs from new start states until a drawn time or until it is stuck, and the scripted expert
goes on from there. With --takeovers the labels are what an operator commanded on a robot while taking over. Labels
are added to a copy of the recording; each round's training begins with the weights of the one before.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from dp_ros.cli.demonstration_style import add_style_arguments, style_of
from dp_ros.errors import UserError
from dp_ros.runtime.execution import MODES

if TYPE_CHECKING:  # these need torch, which `--help` does without
    from dp_ros.training.dagger_record import DaggerRecord, DaggerSettings

#: `NAME=VALUE` may stand between options.
INTERMIXED = True
_EVAL_SEEDS = "310000:310050"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dp-ros dagger`."""
    parser.add_argument("--out", metavar="DIR", required=True, type=Path, help="folder of rounds and result")
    parser.add_argument("--run", metavar="RUN", type=Path, help="training run whose policy is improved")
    parser.add_argument("--resume", action="store_true", help="go on with the rounds in --out")
    parser.add_argument("--data", metavar="ZARR", type=Path, help="recording (default: the run's)")
    parser.add_argument("--takeovers", metavar="ZARR", type=Path, help="recorded runs with takeovers")
    parser.add_argument(
        "--rounds", type=int, default=None, help="default 3; 1 with --takeovers; with --resume, in all"
    )
    parser.add_argument("--episodes", type=int, default=100, help="start states of a round (default 100)")
    parser.add_argument(
        "--takeover-steps",
        metavar="A:B",
        default="10:200",
        help="the expert takes over at a control step drawn from these (default 10:200)",
    )
    parser.add_argument(
        "--patience", type=int, default=40, help="or when the T has not moved for so many (default 40)"
    )
    add_style_arguments(parser)
    parser.add_argument(
        "--infer-every",
        type=int,
        metavar="N",
        help="steps between the policy's inferences, for labels and scores (default: the task's n_action_steps)",
    )
    parser.add_argument(
        "--mode", choices=MODES, default="replace", help="execution of chunks (default replace)"
    )
    parser.add_argument(
        "--latency-ms",
        metavar="A,B",
        help="injected latencies that the policy has to live with, for labels one a start state in turn, for scores "
        "each (default: none, in lockstep)",
    )
    parser.add_argument("--processes", type=int, default=1, help="that gather labels (default 1)")
    parser.add_argument(
        "--first-seed", type=int, default=500_000, help="of the start states of the labels (default 500000)"
    )
    parser.add_argument(
        "--eval-seeds",
        default=_EVAL_SEEDS,
        help=f"start states that each round is scored on (default {_EVAL_SEEDS})",
    )
    parser.add_argument(
        "--steps", type=int, help="optimiser steps of a round (default: a quarter of the run's)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="NAME=VALUE", help="values of the recipe, as for `dp-ros train`"
    )


def run(args: argparse.Namespace) -> int:
    """Run the rounds; Ctrl-C leaves them to be gone on with."""
    from dp_ros.training.dagger import begin, run_rounds, with_rounds
    from dp_ros.training.dagger_record import DaggerRecord

    console = Console()
    if args.resume:
        if args.run is not None or args.overrides or args.takeovers is not None:
            raise UserError("--resume goes on as it was started; leave all other options but --rounds out")
        record = DaggerRecord.open(args.out)
        if args.rounds is not None:
            record = with_rounds(record, args.rounds)
            record.save(args.out)
    else:
        record = begin(args.out, _settings(args))
    try:
        record = run_rounds(args.out, record, console)
    except KeyboardInterrupt:
        console.print(f"stopped; go on with: dp-ros dagger --out {args.out} --resume", soft_wrap=True)
        raise
    console.print(table(record))
    console.print(
        f"{args.out / 'dagger.json'} has the scores of each start state; next: "
        f"dp-ros export {record.rounds[-1].run} models/NAME",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _settings(args: argparse.Namespace) -> DaggerSettings:
    from dp_ros.training.dagger_record import DaggerSettings
    from dp_ros.training.overrides import parse_overrides
    from dp_ros.training.run_folder import open_run

    if args.run is None:
        raise UserError("--run: missing; say which training run's policy is to be improved")
    earliest, latest = _steps(args.takeover_steps)
    rounds = args.rounds if args.rounds is not None else (1 if args.takeovers else 3)
    counts = {
        "rounds": rounds,
        "episodes": args.episodes,
        "patience": args.patience,
        "processes": args.processes,
    }
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"--{name}: got {value}, expected at least 1")
    record = open_run(args.run)
    overrides = parse_overrides(args.overrides)
    if args.steps is not None or "training.steps" not in overrides:
        overrides["training.steps"] = args.steps or max(record.config.training.steps // 4, 1)
    return DaggerSettings(
        run=str(args.run),
        data=str(args.data or record.data),
        takeovers=None if args.takeovers is None else str(args.takeovers),
        rounds=rounds,
        episodes=args.episodes,
        first_seed=args.first_seed,
        earliest=earliest,
        latest=latest,
        patience=args.patience,
        style=style_of(args),
        mode=args.mode,
        infer_every=args.infer_every,
        latencies_ms=_latencies(args.latency_ms),
        processes=args.processes,
        eval_seeds=args.eval_seeds,
        overrides=overrides,
    )


def _steps(text: str) -> tuple[int, int]:
    from dp_ros.sim.pusht_labels import TakeoverRule

    try:
        earliest, latest = (int(part) for part in text.split(":"))
    except ValueError:
        raise UserError(f"--takeover-steps: got {text!r}, expected two steps such as 10:200") from None
    try:
        TakeoverRule(earliest, latest)
    except ValueError as error:
        raise UserError(f"--takeover-steps: {error}") from None
    return earliest, latest


def _latencies(text: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (-1.0,)
    if not all(0 <= ms <= 10_000 for ms in found) or len(set(found)) < len(found):
        raise UserError(
            f"--latency-ms: got {text!r}, expected different milliseconds such as 400 or 0,200,400"
        )
    return found


def table(record: DaggerRecord) -> Table:
    """One row a round."""
    from dp_ros.training.dagger_record import gains

    shown = Table(title="DAgger", title_justify="left")
    for heading in ("round", "labels", "rows", "policy solved", "expert failed", "score", "success", "gain"):
        shown.add_column(heading, justify="right")
    before = record.before
    score = ("-", "-") if before is None else (f"{before.mean_score:.3f}", f"{before.success_rate:.3f}")
    shown.add_row("before", "", "", "", "", *score, "")
    found = gains(record)
    for number, one in enumerate(record.rounds, start=1):
        counts = [
            str(n) for n in (one.labels.labelled, one.labels.rows, one.labels.solved, one.labels.unsolved)
        ]
        score, gain = ("-", "-"), "-"
        if one.score is not None:
            score = f"{one.score.mean_score:.3f}", f"{one.score.success_rate:.3f}"
            interval = found[number - 1]["interval_95"]
            between = f" ({interval[0]:+.3f} to {interval[1]:+.3f})" if interval else ""
            gain = f"{found[number - 1]['mean_score']:+.3f}{between}"
        shown.add_row(str(number), *counts, *score, gain)
    return shown
