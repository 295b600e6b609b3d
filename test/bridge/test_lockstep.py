"""The barrier waits for everybody, and for the command that each says it has published."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy")

from dp_ros.bridge.clock import to_stamp
from dp_ros.bridge.lockstep import LockstepBarrier
from dp_ros.msg import LockstepDone

T = 5_000_000_000


def done(participant: str, stamp_ns: int = T, command_ns: int = 0) -> LockstepDone:
    return LockstepDone(participant=participant, stamp=to_stamp(stamp_ns), last_command=to_stamp(command_ns))


def test_time_waits_for_every_participant() -> None:
    barrier = LockstepBarrier(["policy", "recorder"])
    assert barrier.waiting_for(T) == ["policy", "recorder"]
    barrier.done_received(done("policy"))
    assert barrier.waiting_for(T) == ["recorder"]
    barrier.done_received(done("recorder"))
    assert barrier.waiting_for(T) == []


def test_time_waits_for_a_command_that_was_overtaken_by_its_announcement() -> None:
    barrier = LockstepBarrier(["policy"])
    barrier.done_received(done("policy", command_ns=T))
    assert barrier.waiting_for(T) == ["policy"]
    barrier.command_received(T)
    assert barrier.waiting_for(T) == []


def test_an_answer_for_another_time_does_not_count() -> None:
    barrier = LockstepBarrier(["policy"])
    for other in (T - 1, T + 1):
        barrier.done_received(done("policy", other))
        assert barrier.waiting_for(T) == ["policy"]


def test_a_stranger_is_not_waited_for() -> None:
    barrier = LockstepBarrier(["policy"])
    barrier.done_received(done("someone"))
    assert barrier.waiting_for(T) == ["policy"]
