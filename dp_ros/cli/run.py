"""Let the policy act: send a `RunPolicy` goal to a policy node that is running.

    dp-ros run --time-limit 20

Ctrl-C cancels the goal: the robot brakes, and the command says how far it came. The exit status is 0 if the goal
ran to its time limit, 1 if it was aborted, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console

from dp_ros.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dp-ros run`."""
    parser.add_argument(
        "--time-limit", type=float, default=20.0, help="of the goal, s (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sampling noise (default: %(default)s)")
    parser.add_argument("--action", default="/policy/run", help="name of the action (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Run until the goal ends."""
    from dp_ros.bridge.run_client import run_policy

    if not 0 < args.time_limit < 1e6:
        raise UserError(f"--time-limit {args.time_limit:g}: expected seconds above 0")
    if not 0 <= args.seed < 2**64:
        raise UserError(f"--seed {args.seed}: expected 0 or more")
    console = Console()
    with console.status("sending the goal") as status:

        def report(feedback: Any) -> None:
            status.update(
                f"{feedback.elapsed_s:.1f} s of {args.time_limit:g} s, {feedback.inferences} inferences, "
                f"last {feedback.inference_ms:.0f} ms, {feedback.late_steps} late steps"
            )

        result = run_policy(action=args.action, time_limit_s=args.time_limit, seed=args.seed, report=report)
    console.print(
        f"{result.reason}: {result.message}; {result.duration_s:.1f} s, {result.inferences} inferences, "
        f"{result.late_steps} late steps",
        soft_wrap=True,
        highlight=False,
    )
    return {"TIME_LIMIT": 0, "CANCELED": 130}.get(result.reason, 1)
