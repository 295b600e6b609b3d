from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy")

from builtin_interfaces.msg import Time  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.time_source import TimeSource  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402

from dp_ros.bridge.clock import ignore_negative_clock, to_duration, to_ns, to_stamp  # noqa: E402


@pytest.mark.parametrize(
    "time_ns", [0, 1, 999_999_999, 1_000_000_000, 1_795_413_155_568_296_189, -1, -2_500_000_000]
)
def test_nanoseconds_come_back_from_stamps_and_durations(time_ns: int) -> None:
    assert to_ns(to_stamp(time_ns)) == time_ns
    assert to_ns(to_duration(time_ns)) == time_ns
    assert 0 <= to_stamp(time_ns).nanosec < 1_000_000_000


@pytest.fixture
def node(ros_domain: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(TimeSource, "clock_callback", TimeSource.clock_callback)  # put back afterwards
    ignore_negative_clock()
    rclpy.init()
    made = rclpy.create_node("sleeper", parameter_overrides=[Parameter("use_sim_time", value=True)])
    yield made
    made.destroy_node()
    rclpy.shutdown()


def tell(node: Any, sec: int, nanosec: int = 0) -> int:
    """What the node's time is after a message on /clock."""
    node._time_source._clock_sub.callback(Clock(clock=Time(sec=sec, nanosec=nanosec)))
    return int(node.get_clock().now().nanoseconds)


def test_a_clock_before_time_0_is_ignored_and_the_next_one_is_not(node: Any) -> None:
    assert tell(node, 5) == 5_000_000_000
    assert tell(node, -1, 999_999_999) == 5_000_000_000
    assert tell(node, -4000) == 5_000_000_000
    assert tell(node, 6, 1) == 6_000_000_001
    assert tell(node, 0) == 0


def test_to_ignore_it_twice_changes_nothing(node: Any) -> None:
    once = TimeSource.clock_callback
    ignore_negative_clock()
    assert TimeSource.clock_callback is once


def test_rclpy_alone_would_have_raised(ros_domain: int) -> None:
    rclpy.init()
    node = rclpy.create_node("sleeper", parameter_overrides=[Parameter("use_sim_time", value=True)])
    try:
        with pytest.raises(ValueError, match="negative"):
            getattr(TimeSource.clock_callback, "__wrapped__", TimeSource.clock_callback)(
                node._time_source, Clock(clock=Time(sec=-1))
            )
    finally:
        node.destroy_node()
        rclpy.shutdown()
