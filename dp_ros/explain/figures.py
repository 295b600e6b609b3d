"""Pictures of the numbers of this room; nothing is computed here but what a picture needs.

Every panel says what it shows and what to look for. Easy to get wrong: pictures of the world have y pointing down,
so `above` is the upper left of the axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dp_ros.explain.cost import Cost
from dp_ros.explain.futures import Futures, Switching
from dp_ros.explain.losses import CURVES, RunCurves
from dp_ros.explain.symmetric_start import ALONG, BAR_HALF_PX, Floats, side, symmetric_start
from dp_ros.sim.pusht import GOAL_POSE, WORLD_SIZE_PX
from dp_ros.sim.pusht_view import render

COLOURS = {"above": "tab:blue", "below": "tab:orange", "neither": "0.45"}
_COLUMNS = 4
_MARGIN_PX = 25.0


def draw_futures(futures: Mapping[str, Futures], path: Path) -> None:
    """For each policy the ways its futures go, and the chunks drawn at the start, over the picture."""
    rows = -(-len(futures) // _COLUMNS)
    columns = min(len(futures), _COLUMNS)
    figure, grid = _subplots(2 * rows, columns, (3.6 * columns + 0.4, 7.9 * rows + 1.2))
    for axes in grid.flat:
        axes.set_axis_off()
    window = _window(np.concatenate([found.paths for found in futures.values()]))  # one scale for all
    for place, (name, found) in enumerate(futures.items()):
        row, column = divmod(place, _COLUMNS)
        counts = found.counts
        upper, lower = grid[2 * row, column], grid[2 * row + 1, column]
        _world(upper, window)
        for one, way in zip(found.paths, found.sides, strict=True):
            upper.plot(*one.T, color=COLOURS[way], alpha=0.45, lw=0.9)
        upper.plot(*found.paths.mean(axis=0).T, color="black", lw=2.2, ls=(0, (3, 1.2)))
        ways = f"{counts['above']} above, {counts['below']} below"
        upper.set_title(f"{name}\n{ways}" + (f", {counts['neither']} neither" if counts["neither"] else ""))
        _world(lower, window)
        for chunk in found.chunks:
            lower.plot(*chunk.T, color=COLOURS[side(chunk)], alpha=0.45, lw=0.9, marker=".", ms=2)
        lower.plot(*found.chunks.mean(axis=0).T, color="black", lw=2.2, ls=(0, (3, 1.2)))
        lower.set_title("chunks drawn at the start", fontsize=9)
    n, gap = len(next(iter(futures.values())).paths), " " if columns > 1 else "\n"
    figure.suptitle(
        f"{n} futures from a start with two{gap}equally long ways round the T\n"
        f"(blue above, orange below,{gap}dashed: the mean of all)",
        fontsize=11,
    )
    _save(figure, path)


def draw_switching(switching: Mapping[str, Switching], path: Path) -> None:
    """Where successive plans end, how far apart they are, and how often the policy changes its mind."""
    names = list(switching)
    columns = max(min(len(names), _COLUMNS), 2)
    rows = -(-len(names) // columns)
    figure = _pyplot().figure(figsize=(3.6 * columns + 0.6, 2.7 * rows + 4.0), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[2.7 * rows, 3.4])
    grid = upper.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for place, (axes, name) in enumerate(zip(grid.flat, names, strict=False)):
        found = switching[name]
        for farthest, undecided in zip(found.farthest_px[:12], found.undecided[:12], strict=True):
            axes.plot(farthest[undecided], lw=0.9, alpha=0.7, marker=".", ms=3)
        for limit in (-BAR_HALF_PX, BAR_HALF_PX):
            axes.axhline(limit, color="0.6", lw=0.8, ls=":")
        axes.axhline(0.0, color="0.6", lw=0.8)
        axes.set_title(name, fontsize=10)
        if place % columns == 0:
            axes.set_ylabel("plan's farthest point,\npx from the axis")
        if place + columns >= len(names):
            axes.set_xlabel("control step")
            axes.xaxis.get_major_locator().set_params(integer=True)
    upper.suptitle(
        "Asked anew at every step, until it has gone round: on which side each plan goes\n"
        "(12 futures; dotted: ends of the T's bar)",
        fontsize=11,
    )
    left, right = lower.subplots(1, 2)
    for index, (name, found) in enumerate(switching.items()):
        gap = found.inconsistency_px
        steps = np.arange(1, gap.shape[1] + 1)
        left.plot(steps, gap.mean(axis=0), color=f"C{index}", label=name)
        left.fill_between(steps, *np.percentile(gap, [10, 90], axis=0), color=f"C{index}", alpha=0.15, lw=0)
        right.bar(index, found.switches.mean(), color=f"C{index}")
        right.text(
            index, found.switches.mean(), f"{found.switches.mean():.2f}", ha="center", va="bottom", fontsize=9
        )
    left.set(xlabel="control step", ylabel="px", ylim=(0, None))
    left.set_title("Distance between successive plans (mean, 10 to 90 %)", fontsize=10)
    left.legend(fontsize=8)
    right.set_xticks(range(len(names)), names, rotation=20 if len("".join(names)) > 30 else 0, fontsize=9)
    right.margins(y=0.15)
    right.set_xlim(-0.7, max(len(names), 3) - 0.3)
    right.set_ylabel("switches a future")
    right.set_title("How often a plan goes for the other side", fontsize=10)
    _save(figure, path)


def draw_losses(curves: Sequence[RunCurves], path: Path) -> None:
    """Curves of runs, one colour a kind of network, one line a seed."""
    figure, grid = _subplots(1, len(CURVES), (4.4 * len(CURVES), 3.9))
    kinds = list(dict.fromkeys(run.kind for run in curves))
    for axes, (name, title) in zip(grid.flat, CURVES.items(), strict=True):
        for run in curves:
            if points := run.points[name]:
                marker = "o" if len(points) <= 30 else None
                colour = f"C{kinds.index(run.kind)}"
                axes.plot(*zip(*points, strict=True), color=colour, lw=1.0, alpha=0.8, marker=marker, ms=3)
        if not any(run.points[name] for run in curves):
            axes.text(0.5, 0.5, "not measured in these runs", ha="center", transform=axes.transAxes)
        elif "loss" in name:
            # A likelihood may be above 1, so that its loss is below 0.
            lowest = min(value for run in curves for _, value in run.points[name])
            axes.set_yscale("log" if lowest > 0 else "symlog")
        else:
            axes.set_ylim(0.0, 1.02)
        axes.set(xlabel="optimiser steps", title=title)
    seeds = {kind: sum(run.kind == kind for run in curves) for kind in kinds}
    handles = [
        _pyplot().Line2D([], [], color=f"C{i}", label=f"{kind} ({seeds[kind]} runs)")
        for i, kind in enumerate(kinds)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(kinds), 5))
    figure.suptitle(
        "Training: a line a run; lines of a colour that stay together are a stable training", fontsize=11
    )
    _save(figure, path)


def draw_costs(costs: Mapping[str, Sequence[Cost]], sizes: Mapping[str, tuple[int, int]], path: Path) -> None:
    """Parameters and time over the number of values of an action, and over the horizon.

    Args:
        costs: of each policy.
        sizes: number of values and horizon of each policy's own task.
        path: PNG to write.
    """
    figure, grid = _subplots(2, 2, (9.5, 7.2))
    for index, (name, found) in enumerate(costs.items()):
        own = sizes[name]
        for column, axis in enumerate(("action_dim", "horizon")):
            other, fixed = ("horizon", own[1]) if axis == "action_dim" else ("action_dim", own[0])
            cases = [c for c in found if getattr(c, other) == fixed and c.parameters is not None]
            cases.sort(key=lambda case: getattr(case, axis))
            at = [getattr(case, axis) for case in cases]
            style: dict[str, Any] = {"marker": "o", "ms": 4, "lw": 1.2, "color": f"C{index}", "label": name}
            grid[0, column].plot(at, [(c.parameters or 0) / 1e6 for c in cases], **style)
            grid[1, column].plot(at, [c.sample_ms for c in cases], **style)
    for column, label in enumerate(("values of an action", "actions of a chunk (horizon)")):
        for row, quantity in enumerate(("parameters, millions", "processor time of a draw, ms")):
            axes = grid[row, column]
            axes.set(xlabel=label, ylabel=quantity, xscale="log")
            axes.set_ylim(
                0.0, 1.1 * max((float(np.max(line.get_ydata())) for line in axes.lines), default=1.0)
            )
            ticks = sorted({int(x) for line in axes.lines for x in np.asarray(line.get_xdata(), dtype=float)})
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
            axes.grid(alpha=0.3)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5))
    figure.suptitle("Cost over the size of what is predicted, measured on this machine", fontsize=11)
    _save(figure, path)


def draw_denoising(steps: Mapping[str, Floats], path: Path, shown: int = 6) -> None:
    """Chunks (steps + 1, n, horizon, 2) of each policy on their way from noise to actions."""
    figure, grid = _subplots(len(steps), shown, (2.6 * shown, 2.95 * len(steps) + 0.6))
    for row, (name, found) in zip(grid, steps.items(), strict=True):
        wanted = np.unique(np.linspace(0, len(found) - 1, shown).round().astype(int))
        for axes in row[len(wanted) :]:
            axes.set_axis_off()
        for axes, step in zip(row, wanted, strict=False):
            _world(axes, _window(found[-1], margin_px=70.0))
            for chunk, last in zip(found[step], found[-1], strict=True):
                # Lines between points of noise would hide everything.
                line = {"lw": 1.0, "alpha": 0.8} if step == wanted[-1] else {"lw": 0.25, "alpha": 0.6}
                axes.plot(*chunk.T, color=COLOURS[side(last)], marker=".", ms=3, **line)
            axes.set_title("noise" if step == 0 else f"step {step} of {len(found) - 1}", fontsize=9)
        row[0].text(-0.04, 0.5, name, rotation=90, va="center", ha="right", transform=row[0].transAxes)
    figure.suptitle(
        "Chunks on their way from noise to actions (by what they come to: blue above, orange below)",
        fontsize=11,
    )
    _save(figure, path)


def _world(axes: Any, window: tuple[float, float, float, float]) -> None:
    """The picture of the start with its axis of symmetry, within left, right, bottom, top."""
    extent = (0, WORLD_SIZE_PX, WORLD_SIZE_PX, 0)
    axes.imshow(render(symmetric_start(), WORLD_SIZE_PX), extent=extent, alpha=0.55, interpolation="bilinear")
    ends = np.array(GOAL_POSE[:2]) + np.outer([-400.0, 400.0], ALONG)
    axes.plot(*ends.T, color="0.5", lw=0.8, ls=":")
    axes.set(xlim=window[:2], ylim=window[2:], xticks=[], yticks=[])
    axes.set_axis_on()


def _window(paths: Floats, margin_px: float = _MARGIN_PX) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a square, within the world, round the T and all that paths (n, steps, 2) visit."""
    block = symmetric_start()[2:4]
    points = np.concatenate(
        [paths.reshape(-1, 2), block - 60.0 * ALONG, block + 130.0 * ALONG], axis=None
    ).reshape(-1, 2)
    low, high = points.min(axis=0) - margin_px, points.max(axis=0) + margin_px
    half = float((high - low).max() / 2)
    half = min(half, WORLD_SIZE_PX / 2)
    middle = np.clip((low + high) / 2, half, WORLD_SIZE_PX - half)
    return middle[0] - half, middle[0] + half, middle[1] + half, middle[1] - half


def _subplots(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    return _pyplot().subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110)
    _pyplot().close(figure)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
