"""The state of a policy node as `diagnostic_msgs`, for the tools that every robot's operator has.

One status for the policy, one for each stream and one for the setpoints. Easy to get wrong: what waits for a
person is a warning and what has ended a goal or forbids one is an error, or nobody looks at either.
"""

from __future__ import annotations

from collections.abc import Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from dp_ros.bridge.clock import to_stamp
from dp_ros.bridge.observations import IntakeCounts
from dp_ros.bridge.ticker import TickStatistics
from dp_ros.runtime.observation import StreamCounts
from dp_ros.runtime.supervisor import EMERGENCY_STOP

PERIOD_S = 1.0


def policy_status(
    node: str, state: str, reason: str, message: str, values: Mapping[str, object]
) -> DiagnosticStatus:
    """The policy: what it does, and why not."""
    level = DiagnosticStatus.OK
    if reason:
        level = DiagnosticStatus.ERROR if reason == EMERGENCY_STOP else DiagnosticStatus.WARN
    text = f"{state}: {message}" if message else state
    return _status(f"{node}: policy", level, text, values)


def stream_status(
    node: str,
    key: str,
    topic: str,
    age_s: float | None,
    max_age_s: float,
    counts: StreamCounts,
    intake: IntakeCounts,
) -> DiagnosticStatus:
    """One stream of observations: how old, and what became of its samples."""
    fresh = age_s is not None and age_s <= max_age_s
    age = "nothing received" if age_s is None else f"{age_s:.3f} s old"
    values = {"topic": topic, "age_s": "" if age_s is None else f"{age_s:.3f}", "max_age_s": max_age_s}
    return _status(
        f"{node}: stream {key}",
        DiagnosticStatus.OK if fresh else DiagnosticStatus.WARN,
        age,
        {**values, **vars(intake), **vars(counts)},
    )


def setpoint_status(node: str, statistics: TickStatistics) -> DiagnosticStatus:
    """The setpoints: how punctual."""
    message = f"{statistics.hz:g} Hz, {statistics.missed} of {statistics.total} missed"
    level = DiagnosticStatus.WARN if statistics.missed else DiagnosticStatus.OK
    return _status(f"{node}: setpoints", level, message, vars(statistics))


def diagnostics(now_ns: int, statuses: list[DiagnosticStatus]) -> DiagnosticArray:
    """All of them, stamped."""
    message = DiagnosticArray(status=statuses)
    message.header.stamp = to_stamp(now_ns)
    return message


def _status(name: str, level: bytes, message: str, values: Mapping[str, object]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(name=name, hardware_id="dp_ros", level=level, message=message, values=pairs)
