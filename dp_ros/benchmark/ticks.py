"""Whether setpoints leave on time while the model computes without pause.

The policy node runs with inference back to back, takes the robot's joint states and keypoints, and sends setpoints
over DDS from a process beside it (`bridge.setpoint_loop`). A tick is due at every period of a grid that does not
drift. Its jitter is how long after that it began; a tick that would begin a whole period late or more is missed. Easy
to get wrong: of several ticks that a stall held up only one is run and has a jitter, so look at `missed` first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dp_ros.benchmark.report import Quantiles, TickResult
from dp_ros.errors import UserError
from dp_ros.task import TaskSpec
from dp_ros.task.action import ARRAY

RATES_HZ = (100.0, 500.0)
SETPOINT_TOPIC = "/bench/setpoints"


def setpoint_task(task: TaskSpec, rate_hz: float) -> TaskSpec:
    """The same task with its actions as setpoints at a rate."""
    data = task.model_dump(mode="json")
    data["action"] |= {"topic": SETPOINT_TOPIC, "type": ARRAY, "output": "setpoint", "rate_hz": rate_hz}
    return TaskSpec.from_dict(data, source=f"{task.name} at {rate_hz:g} Hz")


def tick_result(statistics: Sequence[Mapping[str, Any]], received: int, priority: int) -> TickResult:
    """What the ticker of the policy node counted.

    Args:
        statistics: as `TickStatistics`, one for each run of the policy; one with ticks is expected.
        received: setpoints that came over DDS.
        priority: of the thread that ticked, as in `Ticker`.

    Raises:
        UserError: if the ticker did not run, or setpoints did not arrive.
    """
    ran = [found for found in statistics if found["total"]]
    if len(ran) != 1:
        raise UserError(f"the policy node's ticker ran {len(ran)} times, expected one goal; see its log")
    found = ran[0]
    if received < found["total"] // 2:
        raise UserError(f"of {found['total']} setpoints only {received} arrived")
    jitter = Quantiles(found["jitter_p50_ms"], found["jitter_p99_ms"], found["jitter_max_ms"])
    return TickResult(found["hz"], found["total"] + found["missed"], found["missed"], jitter, priority)


def busy_share(inferences: Sequence[Sequence[int]]) -> float:
    """Share of the time from the first inference to the last in which one was under way.

    Args:
        inferences: (capture, begin, end) of each, ns; they do not overlap.
    """
    if not inferences:
        return 0.0
    busy_ns = sum(end - begin for _, begin, end in inferences)
    return float(busy_ns / (inferences[-1][2] - inferences[0][1]))
