from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticStatus

from dp_ros.bridge.clock import to_ns
from dp_ros.bridge.diagnostics import diagnostics, policy_status, setpoint_status, stream_status
from dp_ros.bridge.observations import IntakeCounts
from dp_ros.bridge.ticker import TickStatistics
from dp_ros.runtime.observation import StreamCounts

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def values(status: Any) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values}


@pytest.mark.parametrize(
    ("state", "reason", "message", "level", "text"),
    [
        ("idle", "", "", OK, "idle"),
        ("running", "", "", OK, "running"),
        ("holding", "STREAM_STALE", "image is 0.4 s old", WARN, "holding: image is 0.4 s old"),
        ("idle", "DEADMAN_RELEASED", "hold it", WARN, "idle: hold it"),
        ("idle", "EMERGENCY_STOP", "pressed", ERROR, "idle: pressed"),
    ],
)
def test_what_waits_is_a_warning_and_what_is_stopped_an_error(
    state: str, reason: str, message: str, level: bytes, text: str
) -> None:
    status = policy_status("policy", state, reason, message, {"inferences": 3, "dry_run": False})
    assert (status.name, status.level, status.message) == ("policy: policy", level, text)
    assert values(status) == {"inferences": "3", "dry_run": "False"}


@pytest.mark.parametrize(
    ("age_s", "level", "text"),
    [
        (0.05, OK, "0.050 s old"),
        (0.25, OK, "0.250 s old"),
        (0.251, WARN, "0.251 s old"),
        (None, WARN, "nothing received"),
    ],
)
def test_a_stream_is_judged_by_its_own_maximum_age(age_s: float | None, level: bytes, text: str) -> None:
    counts, intake = StreamCounts(duplicates=2), IntakeCounts(received=9, added=6, refused=3)
    status = stream_status("policy", "image", "/camera", age_s, 0.25, counts, intake)
    assert (status.name, status.level, status.message) == ("policy: stream image", level, text)
    told = values(status)
    assert told["topic"] == "/camera"
    assert told["age_s"] == ("" if age_s is None else f"{age_s:.3f}")
    assert told["max_age_s"] == "0.25"
    assert (told["received"], told["added"], told["refused"], told["duplicates"]) == ("9", "6", "3", "2")


@pytest.mark.parametrize(("missed", "level"), [(0, OK), (1, WARN)])
def test_a_missed_setpoint_is_a_warning(missed: int, level: bytes) -> None:
    status = setpoint_status("policy", TickStatistics(100.0, 5000, missed, 0.1, 0.5, 2.5))
    assert (status.name, status.level) == ("policy: setpoints", level)
    assert status.message == f"100 Hz, {missed} of 5000 missed"
    assert values(status)["jitter_max_ms"] == "2.5"


def test_diagnostics_are_stamped_with_ros_time() -> None:
    statuses = [policy_status("policy", "idle", "", "", {})]
    message = diagnostics(1_500_000_000, statuses)
    assert to_ns(message.header.stamp) == 1_500_000_000
    assert message.status == statuses
