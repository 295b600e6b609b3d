"""Options that say how the scripted expert demonstrates, the same for `collect` and `dagger`."""

from __future__ import annotations

import argparse

from dp_ros.errors import UserError
from dp_ros.sim.pusht_episodes import DemonstrationStyle

_MOST_NOISE_PX = 50


def add_style_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --noise-px, --push-px-per-step and --travel-px-per-step."""
    style = DemonstrationStyle()
    parser.add_argument(
        "--noise-px",
        type=float,
        default=style.noise_px,
        help="noise on what the expert's commands execute, not on what is recorded, px (default: %(default)s)",
    )
    parser.add_argument(
        "--push-px-per-step",
        type=float,
        default=style.push_px_per_step,
        help="speed of pushes (default: %(default)s)",
    )
    parser.add_argument(
        "--travel-px-per-step",
        type=float,
        default=style.travel_px_per_step,
        help="speed between pushes (default: %(default)s)",
    )


def style_of(args: argparse.Namespace) -> DemonstrationStyle:
    """What the options say. Raises UserError where that cannot be."""
    if not 0 <= args.noise_px <= _MOST_NOISE_PX:
        raise UserError(f"--noise-px {args.noise_px:g}: expected 0 to {_MOST_NOISE_PX}")
    return DemonstrationStyle(args.noise_px, args.push_px_per_step, args.travel_px_per_step)
