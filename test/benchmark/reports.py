"""A report with every part, of made-up numbers."""

from __future__ import annotations

from dp_ros.benchmark.report import (
    MODES,
    DelayResult,
    Quantiles,
    RuntimeReport,
    SeamResult,
    TickResult,
)


def full_report() -> RuntimeReport:
    """Everything measured."""
    return RuntimeReport(
        meta={"model_id": "some-model", "cores": 2, "busy_cores_before": 0.5, "unit": "px"},
        ticks=[
            TickResult(100.0, 6000, 0, Quantiles(0.1, 0.9, 3.0), 50),
            TickResult(500.0, 30000, 2, Quantiles(0.1, 1.0, 5.0), 0),
        ],
        stages_ms={"inference": Quantiles(14.0, 20.0, 30.0), "total": Quantiles(16.0, 23.0, 36.0)},
        seam={
            mode: SeamResult(10.0 / 10**i, 1000.0 / 10**i, 10000.0 / 10**i, 50)
            for i, mode in enumerate(MODES)
        },
        delay={
            mode: {ms: DelayResult(0.9, 0.5, (0.8, 0.95), 150, 8) for ms in (0, 100, 200, 400)}
            for mode in MODES
        },
    )
