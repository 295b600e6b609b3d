"""Two joints commanded by setpoints at 100 Hz, for tests."""

from __future__ import annotations

from dp_ros.task import ActionSpec


def action() -> ActionSpec:
    return ActionSpec.model_validate(
        {
            "topic": "/commands",
            "type": "std_msgs/msg/Float64MultiArray",
            "output": "setpoint",
            "rate_hz": 100.0,
            "names": ["shoulder", "elbow"],
            "shape": [2],
            "limits": {"position": {"min": [-3.0, -3.0], "max": [3.0, 3.0]}, "velocity": [2.0, 2.0]},
        }
    )
