"""The policy node of the fault tests, and the bounds that follow from its parameters and its task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dp_ros.bringup import Bringup, policy

from .model import CHUNK_S, RATE_HZ, make_fault_model

GRACE_S = 1.2
#: Of actions: a second of processor time may be three on a busy machine.
OVERDUE_S = 3.0
#: From a fault to standing still: the maximum age of a sample, a tick, the brake, and a second for a busy machine.
STILL_S = 2.0
assert STILL_S < CHUNK_S - 8 / RATE_HZ, "a robot that only runs its chunk to the end must not pass"
#: From a fault to the end of the goal: the same, and the grace.
END_S = STILL_S + GRACE_S + 1.0
#: Until two more chunks move the robot: twice their distance, a brake, and two seconds for a busy machine.
GOES_ON_S = 2 * 2 * 8 / RATE_HZ + 0.5 + 2.0
PARAMETERS: dict[str, bool | float | str] = {
    "stale_grace_s": GRACE_S,
    "overdue_grace_s": OVERDUE_S,
    "silent_grace_s": GRACE_S,
    "soft_start_s": 0.4,
    "deadman_required": True,
    "deadman_timeout_s": 5.0,  # a stall of the test is not a hand that lets go
    "takeover_timeout_s": 0.5,
}


def faulty_policy(folder: Path, *, use_sim_time: bool = False, **parameters: bool | float | str) -> Bringup:
    """The policy node with a model that is made in a folder."""
    model, task = make_fault_model(folder)
    (node,) = policy(model=str(model), task=str(task), engine="onnx", use_sim_time=use_sim_time).nodes
    return Bringup("faults", (replace(node, parameters={**node.parameters, **PARAMETERS, **parameters}),))
