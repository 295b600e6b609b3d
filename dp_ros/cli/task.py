"""Check a task file and show what it says."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dp_ros.task import ActionSpec, ObservationSpec, TaskSpec, load_task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dp-ros task`."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="check")
    check = commands.add_parser("check", help="parse and check a task file, print it as resolved")
    check.add_argument("task", metavar="FILE", help="a task file, or the name of one in config/tasks")


def run(args: argparse.Namespace) -> int:
    """Print the resolved task; a mistake in the file raises TaskError (a UserError)."""
    task = load_task(args.task)
    console = Console()
    console.print(_timing(task), _streams(task), _action(task.action), sep="\n")
    console.print(f"digest {task.digest()}", style="dim", highlight=False)
    return 0


def _timing(task: TaskSpec) -> Table:
    table = Table(title=f"task {task.name}", title_justify="left", show_header=False)
    table.add_column("key", style="bold")
    table.add_column("value")
    if task.description:
        table.add_row("description", escape(task.description.strip()))
    table.add_row("rate", f"{task.rate_hz:g} Hz, a step of {task.dt_ns / 1e6:g} ms")
    table.add_row("observed", f"{task.n_obs_steps} steps, anchored on {task.anchor}")
    reach_s = (task.horizon - task.n_obs_steps + 1) * task.dt_ns / 1e9
    table.add_row("predicted", f"{task.horizon} steps from the oldest observation on, {reach_s:g} s ahead")
    executed_s = task.n_action_steps * task.dt_ns / 1e9
    table.add_row("executed", f"{task.n_action_steps} steps, {executed_s:g} s, before the next prediction")
    return table


def _streams(task: TaskSpec) -> Table:
    table = Table(title="observations", title_justify="left")
    table.add_column("", style="bold")
    for key in task.observations:
        table.add_column(key, overflow="fold")
    rows: dict[str, Callable[[ObservationSpec], str]] = {
        "topic": lambda spec: spec.topic,
        "type": lambda spec: spec.type,
        "taken": _takes,
        "policy sees": _sees,
        "latency": lambda spec: f"{spec.latency_s * 1e3:g} ms",
        "maximum age": lambda spec: f"{spec.max_age_s * 1e3:g} ms",
        "alignment": lambda spec: (
            spec.alignment + (f", angles {', '.join(spec.angles)}" if spec.angles else "")
        ),
    }
    for heading, cell in rows.items():
        table.add_row(heading, *(escape(cell(spec)) for spec in task.observations.values()))
    return table


def _takes(spec: ObservationSpec) -> str:
    if spec.is_image:
        return f"{spec.encoding}, scaled to {_size(spec.resize)}" if spec.resize else str(spec.encoding)
    if spec.is_pose:
        return f"position and orientation ({spec.rotation})"
    names = f" of {', '.join(spec.names)}" if spec.names else ""
    return ", ".join(spec.fields) + names


def _sees(spec: ObservationSpec) -> str:
    shape = "x".join(map(str, spec.shape))
    return f"{shape}, cropped to {_size(spec.crop)}" if spec.crop else shape


def _size(size: tuple[int, int] | None) -> str:
    return "x".join(map(str, size or ()))


def _action(action: ActionSpec) -> Table:
    rate = f" at {action.rate_hz:g} Hz" if action.rate_hz else ""
    title = f"action: {action.output} on {action.topic} ({action.type}){rate}"
    table = Table(title=title, title_justify="left", caption=_meaning(action), caption_justify="left")
    table.add_column("name")
    limits = action.limits
    columns: dict[str, Sequence[float | str] | None] = {
        "lowest": limits.position.min,
        "highest": limits.position.max,
        "fastest per second": limits.velocity or ["no limit"] * action.command_dim,
        "per second^2": limits.acceleration,
        "per second^3": limits.jerk,
        "tracking error": limits.tracking_error,
    }
    shown = {heading: values for heading, values in columns.items() if values is not None}
    for heading in shown:
        table.add_column(heading, justify="right")
    for name, *values in zip(action.command_names, *shown.values(), strict=True):
        table.add_row(name, *(v if isinstance(v, str) else f"{v:g}" for v in values))
    return table


def _meaning(action: ActionSpec) -> str:
    """What the values mean, where it is not plain positions."""
    facts = []
    if action.names != action.command_names:
        facts.append(f"the policy predicts {', '.join(action.names)}")
    if action.is_velocity:
        facts.append("velocities")
    if action.relative:
        facts.append(f"relative to {action.state}")
    elif action.state:
        facts.append(f"measured by {action.state}")
    if action.latency_s:
        facts.append(f"takes effect after {action.latency_s * 1e3:g} ms, data holds {action.demonstrated}")
    facts += [f"{g.name} opens or closes" + (f" on {g.topic}" if g.topic else "") for g in action.grippers]
    facts += [f"keeps out of a box in {', '.join(box.names)}" for box in action.limits.keep_out]
    return "; ".join(facts)
