"""The JSON that other programs read, and the tables."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from dp_ros.benchmark.report import (
    DelayResult,
    Quantiles,
    RuntimeReport,
    SeamResult,
    TickResult,
)
from test.benchmark.reports import full_report


def test_the_json_has_the_keys_that_others_read() -> None:
    data = json.loads(json.dumps(full_report().as_json()))
    assert data["ticks"][0] == {
        "hz": 100.0,
        "total": 6000,
        "missed": 0,
        "jitter_ms": {"p50": 0.1, "p99": 0.9, "max": 3.0},
        "realtime_priority": 50,
    }
    assert data["stages_ms"]["inference"] == {"p50": 14.0, "p99": 20.0}
    assert set(data["seam"]) == {"naive", "replace", "ensemble", "rtc"}
    assert {"velocity_jump_max", "acceleration_jump_max"} <= set(data["seam"]["rtc"])
    assert set(data["delay"]) == {"naive", "replace", "ensemble", "rtc"}
    assert set(data["delay"]["rtc"]) == {"0", "100", "200", "400"}
    assert {"mean_score", "success_rate"} <= set(data["delay"]["rtc"]["400"])
    assert data["meta"]["model_id"] == "some-model"


def test_what_was_not_measured_is_absent() -> None:
    report = RuntimeReport(meta={}, seam={"naive": SeamResult(0.1, 1.0, 2.0, 3)})
    assert set(report.as_json()) == {"meta", "seam"}
    assert len(report.tables()) == 1


def test_the_tables_say_how_many_times_smaller_than_naive_a_jump_is() -> None:
    seam = {"naive": SeamResult(0.5, 500.0, 8000.0, 9), "rtc": SeamResult(0.0, 5.0, 0.0, 9)}
    shown = shown_by(RuntimeReport(meta={}, seam=seam))
    assert " 100 " in shown
    assert "no jump" in shown


def test_the_tables_show_intervals_and_how_often_inference_runs() -> None:
    delay = {"rtc": {0: DelayResult(0.5, 0.25, (0.4, 0.6), 4, 0), 400: DelayResult(0.4, 0.2, None, 1, 0)}}
    shown = shown_by(RuntimeReport(meta={}, delay=delay))
    assert "0.400 to 0.600" in shown
    assert "0.250" in shown
    assert "rtc, back to back" in shown


def test_the_tables_show_missed_ticks() -> None:
    report = RuntimeReport(meta={}, ticks=[TickResult(500.0, 1000, 7, Quantiles(0.1, 0.2, 9.0), 50)])
    shown = shown_by(report)
    assert "500 Hz" in shown
    assert " 7 " in shown


def test_quantiles_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        Quantiles.of([])
    assert Quantiles.of([3.0]) == Quantiles(3.0, 3.0, 3.0)


def shown_by(report: RuntimeReport) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    for table in report.tables():
        console.print(table)
    return console.export_text()
