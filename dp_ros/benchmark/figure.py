"""The picture of a runtime report: four panels that can be read without knowing this program.

Each title says what was measured and each panel what would be good. Easy to get wrong: a part that was not
measured keeps its place with a note, so that two pictures can be laid side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dp_ros.benchmark.report import DelayResult, Quantiles, RuntimeReport, SeamResult, TickResult

if TYPE_CHECKING:
    from dp_ros.benchmark.inference import InferenceSpeed

#: Limits of the figures that the project promises; drawn as lines.
JITTER_P99_MS = 2.0
BELOW_NAIVE = 10.0
#: Behind a number, so that a line does not cross it out.
PLAIN = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
#: Ratio of the largest jump to the smallest that is drawn; what is smaller is as good as none.
DECADES = 1e7

COLORS = {"naive": "0.45", "replace": "tab:blue", "ensemble": "tab:green", "rtc": "tab:red"}
MEANING = {
    "naive": "naive: each chunk as it comes",
    "replace": "replace: new chunk spliced in",
    "ensemble": "ensemble: chunks averaged",
    "rtc": "rtc: sampled to go on from the old chunk",
}


def draw(report: RuntimeReport, path: Path) -> None:
    """Write the picture as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(13, 10), layout="constrained")
    panels: Any = figure.subfigures(2, 2, hspace=0.06, wspace=0.04)
    _ticks(panels[0, 0], report.ticks)
    _stages(panels[0, 1], report.stages_ms)
    _seam(panels[1, 0], report.seam, str(report.meta.get("unit", "units")))
    _delay(panels[1, 1], report.delay)
    figure.suptitle(_headline(report.meta), fontsize=11)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_inference(name: str, speeds: Sequence[InferenceSpeed], path: Path) -> None:
    """Write bars of the time of a chunk, by way and number of threads, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars_each = 5 if speeds[0].encoder_ms else 3
    size = (8, 1.2 + 0.43 * bars_each * len(speeds))
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    labels, y = [], 0.0
    for speed in speeds:
        engine = f"engine {speed.engine}: {speed.speedup:.1f} times as fast"
        limit = f"limit of the machine: {speed.roofline_fraction:.0%} of it reached"
        bars = [
            ("eager torch, loop of diffusers", speed.eager_ms.p50, "0.6"),
            (engine, speed.total_ms.p50, "tab:blue"),
        ]
        if speed.encoder_ms and speed.sampler_ms:
            bars += [
                ("of that, encoding the pictures", speed.encoder_ms.p50, "tab:cyan"),
                ("and drawing, pictures encoded before", speed.sampler_ms.p50, "tab:cyan"),
            ]
        bars.append((limit, 1e3 * speed.limits.seconds(speed.work), "tab:green"))
        for label, took_ms, color in bars:
            axes.barh(y, took_ms, color=color, height=0.8)
            axes.text(took_ms, y, f" {took_ms:.1f} ms", va="center", fontsize=9)
            labels.append((y, f"{label}, {speed.threads} thread{'s' if speed.threads > 1 else ''}"))
            y += 1.0
        y += 0.6
    axes.set_yticks([place for place, _ in labels], [label for _, label in labels], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.set_xlabel("median time to draw one chunk, ms")
    axes.set_title(f"{name}: {speeds[0].work.steps} denoising steps, batch 1", loc="left", fontsize=11)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _headline(meta: Mapping[str, Any]) -> str:
    busy = meta.get("busy_cores_before")
    others = "" if busy is None else f"; other work kept {busy:g} of them busy"
    return f"dp-ros bench runtime: {meta.get('model_id', 'model')} on {meta.get('cores', '?')} cores{others}"


def _title(panel: Any, title: str) -> None:
    panel.suptitle(title, x=0.02, ha="left", fontsize=11, weight="bold")


def _legend(panel: Any, axes: Any, columns: int) -> None:
    """What the colours mean, below the panel, lines for aims last."""
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(
        range(len(labels)), key=lambda i: (labels[i].startswith("aim"), labels[i].startswith("99 % of"))
    )
    panel.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        fontsize=8,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
    )


def _not_measured(panel: Any) -> None:
    axes = panel.subplots()
    axes.text(0.5, 0.5, "not measured in this run", ha="center", va="center", transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])


def _ticks(panel: Any, ticks: list[TickResult]) -> None:
    _title(panel, "1  Does each setpoint leave on time while the model computes?")
    if not ticks:
        return _not_measured(panel)
    axes = panel.subplots()
    kinds = (
        ("p50", "tab:blue", "half of the ticks"),
        ("p99", "tab:orange", "99 %"),
        ("max", "tab:red", "all"),
    )
    height = 0.24
    for row, tick in enumerate(ticks):
        for place, (kind, color, label) in enumerate(kinds):
            value = getattr(tick.jitter_ms, kind)
            y = row + (place - 1) * height
            axes.barh(y, value, height * 0.9, color=color, label=label if row == 0 else None)
            axes.annotate(f" {value:.2g} ms", (value, y), va="center", fontsize=9)
    axes.set_yticks(
        range(len(ticks)),
        [f"{t.hz:g} Hz\n{t.missed} of {t.total} late\nby a period" for t in ticks],
    )
    axes.invert_yaxis()
    axes.set_xscale("log")
    low = min(tick.jitter_ms.p50 for tick in ticks)
    high = max(*(tick.jitter_ms.max for tick in ticks), JITTER_P99_MS)
    axes.set_xlim(max(low, 1e-4) / 3, high * 6)
    axes.axvline(JITTER_P99_MS, color="black", linestyle="--", linewidth=1, label="aim for 99 % at 100 Hz")
    axes.set_xlabel("off their time by at most, ms (log scale; left is better)")
    _legend(panel, axes, 4)


def _stages(panel: Any, stages: Mapping[str, Quantiles]) -> None:
    _title(panel, "2  Where does the time go between seeing and acting?")
    if not stages:
        return _not_measured(panel)
    axes = panel.subplots()
    for row, (stage, found) in enumerate(stages.items()):
        total = stage == "total"
        axes.barh(
            row,
            found.p50,
            0.6,
            color="0.4" if total else "tab:blue",
            label="half of the times are below" if row == 0 else None,
        )
        axes.plot(
            [found.p50, found.p99],
            [row, row],
            color="tab:orange",
            linewidth=2,
            marker="|",
            markersize=11,
            label="99 % of them are below" if row == 0 else None,
        )
        axes.annotate(
            f"{found.p50:.2f}  ({found.p99:.2f})",
            (found.p99, row),
            va="center",
            fontsize=9,
            xytext=(7, 0),
            textcoords="offset points",
        )
    axes.set_yticks(range(len(stages)), [stage.replace("_", " ") for stage in stages])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * max(found.p99 for found in stages.values()))
    axes.set_xlabel("ms; numbers: median (99 %)")
    _legend(panel, axes, 2)


def _seam(panel: Any, seam: Mapping[str, SeamResult], unit: str) -> None:
    _title(panel, "3  How hard does the motion jump where a new chunk takes over?")
    if not seam:
        return _not_measured(panel)
    axes = panel.subplots()
    kinds = (
        ("position_jump_max", f"position\n({unit})"),
        ("velocity_jump_max", f"velocity\n({unit}/s)"),
        ("acceleration_jump_max", f"acceleration\n({unit}/s²)"),
    )
    width = 0.8 / len(seam)
    values = [getattr(found, kind) for found in seam.values() for kind, _ in kinds]
    floor = max(values) / DECADES
    for place, (mode, found) in enumerate(seam.items()):
        for group, (kind, _) in enumerate(kinds):
            value = getattr(found, kind)
            x = group + (place - (len(seam) - 1) / 2) * width
            axes.bar(
                x, value, width * 0.9, color=COLORS.get(mode), label=MEANING[mode] if group == 0 else None
            )
            axes.annotate(
                _short(value), (x, max(value, floor)), ha="center", va="bottom", fontsize=8, bbox=PLAIN
            )
    if "naive" in seam:
        level = seam["naive"].velocity_jump_max / BELOW_NAIVE
        label = f"aim: velocity {BELOW_NAIVE:g} times below naive"
        axes.plot([0.55, 1.45], [level, level], "--", color="black", linewidth=1, label=label, zorder=0)
    axes.set_yscale("log")
    axes.set_ylim(floor / 2, max(values) * 8)
    axes.set_xticks(range(len(kinds)), [label for _, label in kinds])
    axes.set_ylabel("largest jump (log scale; lower is better)")
    _legend(panel, axes, 2)


def _short(value: float) -> str:
    """A number in at most five characters."""
    if value >= 999.5:
        return f"{value / 1000:.3g}k" if value < 999_500 else f"{value:.0e}".replace("e+0", "e")
    if value >= 10.0:
        return f"{value:.0f}"
    return f"{value:.2g}" if value >= 0.001 else "<.001"


def _delay(panel: Any, delay: Mapping[str, Mapping[int, DelayResult]]) -> None:
    counts = {found.episodes for by_ms in delay.values() for found in by_ms.values()}
    each = f"   ({min(counts)} episodes a point)" if counts else ""
    _title(panel, f"4  What does a slow model cost?{each}")
    if not delay:
        return _not_measured(panel)
    score, success = panel.subplots(1, 2)
    lowest = {"mean_score": 1.0, "success_rate": 1.0}
    shift = 5.0
    for index, (mode, by_ms) in enumerate(delay.items()):
        latencies = sorted(by_ms)
        x = [ms + shift * (index - (len(delay) - 1) / 2) for ms in latencies]  # side by side where they agree
        style = {"color": COLORS.get(mode), "marker": "o", "markersize": 4}
        for axes, key in ((score, "mean_score"), (success, "success_rate")):
            values = [getattr(by_ms[ms], key) for ms in latencies]
            lowest[key] = min(lowest[key], *values)
            axes.plot(x, values, label=mode, linestyle="--" if mode == "naive" else "-", **style)
        for at, ms in zip(x, latencies, strict=True):
            interval = by_ms[ms].interval_95
            if interval is not None:
                score.plot([at, at], interval, color=COLORS.get(mode), linewidth=1, alpha=0.5)
                lowest["mean_score"] = min(lowest["mean_score"], interval[0])
    ticks = sorted({ms for by_ms in delay.values() for ms in by_ms})
    for axes, key, label in (
        (score, "mean_score", "mean score, bars: 95 % interval"),
        (success, "success_rate", "success rate"),
    ):
        axes.set_ylim(max(lowest[key] - 0.08, -0.02), 1.02)
        axes.set_xticks(ticks, [str(ms) for ms in ticks])
        axes.set_xlabel("injected latency, ms")
        axes.set_ylabel(label + " (higher is better)" if axes is success else label)
        axes.grid(alpha=0.3)
    _legend(panel, success, 4)
