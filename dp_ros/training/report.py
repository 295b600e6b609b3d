"""What became of a run, from its `metrics.jsonl`: a history of its evaluations and a summary of every value.

The summary has the form of an experiment tracker's: each value by its name, as it was last and at the evaluation whose
weights were kept as the best. Easy to get wrong: training and evaluation write lines of their own at the same step,
which are one row here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from dp_ros.errors import UserError
from dp_ros.training.metrics import Line, merit, read_metrics

#: Columns of the history; the summary has all values.
HISTORY = (
    "epoch",
    "step",
    "lr",
    "train_loss",
    "val_loss",
    "train_action_mse_error",
    "train/mean_score",
    "test/mean_score",
    "test/success_rate",
    "test/final_coverage",
)
_FIRST = ("epoch", "step", "lr")


@dataclass(frozen=True)
class RunSummary:
    """Measurements of a run.

    Attributes:
        lines: every line, in order.
        evaluations: a row of all values for each evaluation, in order.
        best: the row whose weights are in best.safetensors; None before the first evaluation.
        last: each value as it was last.
    """

    lines: list[Line]
    evaluations: list[Line]
    best: Line | None
    last: Line

    @property
    def names(self) -> list[str]:
        """Every value's name: where the run is, then losses and rates, then scores seed by seed."""
        return sorted(self.last, key=_place)


def summarize_run(run: Path) -> RunSummary:
    """Read the measurements of a run. Raises UserError if it has none."""
    lines = read_metrics(run)
    if not lines:
        raise UserError(f"{run}: nothing has been measured yet; look again after the first steps")
    last: Line = {}
    evaluations: list[Line] = []
    for line in lines:
        last |= line
        if merit(line) is not None:
            evaluations.append({key: last[key] for key in last if key in line or key in HISTORY})
    best: Line | None = None
    for row in evaluations:
        if best is None or (merit(row) or 0.0) >= (merit(best) or 0.0):
            best = row
    return RunSummary(lines, evaluations, best, last)


def history_table(summary: RunSummary) -> Table:
    """One row for each evaluation."""
    names = [name for name in HISTORY if any(name in row for row in summary.evaluations)]
    table = Table(title="evaluations", title_justify="left")
    for name in names:
        table.add_column(name, justify="right")
    for row in summary.evaluations:
        style = "bold" if row is summary.best else None
        table.add_row(*(show(name, row.get(name)) for name in names), style=style)
    return table


def summary_table(summary: RunSummary) -> Table:
    """One row for each value: last, and at the best evaluation."""
    table = Table(title="summary", title_justify="left")
    table.add_column("name", no_wrap=True)
    table.add_column("last", justify="right")
    table.add_column("best checkpoint", justify="right")
    for name, last, best in summary_rows(summary):
        table.add_row(name, last, best)
    return table


def summary_rows(summary: RunSummary) -> list[tuple[str, str, str]]:
    """Name, last value and value at the best evaluation, as text."""
    best = summary.best or {}
    return [(name, show(name, summary.last[name]), show(name, best.get(name))) for name in summary.names]


def show(name: str, value: float | None) -> str:
    """A value as text."""
    if value is None:
        return "-"
    if name == "step":
        return str(int(value))
    if name == "epoch":
        return f"{value:.1f}"
    return f"{value:.2e}" if name == "lr" or (value and abs(value) < 1e-3) else f"{value:.4f}"


def _place(name: str) -> tuple[int, str, int, str]:
    if name in _FIRST:
        return (0, "", _FIRST.index(name), name)
    group, _, rest = name.rpartition("/")
    seed = rest.removeprefix("sim_max_reward_")
    return (2 if group else 1, group, int(seed) if seed != rest and seed.isdigit() else -1, name)


def rows_with(lines: Sequence[Line], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of everything measured under `name`."""
    found = [(line["step"], line[name]) for line in lines if name in line]
    return [step for step, _ in found], [value for _, value in found]
