from __future__ import annotations

from typing import Any

import pytest

from dp_ros.benchmark.ticks import busy_share, setpoint_task, tick_result
from dp_ros.errors import UserError
from dp_ros.task import load_task


def counted(total: int, missed: int = 0) -> dict[str, Any]:
    jitter = {"jitter_p50_ms": 0.1, "jitter_p99_ms": 0.5, "jitter_max_ms": 12.0}
    return {"hz": 100.0, "total": total, "missed": missed, **jitter}


def test_missed_ticks_were_due_as_well() -> None:
    result = tick_result([counted(0), counted(990, 10)], received=990, priority=50)
    assert (result.total, result.missed) == (1000, 10)
    assert result.jitter_ms.max == 12.0


def test_ticks_whose_setpoints_do_not_arrive_are_no_result() -> None:
    with pytest.raises(UserError, match="only 3 arrived"):
        tick_result([counted(1000)], received=3, priority=0)


def test_a_ticker_that_never_ran_is_no_result() -> None:
    with pytest.raises(UserError, match="ran 0 times"):
        tick_result([counted(0)], received=0, priority=0)


def test_the_policy_of_the_model_can_run_the_task_with_setpoints() -> None:
    task = load_task("pusht_state")
    changed = setpoint_task(task, 500.0)
    changed.require_same_policy(task)
    assert (changed.action.output, changed.action.rate_hz) == ("setpoint", 500.0)
    assert changed.action.topic != task.action.topic
    assert changed.action.limits == task.action.limits


def test_the_model_is_busy_for_the_share_of_time_in_which_inferences_are_under_way() -> None:
    assert busy_share([(0, 100, 190), (0, 200, 290), (0, 300, 400)]) == pytest.approx(280 / 300)
    assert busy_share([]) == 0.0
