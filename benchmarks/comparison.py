"""Trains every kind of policy on the same demonstrations with the same budget and scores them on the same episodes.

    dp-ros collect --fast --workers 2 --task pusht_state --episodes 800 --seed 1000 --out demos.zarr
    python benchmarks/comparison.py --data demos.zarr --out out/comparison
    dp-ros explain --models out/comparison/models/* --out out/explain        # what they do, drawn

The budget is the number of samples, steps times batch; the networks of the recipes differ in size, which the table
shows with the time that training took. Of each the weights at the end of the training are scored, so that nothing is
chosen on scores. What is done is not done again: the same command goes on where it was stopped. Prints a table and
writes OUT/comparison.json. Beside our scores stand those of the paper (Chi et al., 2023, arXiv 2303.04137, table 1,
PushT with states: best checkpoint / mean of the last ten). Easy to misread: the paper's policies learnt from people,
these from a scripted expert.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file

from dp_ros.errors import UserError
from dp_ros.inference.manifest import WEIGHTS_FILE, load_manifest
from dp_ros.training.run_folder import RUN_FILE

#: Recipe to the paper's scores on PushT with states, best / mean of the last ten checkpoints.
PAPER = {
    "diffusion_unet_state": "0.95 / 0.91",
    "diffusion_transformer_state": "0.95 / 0.79",
    "lstm_gmm_state": "0.67 / 0.61",
    "ibc_state": "0.90 / 0.84",
    "bet_state": "0.79 / 0.70",
    "regression_state": "",
}
NOT_CHOSEN = ("training.eval_episodes=0", "training.eval_train_episodes=0", "training.logger=none")


def dp_ros(log: Path, *arguments: str) -> None:
    """Run a command of dp-ros with one thread; raises UserError if it fails, with the end of what it printed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dp_ros.cli.main", *arguments]
    with log.open("a", encoding="utf-8") as out:
        status = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=environment).returncode
    if status:
        end = log.read_text(encoding="utf-8").splitlines()[-5:]
        raise UserError(f"dp-ros {' '.join(arguments)} ended with {status}:\n  " + "\n  ".join(end))


def measure(recipe: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train, export and evaluate one recipe, as far as that is not done."""
    folder, model = options.out / recipe, options.out / "models" / recipe
    run, scores, log = folder / "run", folder / "eval.json", folder / "log.txt"
    if not scores.is_file():
        if (run / RUN_FILE).is_file():
            dp_ros(log, "train", "--out", str(run), "--resume")
        else:
            arguments = [
                "--config",
                recipe,
                "--task",
                options.task,
                "--data",
                str(options.data),
                "--out",
                str(run),
            ]
            dp_ros(log, "train", *arguments, f"training.steps={options.steps}", *NOT_CHOSEN)
        dp_ros(log, "export", str(run), str(model), "--checkpoint", "last", "--force")
        episodes = ["--seeds", options.seeds, "--repeats", str(options.repeats), "--processes", "1"]
        dp_ros(log, "eval", "--model", str(model), *episodes, "--json", str(scores))
    manifest = load_manifest(model)
    assert manifest.provenance is not None
    parameters = sum(int(value.size) for value in load_file(model / WEIGHTS_FILE).values())
    found = json.loads(scores.read_text(encoding="utf-8"))
    return {
        "policy": recipe,
        "parameters": parameters,
        "samples": manifest.provenance.samples,
        "training_s": manifest.provenance.wall_time_s,
        "data_digest": manifest.provenance.data_digest,
        "inference_ms_p50": found["inference_ms"]["p50"],
        **{key: found[key] for key in ("mean_score", "interval_95", "success_rate", "seeds", "repeats")},
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows, best first."""
    made = Table(title="same demonstrations, same number of samples", title_justify="left")
    for heading in ("policy", "parameters", "training", "inference p50", "score", "95 %", "success", "paper"):
        made.add_column(heading, justify="left" if heading == "policy" else "right")
    for row in sorted(rows, key=lambda row: -row["mean_score"]):
        made.add_row(
            row["policy"],
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['training_s'] / 60:.0f} min",
            f"{row['inference_ms_p50']:.1f} ms",
            f"{row['mean_score']:.3f}",
            "{:.3f} to {:.3f}".format(*row["interval_95"]) if row["interval_95"] else "",
            f"{row['success_rate']:.3f}",
            PAPER[row["policy"]],
        )
    return made


def main() -> int:
    """Parse the command line, run, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", metavar="X.zarr", type=Path, required=True, help="the demonstrations")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="folder for runs, models and scores"
    )
    parser.add_argument("--task", default="pusht_state")
    parser.add_argument("--policies", nargs="+", choices=list(PAPER), default=list(PAPER), metavar="RECIPE")
    parser.add_argument("--steps", type=int, default=18000, help="optimiser steps of each (default 18000)")
    parser.add_argument("--seeds", default="100000:100050", help="start states (default: the paper's)")
    parser.add_argument("--repeats", type=int, default=3, help="episodes a start state (default 3)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="policies at a time (default: one a core)"
    )
    options = parser.parse_args()
    console = Console()
    try:
        with ThreadPoolExecutor(options.jobs) as pool:
            rows = list(pool.map(lambda recipe: measure(recipe, options), options.policies))
    except UserError as error:
        console.print(f"comparison: {error}", highlight=False, markup=False)
        return 1
    (options.out / "comparison.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    console.print(table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
