"""The process that sends setpoints in simulated time: a real process on a real /clock, which the test advances.

Every stamp is known beforehand: the clock advances in steps of one period, and the next step waits for the setpoint
of the one before. Easy to get wrong: the node here hears /clock as well, and commands by it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.parameter import Parameter  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402

from dp_ros.bridge.clock import ignore_negative_clock, to_ns, to_stamp  # noqa: E402
from dp_ros.bridge.qos import reliable_qos  # noqa: E402
from dp_ros.bridge.setpoint_loop import REST_S, STANDSTILL_S  # noqa: E402
from dp_ros.runtime.motion.chunk import ActionChunk  # noqa: E402
from test.bridge.setpoint_bench import LIMIT_S, SetpointBench  # noqa: E402
from test.runtime.setpoint_action import action  # noqa: E402

#: In which nothing may come, wall time: 20 periods.
SILENCE_S = 0.2
PERIOD_NS = 10_000_000
SECOND_NS = 1_000_000_000
SPEED = 0.5
VELOCITY, ACCELERATION = 2.0, 20.0


#: Stamp, position and velocity.
Setpoint = tuple[int, npt.NDArray[np.float64], npt.NDArray[np.float64]]


def read(message: JointState) -> Setpoint:
    return to_ns(message.header.stamp), np.array(message.position), np.array(message.velocity)


class Bench(SetpointBench[Setpoint]):
    """And a simulation's clock."""

    def __init__(self, kind: str = "position") -> None:
        rclpy.init()
        ignore_negative_clock()
        node = rclpy.create_node("policy", parameter_overrides=[Parameter("use_sim_time", value=True)])
        self.clock_pub = node.create_publisher(Clock, "/clock", reliable_qos())
        spec = action(reach=9.0, acceleration=ACCELERATION, type="sensor_msgs/msg/JointState", command=kind)
        super().__init__(node, spec, "/commands", JointState, read)
        self.time_ns = 0
        self.start()
        self.process = self.setpoints._process
        self.until(lambda: self.clock_pub.get_subscription_count() == 2, "both to listen to /clock")

    def set_clock(self, now_ns: int) -> None:
        """Publish a time; returns once this node has it."""
        self.time_ns = now_ns
        self.clock_pub.publish(Clock(clock=to_stamp(now_ns)))
        self.until(lambda: self.node.get_clock().now().nanoseconds == now_ns, "the clock")

    def advance(self, periods: int, *, silent: bool = False) -> None:
        """Advance the clock period by period, each with its setpoint."""
        for _ in range(periods):
            self.set_clock(self.time_ns + PERIOD_NS)
            if not silent:
                self.until(lambda: self.heard and self.heard[-1][0] == self.time_ns, "the setpoint for now")

    def begin(self, start_ns: int = 100 * SECOND_NS) -> None:
        """Start the clock, and a motion of 1.5 s that is under way on return."""
        self.set_clock(start_ns)
        while not self.stream.listeners:  # type: ignore[union-attr]
            self.advance(1, silent=True)
            self.executor.spin_once(timeout_sec=0.02)
        begin_ns = self.time_ns + 5 * PERIOD_NS
        steps = 0.1 * SPEED * np.arange(16)[:, None] * [1.0, -1.0]
        if self.action.is_velocity:
            steps = np.full((16, 2), SPEED)
        self.schedule.splice(ActionChunk(begin_ns, 10 * PERIOD_NS, steps, begin_ns))
        self.outlet.open(begin_ns)
        while self.time_ns < begin_ns:
            self.advance(1, silent=True)
        self.until(lambda: self.heard, "the first setpoint")
        self.advance(40)

    def expect_silence(self) -> None:
        """Nothing is sent while the clock is what it is."""
        count = len(self.heard)
        self.listen()
        assert len(self.heard) == count

    def listen(self) -> None:
        """Take what was sent and is under way."""
        end_s = time.monotonic() + SILENCE_S
        while time.monotonic() < end_s:
            self.executor.spin_once(timeout_sec=0.02)

    def lose_node(self) -> None:
        """As for the process the node's death is: its end of the link is gone."""
        self.setpoints._closing = True
        self.setpoints._link.shutdown(socket.SHUT_RDWR)

    def positions(self) -> npt.NDArray[np.float64]:
        return np.array([position for _, position, _ in self.heard])

    def close(self) -> None:
        super().close()
        assert self.process.poll() is not None
        rclpy.shutdown()


@pytest.fixture
def bench(ros_domain: int) -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def assert_within_limits(positions: npt.NDArray[np.float64]) -> None:
    """Positions (n, 2) one period apart: as fast and as sudden as the task allows."""
    period_s = PERIOD_NS / 1e9
    velocities = np.diff(positions, axis=0) / period_s
    assert np.abs(velocities).max() <= VELOCITY * 1.001
    assert np.abs(np.diff(velocities, axis=0) / period_s).max() <= ACCELERATION * 1.001


def test_setpoints_follow_simulated_time_and_stand_still_with_it(bench: Bench) -> None:
    bench.begin()
    first_ns = bench.heard[0][0]
    assert [stamp_ns for stamp_ns, _, _ in bench.heard] == list(range(first_ns, bench.time_ns + 1, PERIOD_NS))
    for stamp_ns, position, velocity in bench.heard:
        wanted = bench.schedule.state_at(stamp_ns)
        assert wanted is not None
        assert np.allclose(position, wanted.position, atol=1e-9)
        assert np.allclose(velocity, wanted.velocity, atol=1e-9)
    assert np.ptp(bench.positions()) > 0.1, "it moves"
    bench.expect_silence()
    bench.set_clock(bench.time_ns)
    bench.expect_silence()  # the same time again is no time that has passed
    bench.advance(3)
    assert_within_limits(bench.positions())


def test_a_clock_in_large_steps_gives_one_setpoint_for_each(bench: Bench) -> None:
    bench.begin()
    bench.heard.clear()
    for _ in range(10):
        bench.set_clock(bench.time_ns + 5 * PERIOD_NS)
        bench.until(lambda: bench.heard and bench.heard[-1][0] == bench.time_ns, "the setpoint for now")
    assert len(bench.heard) == 10
    statistics = bench.stream.statistics  # type: ignore[union-attr]
    bench.until(lambda: statistics().missed >= 4 * 9, "the missed ticks to be reported")  # type: ignore[union-attr]


def test_after_a_reset_of_the_clock_nothing_is_sent_until_the_node_says_how_to_go_on(bench: Bench) -> None:
    """The reaction to CLOCK_JUMP in docs/safety.md: the goal ends, braked along the path, in the new time."""
    bench.begin()
    before_ns = bench.time_ns
    bench.set_clock(10 * SECOND_NS)
    bench.advance(5, silent=True)
    bench.expect_silence()
    stopped = len(bench.heard)
    bench.outlet.shift(bench.time_ns - before_ns)
    rest_ns = bench.outlet.brake(bench.time_ns + PERIOD_NS, end=True)
    assert rest_ns < 11 * SECOND_NS
    bench.advance(1)
    while bench.time_ns < rest_ns:
        bench.advance(1)
    after = bench.heard[stopped:]
    assert all(10 * SECOND_NS < stamp_ns <= bench.time_ns for stamp_ns, _, _ in after)
    assert not after[-1][2].any(), "at rest"
    assert_within_limits(bench.positions())  # across the reset as well
    bench.advance(25, silent=True)
    bench.listen()
    assert bench.heard[-1][0] <= rest_ns + 21 * PERIOD_NS, "0.2 s after the rest there are no more"
    assert not bench.errors


def test_a_clock_before_time_0_is_ignored(bench: Bench) -> None:
    """Of which rclpy's own subscription would die, and the process with it, in the middle of a motion."""
    bench.begin()
    bench.clock_pub.publish(Clock(clock=to_stamp(-5 * SECOND_NS)))
    bench.expect_silence()
    bench.advance(5)
    assert not bench.errors


def test_without_its_node_it_brakes_in_simulated_time_and_ends(bench: Bench) -> None:
    bench.begin()
    lost = bench.positions()[-1]
    bench.lose_node()
    end_s = time.monotonic() + LIMIT_S
    while bench.process.poll() is None:
        assert time.monotonic() < end_s, "the process did not end"
        bench.set_clock(bench.time_ns + PERIOD_NS)
        bench.executor.spin_once(timeout_sec=0.005)
    bench.until(lambda: bench.heard[-1][0] > bench.time_ns - SECOND_NS, "the last setpoints")
    assert not bench.heard[-1][2].any(), "at rest"
    way = np.abs(bench.positions()[-1] - lost).max()
    assert 0.0 < way < 0.1, "braked along the path, and not gone on to its end at 0.75"


@pytest.mark.parametrize("kind", ["position", "velocity"])
def test_without_its_node_it_does_not_wait_for_a_clock_that_stands_still(ros_domain: int, kind: str) -> None:
    bench = Bench(kind)
    try:
        bench.begin()
        last, begun_s = bench.heard[-1], time.monotonic()
        bench.lose_node()
        bench.until(lambda: bench.process.poll() is not None, "its end")
        assert STANDSTILL_S <= time.monotonic() - begun_s < REST_S
        bench.until(lambda: not bench.heard[-1][2].any(), "the command to stop")
        if kind == "position":
            assert np.array_equal(bench.heard[-1][1], last[1]), "it stays where it is"
        assert last[2].any(), "it moved"
    finally:
        bench.close()


def test_a_tick_that_fails_stops_the_robot_once(ros_domain: int) -> None:
    """A velocity would last; and the end of the process, later, sends nothing more."""
    bench = Bench("velocity")
    try:
        bench.begin()
        assert bench.heard[-1][2].any(), "it moves"
        bench.setpoints._link.send(b"no handover")
        bench.advance(1, silent=True)
        bench.until(lambda: bench.errors, "the error")
        bench.until(lambda: not bench.heard[-1][2].any(), "the command to stop")
        bench.advance(5, silent=True)
        bench.lose_node()
        bench.until(lambda: bench.process.poll() is not None, "its end")
        bench.expect_silence()
        assert [velocity.any() for _, _, velocity in bench.heard[-2:]] == [True, False]
    finally:
        bench.close()
