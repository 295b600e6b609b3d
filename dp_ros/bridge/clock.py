"""ROS stamps and durations as whole nanoseconds, which is the only form of time the runtime knows.

Easy to get wrong: a message's stamp may be negative, but an rclpy `Time` may not, and making one raises.
"""

from __future__ import annotations

import functools
from typing import Any

from builtin_interfaces.msg import Duration, Time
from rclpy.time_source import TimeSource


def to_ns(stamp: Any) -> int:
    """Nanoseconds of a `builtin_interfaces/Time` or `Duration`."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def to_stamp(time_ns: int) -> Time:
    """A `builtin_interfaces/Time`."""
    return Time(sec=time_ns // 1_000_000_000, nanosec=time_ns % 1_000_000_000)


def to_duration(duration_ns: int) -> Duration:
    """A `builtin_interfaces/Duration`."""
    return Duration(sec=duration_ns // 1_000_000_000, nanosec=duration_ns % 1_000_000_000)


def ignore_negative_clock() -> None:
    """Have the nodes of this process ignore a `/clock` before time 0.

    rclpy's own subscription to /clock makes a `Time` of each message, which raises ValueError for negative seconds,
    in the executor, so that one message ends the node before it could stop its robot. Ignored, it is a clock that
    stands still, to which the nodes have their reaction. Call it before nodes are made; once is enough.
    """
    take = TimeSource.clock_callback
    if getattr(take, "ignores_negative", False):
        return

    @functools.wraps(take)
    def take_valid(self: Any, msg: Any) -> None:
        if msg.clock.sec >= 0:
            take(self, msg)
        elif (node := self._get_node()) is not None:
            node.get_logger().error(
                f"/clock says {msg.clock.sec} s, before the beginning of ROS time: ignored; "
                "is what publishes it set up right?",
                throttle_duration_sec=5.0,
            )

    take_valid.ignores_negative = True  # type: ignore[attr-defined]
    TimeSource.clock_callback = take_valid  # type: ignore[method-assign]
