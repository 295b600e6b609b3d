"""Show why a policy that draws, and what it costs: pictures, and the numbers behind them.

    dp-ros explain --models models/pusht_state runs/regression runs/lstm_gmm --out out/explain
    dp-ros explain --models models/pusht_state --runs runs/a runs/b runs/c --out out/explain

Writes into --out: futures.png (both ways round appear, their mean goes neither way), switching.png (whether a policy
asked at every step stays with its mind), denoising.png (a chunk on its way from noise to actions), cost.png
(parameters and time over the size of what is predicted, measured here), losses.png (with --runs) and explain.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dp_ros.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dp-ros explain`."""
    parser.add_argument(
        "--models", metavar="DIR", nargs="+", type=Path, required=True, help="model folders or training runs"
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="folder for pictures and numbers"
    )
    parser.add_argument(
        "--runs",
        metavar="RUN",
        nargs="+",
        type=Path,
        default=[],
        help="training runs to compare, several seeds each",
    )
    parser.add_argument("--futures", type=int, default=60, help="futures of each policy (default 60)")
    parser.add_argument("--steps", type=int, default=35, help="control steps of a future (default 35)")


def run(args: argparse.Namespace) -> int:
    """Measure, draw, write."""
    import torch

    from dp_ros.explain import figures
    from dp_ros.explain.cost import measure_costs
    from dp_ros.explain.denoising import denoising_of
    from dp_ros.explain.futures import sample_futures, sample_switching
    from dp_ros.explain.losses import read_curves
    from dp_ros.explain.models import load_explained
    from dp_ros.explain.symmetric_start import symmetric_start

    for name, value, least in (("futures", args.futures, 2), ("steps", args.steps, 3)):
        if value < least:
            raise UserError(f"--{name}: got {value}, expected at least {least}")
    torch.set_num_threads(1)
    models, curves = load_explained(args.models), read_curves(args.runs)
    _make(args.out)
    console, numbers = Console(), {"start_state": symmetric_start().tolist(), "models": {}}
    futures, switching, denoising, costs = {}, {}, {}, {}
    for model in models:
        with console.status(f"{model.name}: futures"):
            futures[model.name] = sample_futures(model, args.futures, args.steps)
        with console.status(f"{model.name}: asked at every step"):
            switching[model.name] = sample_switching(model, args.futures, args.steps)
        with console.status(f"{model.name}: cost"):
            costs[model.name] = measure_costs(model)
        steps = denoising_of(model, 12)
        if steps is not None:
            denoising[model.name] = steps
        numbers["models"][model.name] = {
            "kind": model.kind,
            "futures": futures[model.name].as_json(),
            "switching": switching[model.name].as_json(),
            "cost": [case.as_json() for case in costs[model.name]],
            "denoising_px": None if steps is None else steps.round(2).tolist(),
        }
    figures.draw_futures(futures, args.out / "futures.png")
    figures.draw_switching(switching, args.out / "switching.png")
    sizes = {m.name: (m.policy.task.action.dim, m.policy.task.horizon) for m in models}
    figures.draw_costs(costs, sizes, args.out / "cost.png")
    if denoising:
        figures.draw_denoising(denoising, args.out / "denoising.png")
    if curves:
        figures.draw_losses(curves, args.out / "losses.png")
        numbers["runs"] = [one.as_json() for one in curves]
    (args.out / "explain.json").write_text(json.dumps(numbers) + "\n", encoding="utf-8")
    console.print(_table(numbers["models"]))
    console.print(
        f"{args.out}: {', '.join(sorted(path.name for path in args.out.iterdir()))}", highlight=False
    )
    return 0


def _make(out: Path) -> None:
    """Make the folder. Raises UserError if that cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made a folder: {error.strerror}; give another --out") from None


def _table(models: dict[str, Any]) -> Table:
    """One row a policy."""
    table = Table(title="two equally long ways round the T", title_justify="left")
    for heading in ("model", "above", "below", "neither", "mean goes", "switches", "inconsistency", "draw"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, found in models.items():
        sides, switching = found["futures"]["sides"], found["switching"]
        times = {(c["action_dim"], c["horizon"]): c["sample_ms"] for c in found["cost"]}
        horizon = len(found["futures"]["chunks_px"][0])
        own = times.get((2, horizon))
        table.add_row(
            name,
            *(str(sides[side]) for side in ("above", "below", "neither")),
            found["futures"]["mean_path_goes"],
            f"{switching['mean_switches']:.2f}",
            f"{switching['mean_inconsistency_px']:.1f} px",
            "-" if own is None else f"{own:.1f} ms",
        )
    return table
