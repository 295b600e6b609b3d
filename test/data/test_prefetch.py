from __future__ import annotations

import threading

import pytest

from dp_ros.data.prefetch import Prefetch


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_every_step_gets_its_own_batch(depth: int) -> None:
    with Prefetch(lambda step: step * step, depth, steps=20) as ahead:
        assert [ahead.at(step) for step in range(20)] == [step * step for step in range(20)]


@pytest.mark.parametrize("depth", [0, 2])
def test_a_resumed_run_begins_anywhere_and_may_jump(depth: int) -> None:
    with Prefetch(lambda step: -step, depth, steps=100) as ahead:
        assert [ahead.at(step) for step in (50, 51, 10, 11, 12, 52, 52)] == [
            -50,
            -51,
            -10,
            -11,
            -12,
            -52,
            -52,
        ]


def test_the_next_steps_are_fetched_meanwhile_and_none_beyond_the_last() -> None:
    fetched: list[int] = []
    third = threading.Event()

    def fetch(step: int) -> int:
        fetched.append(step)
        if step == 2:
            third.set()
        return step

    with Prefetch(fetch, 2, steps=4) as ahead:
        ahead.at(0)
        assert third.wait(10)
        assert [ahead.at(step) for step in (1, 2, 3)] == [1, 2, 3]
    assert fetched == [0, 1, 2, 3]


def test_without_depth_there_is_no_thread() -> None:
    with Prefetch(lambda step: threading.current_thread(), 0, steps=1) as ahead:
        assert ahead.at(0) is threading.current_thread()


def test_what_goes_wrong_in_the_thread_is_raised() -> None:
    def fetch(step: int) -> int:
        if step == 1:
            raise OSError("disk gone")
        return step

    with Prefetch(fetch, 2, steps=5) as ahead:
        assert ahead.at(0) == 0
        with pytest.raises(OSError, match="disk gone"):
            ahead.at(1)
