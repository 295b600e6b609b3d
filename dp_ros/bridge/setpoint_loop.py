"""The process that sends setpoints: it takes over what is commanded, ticks, and does nothing else.

    python -m dp_ros.bridge.setpoint_loop FD      # started by `bridge.setpoint_process`, FD is its socket

A process of its own has an interpreter lock of its own, so that neither images nor plans nor publications of the
policy node hold a setpoint up. What the node's outlet hands over is taken at the beginning of a tick and in force in
it; lateness and what the gate did go back every 50 ms. Easy to get wrong: when the node is gone, however it went, the
socket closes, and the robot has to be brought to rest along what was commanded last; in simulated time that takes
somebody who goes on listening to /clock.
"""

from __future__ import annotations

import contextlib
import json
import math
import pickle
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from dp_ros.bridge.clock import ignore_negative_clock
from dp_ros.bridge.outputs import SetpointOutput, make_output
from dp_ros.bridge.ticker import Ticker, prompt_interpreter
from dp_ros.errors import UserError
from dp_ros.runtime.motion.chunk import ChunkSchedule
from dp_ros.runtime.motion.spline import MotionState
from dp_ros.runtime.outlet import Handover, Outlet
from dp_ros.runtime.safety import BadAction
from dp_ros.task import ActionSpec

#: How long the robot is given to come to rest when the node is gone.
REST_S = 10.0
#: Simulated time that stands still for so long when the node is gone is not waited for: nothing moves in it.
STANDSTILL_S = 1.0
#: How long the message that stops the robot is given to arrive.
DELIVERY_S = 0.5
#: Between two reports.
REPORT_NS = 50_000_000
#: Ticks in one report, so that it stays small.
REPORTED = 500
#: Longest message.
MESSAGE_BYTES = 1 << 22
#: How soon the end of the node is noticed where simulated time has to be listened to.
LISTEN_S = 0.1
#: How soon the end of the motion is noticed.
POLL_S = 0.02


@dataclass(frozen=True)
class Settings:
    """The first message: what to send, and how.

    Attributes:
        action: with the names of topics resolved.
        node: name of the node.
        namespace: of the node.
        dry_run: publish nothing.
        realtime_priority: of the ticking thread.
        use_sim_time: follow /clock.
        ros_arguments: of the process, such as its security enclave.
    """

    action: dict[str, Any]
    node: str
    namespace: str
    dry_run: bool
    realtime_priority: int
    use_sim_time: bool
    ros_arguments: list[str]


class Publisher(Protocol):
    """Sends a setpoint."""

    @property
    def listeners(self) -> int:
        """How many it reaches."""

    def publish(self, state: MotionState, now_ns: int) -> None:
        """Send it with this stamp."""


class SetpointLoop:
    """What is done at each tick.

    Args:
        action: what is commanded.
        link: connected, keeps messages apart; from the policy node.
        output: None in a dry run.
    """

    def __init__(self, action: ActionSpec, link: socket.socket, output: Publisher | None) -> None:
        self._link, self._output = link, output
        self.outlet = Outlet(action, ChunkSchedule(action))
        self._late: list[tuple[int, int]] = []
        self._reported_ns = 0
        self._orphaned = False

    @property
    def orphaned(self) -> bool:
        """Whether the policy node is gone, so that the motion is being brought to rest."""
        return self._orphaned

    def note(self, late_ns: int, skipped: int) -> None:
        """Remember a tick for the next report."""
        self._late.append((late_ns, skipped))

    def tick(self, now_ns: int) -> None:
        """Take over what has changed, send a setpoint if there is one; raises BadAction."""
        self.listen(now_ns)
        state = self.outlet.setpoint(now_ns)
        if state is not None:
            if not np.isfinite(state.position).all():
                raise BadAction(f"the setpoint is {state.position.tolist()}; nothing was sent")
            if self._output is not None:
                self._output.publish(state, now_ns)
        if not 0 <= now_ns - self._reported_ns < REPORT_NS:
            self._reported_ns = now_ns
            self.report()

    def listen(self, now_ns: int) -> None:
        """Take over the newest that has been handed over; where nobody can any more, begin to brake."""
        if self._orphaned:
            return
        newest = b""
        with contextlib.suppress(BlockingIOError):
            while message := self._receive():
                newest = message
            self._orphaned = True
        if newest:
            handover: Handover = pickle.loads(newest)
            self.outlet.take(handover)
        if self._orphaned and math.isinf(self.outlet.rest_in_s(now_ns)):
            self.outlet.brake(now_ns, end=True)

    def _receive(self) -> bytes:
        """A message, empty if the other end is gone; raises BlockingIOError if there is none."""
        try:
            return self._link.recv(MESSAGE_BYTES, socket.MSG_DONTWAIT)
        except ConnectionError:
            return b""

    def report(self, **more: Any) -> None:
        """Tell the policy node how late the ticks were and what the gate did; never waits, and loses nothing."""
        late, rest = self._late[:REPORTED], self._late[REPORTED:]
        content = {
            "late": late,
            "counts": self.outlet.counts(),
            "limiting": sorted(self.outlet.limiting),
            "listeners": 0 if self._output is None else self._output.listeners,
        }
        try:
            self._link.send(json.dumps(content | more).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except (BlockingIOError, ConnectionError):
            return
        self._late = rest


def run(link: socket.socket, settings: Settings) -> int:
    """Tick until the policy node is gone and the robot at rest."""
    rclpy.init(args=settings.ros_arguments, signal_handler_options=SignalHandlerOptions.NO)
    ignore_negative_clock()
    node = rclpy.create_node(
        settings.node,
        namespace=settings.namespace,
        enable_rosout=False,
        start_parameter_services=False,
        parameter_overrides=[Parameter("use_sim_time", value=settings.use_sim_time)],
    )
    action = ActionSpec.model_validate(settings.action)
    output = None if settings.dry_run else make_output(node, action)
    assert output is None or isinstance(output, SetpointOutput)
    assert action.rate_hz is not None
    loop, failed = SetpointLoop(action, link, output), threading.Event()

    def stop_robot() -> None:
        """Where nothing brakes any more: what was sent last, a velocity above all, lasts until another is sent.

        The output knows whether anything was sent since the last time, so that one stop is sent however often.
        """
        if output is not None:
            output.stop(node.get_clock().now().nanoseconds)
            output.delivered(DELIVERY_S)

    def on_error(error: Exception) -> None:
        loop.report(error=[type(error).__name__, str(error)])
        failed.set()
        stop_robot()

    ticker = Ticker(
        loop.tick,
        action.rate_hz,
        node.get_clock(),
        on_error,
        realtime_priority=settings.realtime_priority,
        note=loop.note,
    )
    rested = False
    try:
        with prompt_interpreter():
            try:
                ticker.start()
            except UserError as error:
                loop.report(refused=str(error))
                return 2
            loop.report(ready=True, priority=ticker.priority)
            if settings.use_sim_time:
                wait = _listening_to_clock(node)
                _wait_for_end(link, wait)
            else:
                wait = failed.wait
                _wait_for_end(link, None)
            rested = _wait_for_rest(loop, node.get_clock(), wait, failed)
    finally:
        ticker.stop()
        if not rested:
            stop_robot()
        if output is not None:
            output.destroy()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _listening_to_clock(node: Any) -> Callable[[float], object]:
    """What waits for so many seconds, or less, and takes /clock meanwhile."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    return lambda seconds: executor.spin_once(timeout_sec=seconds)


def _wait_for_end(link: socket.socket, wait: Callable[[float], object] | None) -> None:
    """Return when the other end of the link is closed; without something to do meanwhile this costs no time at all."""
    poller = select.poll()
    poller.register(link, 0)  # nothing but its end: messages are the ticking thread's
    if wait is None:
        poller.poll()
        return
    while not poller.poll(0):
        wait(LISTEN_S)


def _wait_for_rest(
    loop: SetpointLoop, clock: Any, wait: Callable[[float], object], failed: threading.Event
) -> bool:
    """Wait until the ticks have brought the robot to rest; False if they do not: they failed, or time stands still."""
    begun_s = advanced_s = time.monotonic()
    last_ns = -1
    while not failed.is_set() and time.monotonic() < begun_s + REST_S:
        now_ns = clock.now().nanoseconds
        if now_ns != last_ns:
            last_ns, advanced_s = now_ns, time.monotonic()
        if loop.orphaned and loop.outlet.rest_in_s(now_ns) == 0.0:
            return True
        if time.monotonic() > advanced_s + STANDSTILL_S:
            return False
        wait(POLL_S)
    return False


def main() -> int:
    """Run on the socket whose number is the first argument."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends after the node, which has last words
    link = socket.socket(fileno=int(sys.argv[1]))
    return run(link, Settings(**json.loads(link.recv(MESSAGE_BYTES))))


if __name__ == "__main__":
    raise SystemExit(main())
