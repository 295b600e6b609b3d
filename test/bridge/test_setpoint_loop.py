"""What the process that sends setpoints does at a tick, on a fake clock and a real socket."""

from __future__ import annotations

import json
import pickle
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from dp_ros.bridge.setpoint_loop import REPORTED, SetpointLoop
from dp_ros.runtime.motion.chunk import ActionChunk, ChunkSchedule
from dp_ros.runtime.motion.spline import MotionState
from dp_ros.runtime.outlet import Outlet
from dp_ros.runtime.safety import BadAction
from test.runtime.setpoint_action import action

MS = 1_000_000


class Robot:
    """Takes setpoints."""

    listeners = 1

    def __init__(self) -> None:
        self.taken: list[tuple[int, MotionState]] = []

    def publish(self, state: MotionState, now_ns: int) -> None:
        self.taken.append((now_ns // MS, state))


class Node:
    """The policy node's end of the link."""

    def __init__(self) -> None:
        self.link, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.robot = Robot()
        self.loop = SetpointLoop(action(), other, self.robot)
        self.other = other
        self.schedule = ChunkSchedule(action())
        self.outlet = Outlet(action(), self.schedule)
        self.outlet.on_change = self._tell

    def _tell(self) -> None:
        self.link.send(pickle.dumps(self.outlet.hand_over()))

    def command(self, start_ms: int) -> None:
        """A chunk of 1.6 s that moves at 0.5 a second."""
        steps = 0.05 * np.arange(16)[:, None] * [1.0, -1.0]
        self.schedule.splice(ActionChunk(start_ms * MS, 100 * MS, steps, start_ms * MS))
        self.outlet.open(start_ms * MS)

    def tick(self, from_ms: int, to_ms: int) -> None:
        for time_ms in range(from_ms, to_ms, 10):
            self.loop.note(0, 0)
            self.loop.tick(time_ms * MS)

    def reports(self) -> list[Any]:
        self.link.setblocking(False)
        found = []
        while True:
            try:
                found.append(json.loads(self.link.recv(1 << 20)))
            except BlockingIOError:
                return found


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    yield made
    made.link.close()
    made.other.close()


def test_what_is_handed_over_before_a_tick_is_in_force_in_it(node: Node) -> None:
    node.tick(900, 1000)
    assert not node.robot.taken
    node.command(1000)
    node.tick(1000, 1500)
    assert [ms for ms, _ in node.robot.taken] == list(range(1000, 1500, 10))
    assert node.robot.taken[-1][1].position == pytest.approx([0.245, -0.245], abs=0.02)
    node.outlet.close()
    node.tick(1500, 1600)
    assert node.robot.taken[-1][0] == 1490, "closed within one tick"


def test_of_several_changes_the_newest_counts(node: Node) -> None:
    node.command(1000)
    node.outlet.close()
    node.tick(1000, 1100)
    assert not node.robot.taken


def test_when_the_node_is_gone_the_motion_is_braked_and_ends(node: Node) -> None:
    node.command(1000)
    node.tick(1000, 1500)
    node.link.close()
    node.tick(1500, 4000)
    assert node.loop.orphaned
    last_ms, last = node.robot.taken[-1]
    assert not last.velocity.any()
    assert last.position[0] < 0.5, "braked, and not gone on to the end of the chunk at 0.75"
    assert last_ms < 2500
    assert node.loop.outlet.rest_in_s(4000 * MS) == 0.0


def test_what_was_handed_over_last_is_what_an_orphan_brakes_along(node: Node) -> None:
    node.command(1000)
    node.link.close()
    node.tick(1000, 3000)
    assert node.robot.taken, "the setpoint at which it stands still"
    assert not node.robot.taken[-1][1].velocity.any()


def test_lateness_and_gate_are_reported_and_nothing_is_lost_while_nobody_reads(node: Node) -> None:
    for k in range(4 * REPORTED):
        node.loop.note(k, 0)
        node.loop.tick(1000 * MS + k * 10 * MS)
    late = [tick for report in node.reports() for tick in report["late"]]
    while len(late) < 4 * REPORTED:
        node.loop.report()
        more = [tick for report in node.reports() for tick in report["late"]]
        assert more
        late += more
    assert late == [[k, 0] for k in range(4 * REPORTED)]


def test_a_setpoint_that_is_not_finite_is_not_sent(node: Node) -> None:
    node.command(1000)
    node.tick(1000, 1100)
    sent = len(node.robot.taken)
    bad = MotionState.at_rest([np.nan, 0.0])
    node.loop.outlet.setpoint = lambda now_ns: bad  # type: ignore[method-assign]
    with pytest.raises(BadAction, match="nothing was sent"):
        node.loop.tick(1100 * MS)
    assert len(node.robot.taken) == sent
