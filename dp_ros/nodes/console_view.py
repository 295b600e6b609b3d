"""What arrived from other nodes as what a browser is shown.

Easy to get wrong: JSON knows no NaN, and a value that no node has said is null, not 0.
"""

from __future__ import annotations

from typing import Any

from dp_ros.bridge.clock import to_ns
from dp_ros.bridge.codecs import CodecProblem, decode
from dp_ros.task import TaskSpec


def values_shown(message: Any, task: TaskSpec, key: str) -> list[float] | None:
    """Values of a stream's message; None if there are none."""
    if message is None:
        return None
    try:
        return [round(float(value), 4) for value in decode(message, task.observations[key]).reshape(-1)]
    except CodecProblem:
        return None


def policy_shown(
    status: Any, latency_ms: float | None, tick_gap_ms: float | None, diagnostics: Any
) -> dict[str, Any] | None:
    """The policy's status; `jitter_ms` is of its setpoints, or where it has none, `tick_gap_ms`."""
    if status is None:
        return None
    jitter = tick_gap_ms
    for entry in [] if diagnostics is None else diagnostics.status:
        if entry.name.endswith(": setpoints"):
            jitter = next((float(pair.value) for pair in entry.values if pair.key == "jitter_p99_ms"), jitter)
    return {
        **{
            key: getattr(status, key)
            for key in (
                "state",
                "reason",
                "message",
                "model_id",
                "mode",
                "gate",
                "emergency_stop",
                "takeover",
                "dry_run",
                "inferences",
                "late_steps",
            )
        },
        "queue_s": _number(status.queue_s),
        "inference_ms": _number(status.inference_ms),
        "latency_ms": None if latency_ms is None else _number(latency_ms),
        "jitter_ms": None if jitter is None else _number(jitter),
        "counts": dict(zip(status.counted, [int(count) for count in status.counts], strict=True)),
    }


def recorder_shown(status: Any) -> dict[str, Any] | None:
    """The recorder's status."""
    if status is None:
        return None
    return {
        "phase": status.phase,
        "episodes": status.episodes,
        "steps": status.steps,
        "message": status.message,
        "path": status.path,
        "success": status.success,
        "problems": list(status.problems),
        "ages_s": dict(zip(status.streams, [round(float(age), 3) for age in status.ages_s], strict=True)),
    }


def robot_shown(status: Any) -> dict[str, Any] | None:
    """The simulated robot's status."""
    if status is None:
        return None
    return {
        "phase": status.phase,
        "episode": status.episode,
        "seed": status.seed,
        "step": status.step,
        "score": _number(status.score),
        "coverage": _number(status.coverage),
        "success": status.success,
    }


def chunk_shown(message: Any) -> dict[str, Any] | None:
    """What the policy plans next."""
    if message is None:
        return None
    width = max(len(message.names), 1)
    values = [round(float(value), 3) for value in message.values]
    return {
        "stamp_ns": to_ns(message.header.stamp),
        "values": [values[i : i + width] for i in range(0, len(values), width)],
    }


def _number(value: float) -> float | None:
    """For JSON, which knows no NaN."""
    return round(float(value), 4) if abs(value) < 1e12 else None
