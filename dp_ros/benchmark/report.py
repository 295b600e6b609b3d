"""What `dp-ros bench runtime` found: the numbers, their JSON, and the tables that a person reads.

The keys of the JSON are an interface that other programs read. Easy to get wrong: a part that was not measured is
absent, never empty or zero, so that nobody takes "not measured" for "none missed".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from rich.table import Table

BenchmarkMode = Literal["naive", "replace", "ensemble", "rtc"]
#: Ways to execute chunks; the naive one exists to be compared with.
MODES: tuple[BenchmarkMode, ...] = ("naive", "replace", "ensemble", "rtc")


@dataclass(frozen=True)
class Quantiles:
    """Median, 99th percentile and maximum."""

    p50: float
    p99: float
    max: float

    @staticmethod
    def of(values: npt.ArrayLike) -> Quantiles:
        """Of at least one value; raises ValueError if there is none."""
        given = np.asarray(values, dtype=np.float64)
        if not given.size:
            raise ValueError("quantiles of nothing")
        p50, p99 = np.percentile(given, [50, 99])
        return Quantiles(float(p50), float(p99), float(given.max()))


@dataclass(frozen=True)
class TickResult:
    """Setpoint ticks at one rate.

    Attributes:
        hz: rate of the ticks.
        total: ticks that were due.
        missed: of these, those that were late by a period or more: they were skipped, or came when the next was due.
        jitter_ms: how long after its time each tick that was not skipped came.
        priority: SCHED_FIFO priority of the thread that ticked, 0 for none.
    """

    hz: float
    total: int
    missed: int
    jitter_ms: Quantiles
    priority: int


@dataclass(frozen=True)
class SeamResult:
    """Largest jumps of the commanded motion where one chunk follows another (`dp_ros.benchmark.seam`)."""

    position_jump_max: float
    velocity_jump_max: float
    acceleration_jump_max: float
    seams: int


@dataclass(frozen=True)
class DelayResult:
    """Episodes of one mode at one injected latency."""

    mean_score: float
    success_rate: float
    interval_95: tuple[float, float] | None
    episodes: int
    infer_every: int


@dataclass
class RuntimeReport:
    """Everything one run measured; a part that was left out is empty.

    Attributes:
        meta: machine, model, arguments.
        ticks: one entry a rate.
        stages_ms: stage to quantiles, in the order in which an observation passes them.
        seam: by mode.
        delay: by mode, then by injected latency in ms.
        execution: the execution chosen for the model, with its reason and the candidates, if one was asked for.
    """

    meta: dict[str, Any]
    ticks: list[TickResult] = field(default_factory=list)
    stages_ms: dict[str, Quantiles] = field(default_factory=dict)
    seam: dict[str, SeamResult] = field(default_factory=dict)
    delay: dict[str, dict[int, DelayResult]] = field(default_factory=dict)
    execution: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """The report as `--json` writes it."""
        result: dict[str, Any] = {"meta": self.meta}
        if self.ticks:
            result["ticks"] = [
                {
                    "hz": t.hz,
                    "total": t.total,
                    "missed": t.missed,
                    "jitter_ms": vars(t.jitter_ms),
                    "realtime_priority": t.priority,
                }
                for t in self.ticks
            ]
        if self.stages_ms:
            result["stages_ms"] = {
                stage: {"p50": found.p50, "p99": found.p99} for stage, found in self.stages_ms.items()
            }
        if self.seam:
            result["seam"] = {mode: vars(found) for mode, found in self.seam.items()}
        if self.delay:
            result["delay"] = {
                mode: {str(ms): vars(found) for ms, found in by_ms.items()}
                for mode, by_ms in self.delay.items()
            }
        if self.execution is not None:
            result["execution"] = self.execution
        return result

    def tables(self) -> list[Table]:
        """One table for each part that was measured."""
        made = []
        if self.ticks:
            made.append(_ticks_table(self.ticks))
        if self.stages_ms:
            made.append(_stages_table(self.stages_ms))
        if self.seam:
            made.append(_seam_table(self.seam))
        if self.delay:
            made.append(_delay_table(self.delay))
        return made


def _table(title: str, first: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _ticks_table(ticks: Sequence[TickResult]) -> Table:
    headings = (
        "real-time priority",
        "ticks due",
        "late by a period or more",
        "jitter p50 ms",
        "p99 ms",
        "max ms",
    )
    table = _table("setpoint ticks while inference runs without pause", "rate", headings)
    for tick in ticks:
        jitter = tick.jitter_ms
        cells = (
            f"{tick.priority or 'none'}",
            f"{tick.total}",
            f"{tick.missed}",
            f"{jitter.p50:.3f}",
            f"{jitter.p99:.3f}",
            f"{jitter.max:.3f}",
        )
        table.add_row(f"{tick.hz:g} Hz", *cells)
    return table


def _stages_table(stages_ms: Mapping[str, Quantiles]) -> Table:
    table = _table("from observation to action", "stage", ("p50 ms", "p99 ms", "max ms"))
    for stage, found in stages_ms.items():
        table.add_row(stage.replace("_", " "), f"{found.p50:.2f}", f"{found.p99:.2f}", f"{found.max:.2f}")
    return table


def _seam_table(seam: Mapping[str, SeamResult]) -> Table:
    headings = ("seams", "position", "velocity", "naive / this", "accel.", "naive / this")
    table = _table(
        "largest jump of the commanded motion at a seam (units, units/s, units/s²)", "mode", headings
    )
    naive = seam.get("naive")
    for mode, found in seam.items():
        ratios = ["", ""]
        if naive is not None and found is not naive:
            ratios = [
                times(naive.velocity_jump_max, found.velocity_jump_max),
                times(naive.acceleration_jump_max, found.acceleration_jump_max),
            ]
        velocity, acceleration = f"{found.velocity_jump_max:.3g}", f"{found.acceleration_jump_max:.3g}"
        position = f"{found.position_jump_max:.3g}"
        table.add_row(mode, f"{found.seams}", position, velocity, ratios[0], acceleration, ratios[1])
    return table


def times(larger: float, smaller: float) -> str:
    """How many times one number is another, for a person."""
    return f"{larger / smaller:.3g}" if smaller > 0 else "no jump"


def _delay_table(delay: Mapping[str, Mapping[int, DelayResult]]) -> Table:
    headings = ("injected ms", "mean score", "95 % interval", "success rate")
    table = _table("scores under delay", "mode, inference every", headings)
    for mode, by_ms in delay.items():
        for row, (ms, found) in enumerate(sorted(by_ms.items())):
            name = f"{mode}, {interval_words(found.infer_every)}" if row == 0 else ""
            low_high = "{:.3f} to {:.3f}".format(*found.interval_95) if found.interval_95 else ""
            table.add_row(name, f"{ms}", f"{found.mean_score:.3f}", low_high, f"{found.success_rate:.3f}")
        table.add_section()
    return table


def interval_words(infer_every: int) -> str:
    """How often inference runs, for a person."""
    return f"{infer_every} steps" if infer_every else "back to back"
