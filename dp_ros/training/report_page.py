"""The report of a run as one HTML file that needs no other: curves, pictures of the episodes, the failed ones.

Pictures are in the file itself, so it can be mailed. Easy to get wrong: everything that comes from files (names of
tasks, versions) is escaped; a run folder may come from somebody else.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dp_ros.sim.pusht_view import contact_sheet, render
from dp_ros.training.episode_record import EpisodeRecord, load_episodes
from dp_ros.training.report import HISTORY, RunSummary, rows_with, show, summary_rows
from dp_ros.training.run_folder import RunRecord

_FRAME_PX = 128
_FRAMES = 8
_MOST_FAILED = 24
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1080px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } img { max-width: 100% }
th, td { text-align: right; padding: .15em .7em; border-bottom: 1px solid #ddd } td:first-child { text-align: left }
th { border-bottom: 2px solid #888 } tr.best { font-weight: bold } h2 { margin-top: 2em } .wide { overflow-x: auto }
""".strip()


def report_page(run: Path, record: RunRecord, summary: RunSummary) -> str:
    """The page of a run."""
    parts = [
        f"<h1>{html.escape(run.resolve().name)}</h1>",
        _facts(record, summary),
        "<h2>Curves</h2>",
        f'<div class="wide">{_curves(summary)}</div>',
        "<h2>Evaluations</h2>",
        f'<div class="wide">{_history(summary)}</div>',
    ]
    if summary.best is not None:
        parts += _episodes(load_episodes(run, int(summary.best["step"])), int(summary.best["step"]))
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{last}</td><td>{best}</td></tr>"
        for name, last, best in summary_rows(summary)
    )
    parts += [
        "<h2>Summary</h2>",
        f"<table><tr><th>name</th><th>last</th><th>best checkpoint</th></tr>{rows}</table>",
        "<h2>Recipe</h2>",
        f"<pre>{html.escape(record.config.model_dump_json(indent=2))}</pre>",
    ]
    title = html.escape(run.resolve().name)
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _facts(record: RunRecord, summary: RunSummary) -> str:
    spec = record.config.training
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    facts = [
        ("task", str(record.task.get("name"))),
        (
            "data",
            f"{record.data} ({record.n_episodes} episodes, {record.n_steps} steps, {record.data_digest[:12]})",
        ),
        ("network", record.config.network.kind),
        ("steps", f"{int(summary.last['step'])} of {spec.steps}, {record.samples_per_step} samples each"),
        ("seed", str(spec.seed)),
        ("begun with", record.started_from or "random weights"),
        ("code", record.git_commit or "not from a git checkout"),
        ("versions", versions),
    ]
    rows = "".join(
        f"<tr><td>{name}</td><td style='text-align:left'>{html.escape(value)}</td></tr>"
        for name, value in facts
    )
    return f"<table>{rows}</table>"


def _history(summary: RunSummary) -> str:
    if not summary.evaluations:
        return "<p>No evaluation yet.</p>"
    names = [name for name in HISTORY if any(name in row for row in summary.evaluations)]
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = "".join(
        f"<tr{' class=best' if row is summary.best else ''}>"
        + "".join(f"<td>{show(name, row.get(name))}</td>" for name in names)
        + "</tr>"
        for row in summary.evaluations
    )
    return f"<table><tr>{heads}</tr>{rows}</table>"


def _curves(summary: RunSummary) -> str:
    """Losses, scores with their interval, action error and learning rate over steps, as SVG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [
        (("train_loss", "val_loss"), "loss", True),
        (("test/mean_score", "train/mean_score", "test/success_rate"), "score in simulation", False),
        (("train_action_mse_error",), "mean squared error of sampled actions", True),
        (("lr",), "learning rate", False),
    ]
    shown = [panel for panel in panels if any(rows_with(summary.lines, name)[0] for name in panel[0])]
    figure, axes = pyplot.subplots(
        -(-len(shown) // 2), 2, figsize=(10, 3.2 * -(-len(shown) // 2)), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    for axis, (names, title, logarithmic) in zip(axes.flat, shown, strict=False):
        _panel(axis, summary, names)
        axis.set(title=title, xlabel="step")
        if logarithmic:
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def _panel(axis: Any, summary: RunSummary, names: Sequence[str]) -> None:
    for name in names:
        steps, values = rows_with(summary.lines, name)
        if not steps:
            continue
        dense = len(steps) > 60
        (line,) = axis.plot(steps, values, "-" if dense else "o-", markersize=3, linewidth=1.2, label=name)
        low, high = rows_with(summary.lines, f"{name}_low"), rows_with(summary.lines, f"{name}_high")
        if low[0]:
            axis.fill_between(
                low[0], low[1], high[1], color=line.get_color(), alpha=0.2, label="95 % interval"
            )
    if len(names) > 1:
        axis.legend(fontsize=8)


def _episodes(episodes: Sequence[EpisodeRecord], step: int) -> list[str]:
    """Last pictures of every episode, then the course of those that failed."""
    parts = []
    for group, what in (("test", "fresh start states"), ("train", "start states of demonstrations")):
        members = [episode for episode in episodes if episode.group == group]
        if members:
            captions = [f"{episode.seed}: {episode.score:.3f}" for episode in members]
            frames = [render(episode.states[-1], _FRAME_PX) for episode in members]
            parts.append(f"<h2>Where the episodes of step {step} ended: {what}</h2>")
            parts.append(_picture(contact_sheet(frames, 8, captions), f"last pictures, {group}"))
    failed = sorted((one for one in episodes if not one.success), key=lambda one: one.score)
    if failed:
        more = f", the worst {_MOST_FAILED} of them" if len(failed) > _MOST_FAILED else ""
        parts.append(f"<h2>Failed episodes: {len(failed)} of {len(episodes)}{more}</h2>")
    for episode in failed[:_MOST_FAILED]:
        at = np.linspace(0, len(episode.states) - 1, _FRAMES).round().astype(int).tolist()
        frames = [render(episode.states[k], _FRAME_PX) for k in at]
        parts.append(
            f"<p>{episode.group}, seed {episode.seed}: score {episode.score:.3f}, final coverage "
            f"{episode.final_coverage:.3f}, {len(episode.states) - 1} steps</p>"
        )
        sheet = contact_sheet(frames, _FRAMES, [f"step {k}" for k in at])
        parts.append(_picture(sheet, f"episode of seed {episode.seed}"))
    return parts


def _picture(picture: NDArray[np.uint8], description: str) -> str:
    _, encoded = cv2.imencode(".png", picture[..., ::-1])
    data = base64.b64encode(encoded.tobytes()).decode()
    return f'<img alt="{html.escape(description)}" src="data:image/png;base64,{data}">'
