"""ROS stamps and durations as whole nanoseconds, which is the only form of time the runtime knows."""

from __future__ import annotations

from typing import Any

from builtin_interfaces.msg import Duration, Time


def to_ns(stamp: Any) -> int:
    """Nanoseconds of a `builtin_interfaces/Time` or `Duration`."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def to_stamp(time_ns: int) -> Time:
    """A `builtin_interfaces/Time`."""
    return Time(sec=time_ns // 1_000_000_000, nanosec=time_ns % 1_000_000_000)


def to_duration(duration_ns: int) -> Duration:
    """A `builtin_interfaces/Duration`."""
    return Duration(sec=duration_ns // 1_000_000_000, nanosec=duration_ns % 1_000_000_000)
