"""Two joints commanded by setpoints at 100 Hz, for tests."""

from __future__ import annotations

from typing import Any

from dp_ros.task import ActionSpec


def action(*, reach: float = 3.0, acceleration: float | None = None, **changes: Any) -> ActionSpec:
    """Each joint from -reach to reach rad, 2 rad/s at most; `changes` replaces keys of the specification."""
    limits: dict[str, Any] = {"position": {"min": [-reach] * 2, "max": [reach] * 2}, "velocity": [2.0] * 2}
    if acceleration is not None:
        limits["acceleration"] = [acceleration] * 2
    return ActionSpec.model_validate(
        {
            "topic": "/commands",
            "type": "std_msgs/msg/Float64MultiArray",
            "output": "setpoint",
            "rate_hz": 100.0,
            "names": ["shoulder", "elbow"],
            "shape": [2],
            "limits": limits,
            **changes,
        }
    )
