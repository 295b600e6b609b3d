"""The picture of a calibration: both signals as recorded, the same aligned, and the correlation with its peak.

Easy to get wrong: what explains a signal may be a mixture of several others (a picture and six joints), so the
curve drawn over it is the fitted mixture, in the units of the signal, and not one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dp_ros.calibration.signals import Floats, Signal
from dp_ros.calibration.task_latency import TaskLatency

_WINDOW_S = 6.0
_EARLIER, _LATER, _PEAK = "#0072B2", "#D55E00", "#009E73"  # distinct for the colour-blind (Okabe and Ito)
_MS = 1e3


def draw_calibration(result: TaskLatency, path: Path) -> None:
    """Write the picture as PNG (or what the suffix says).

    Args:
        result: of `calibrate`.
        path: file to write; its folder is made.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    earlier, later, fitted, shown_s, name = _window(result)
    latency = result.latency
    earlier_label = "commanded" if result.key == "action" else result.against
    later_label = f"measured by {result.against}" if result.key == "action" else result.key
    style: Any = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e6e6e6",
        "axes.axisbelow": True,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
    }
    with pyplot.rc_context(style):
        figure = pyplot.figure(figsize=(11, 8.2), layout="constrained")
        grid = figure.add_gridspec(3, 5, height_ratios=[1, 1, 1.15])
        first = figure.add_subplot(grid[0, :])
        second = figure.add_subplot(grid[1, :], sharex=first, sharey=first)
        for axes, shift_s, title in (
            (first, 0.0, f"as recorded: {later_label} is {latency.value_s * _MS:.0f} ms behind"),
            (
                second,
                latency.value_s,
                f"aligned: {later_label} shifted back by {latency.value_s * _MS:.0f} ms",
            ),
        ):
            axes.plot(earlier - shown_s, fitted, color=_EARLIER, linewidth=2.2, label=earlier_label)
            dense = len(later.times_s) > 400
            axes.plot(
                later.times_s - shift_s - shown_s,
                later.values[:, 0],
                "-" if dense else "o-",
                color=_LATER,
                linewidth=1.3,
                markersize=3,
                label=later_label,
            )
            axes.set_title(title)
            axes.set_ylabel(name)
        first.set_xlim(0, _WINDOW_S)
        first.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False, ncols=2)
        first.tick_params(labelbottom=False)
        second.set_xlabel("time, s")
        _draw_curve(figure.add_subplot(grid[2, :3]), result, whole=True)
        _draw_curve(figure.add_subplot(grid[2, 3:]), result, whole=False)
        low, high = latency.interval_s
        figure.suptitle(
            f"{result.key}: latency {latency.value_s * _MS:.0f} ms, 95 % interval {low * _MS:.0f} to "
            f"{high * _MS:.0f} ms    ({latency.duration_s:.0f} s of motion, {latency.peak * 100:.0f} % explained)",
            fontsize=13,
            fontweight="bold",
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)
        pyplot.close(figure)


def _draw_curve(axes: Any, result: TaskLatency, *, whole: bool) -> None:
    latency = result.latency
    low, high = latency.interval_s
    lags = latency.lags_s * _MS
    if whole:
        shown = np.ones(len(lags), dtype=bool)
        axes.set_title("share of the variance explained at each lag")
    else:
        reach_s = max(4 * latency.half_width_s, 0.03)
        shown = np.abs(latency.lags_s - latency.value_s) <= reach_s
        axes.set_title("the peak")
    axes.fill_between(
        lags[shown],
        *latency.band[:, shown],
        color=_EARLIER,
        alpha=0.18,
        linewidth=0,
        label="95 % of resampled motions",
    )
    axes.plot(lags[shown], latency.explained[shown], color=_EARLIER, linewidth=2)
    axes.axvspan(low * _MS, high * _MS, color=_PEAK, alpha=0.25, linewidth=0, label="95 % interval")
    axes.axvline(latency.value_s * _MS, color=_PEAK, linewidth=1.6, label=f"{latency.value_s * _MS:.1f} ms")
    axes.set_xlabel("lag, ms")
    axes.margins(x=0)
    if whole:
        axes.set_ylim(0, 1.02)
        axes.legend(loc="best", framealpha=0.95)


def _window(result: TaskLatency) -> tuple[Floats, Signal, Floats, float, str]:
    """The stretch with most motion: times and values of what explains, the explained signal, start, y label."""
    best, pair = -1.0, result.pairs[0]
    start = 0.0
    for x, y in result.pairs:
        begin, end = max(x.times_s[0], y.times_s[0]), min(x.times_s[-1], y.times_s[-1])
        for at in np.arange(begin, max(end - _WINDOW_S, begin) + 1e-9, 1.0):
            inside = x.between(at, at + _WINDOW_S).values
            way = float(np.abs(np.diff(inside, axis=0)).sum()) if len(inside) > 1 else 0.0
            if way > best:
                best, pair, start = way, (x, y), float(at)
    x, y = pair
    y = y.between(start - 0.5, start + _WINDOW_S + 0.5)
    column, weights = _fit(x, y, result)
    smooth = x.on_grid()
    shown = smooth.between(start, start + _WINDOW_S)
    fitted = np.column_stack([np.ones(len(shown.times_s)), shown.values]) @ weights
    later = y.columns([column]).between(start, start + _WINDOW_S + result.latency.value_s)
    return shown.times_s, later, fitted, start, later.names[0]


def _fit(x: Signal, y: Signal, result: TaskLatency) -> tuple[int, Floats]:
    """The column of y that is explained best at the latency, and what of x explains it: constant, then columns."""
    smooth = x.on_grid()
    moved = np.stack(
        [np.interp(y.times_s - result.latency.value_s, smooth.times_s, c) for c in smooth.values.T], axis=1
    )
    candidates: list[tuple[float, int, Floats]] = []
    for column in range(y.values.shape[1]):
        used: Sequence[int] = [column] if result.paired else range(moved.shape[1])
        design = np.column_stack([np.ones(len(moved)), moved[:, list(used)]])
        target = y.values[:, column]
        solved = np.linalg.lstsq(design, target, rcond=None)[0]
        left = float(np.var(target - design @ solved) / max(float(np.var(target)), 1e-300))
        weights = np.zeros(1 + moved.shape[1])
        weights[0], weights[1 + np.array(used)] = solved[0], solved[1:]
        candidates.append((left, column, weights))
    _, column, weights = min(candidates, key=lambda candidate: candidate[0])
    return column, weights
