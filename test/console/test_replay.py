"""A replay that a page asked for: a robot that follows, a page that is there or not, a hand; a fake clock."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dp_ros.console.replay import PageReplay
from dp_ros.runtime.operator import OperatorMotion
from dp_ros.task import TaskSpec, load_task

TICK_NS = 50_000_000
TICK_S = TICK_NS / 1e9
Floats = npt.NDArray[np.float64]


def task(**changed: Any) -> TaskSpec:
    data = load_task("pusht_state").model_dump()
    data["action"]["state"] = "agent_pos"
    data["action"]["limits"]["tracking_error"] = [20.0, 20.0]
    return TaskSpec.from_dict(data | changed)


LINE = np.stack([np.linspace(100.0, 160.0, 20), np.full(20, 100.0)], axis=1)


class Stage:
    """A hand, a replay, and a robot that is where it was commanded to be, unless told otherwise."""

    def __init__(self) -> None:
        self.now_s, self.robot, self.follows, self.watched = 5.0, np.array([100.0, 100.0]), True, True
        self.spec = task()
        self.hand = self.commanding = OperatorMotion(self.spec, tick_s=TICK_S)
        self.replay = PageReplay(self.spec, self.hand, self.use, silence_s=0.3, clock=lambda: self.now_s)

    def use(self, motion: OperatorMotion) -> None:
        self.commanding = motion

    def tick(self) -> None:
        self.now_s += TICK_S
        now_ns = round(self.now_s * 1e9)
        if self.watched:
            self.replay.here()
        self.replay.tick(now_ns, self.robot, now_ns)
        state = self.commanding.tick(now_ns, self.robot)
        if state is not None and self.follows:
            self.robot = state.position.copy()

    def until_over(self) -> dict[str, Any]:
        for _ in range(400):
            self.tick()
            if not self.replay.active:
                assert self.replay.state is not None and not self.replay.state["active"]
                return self.replay.state
        raise AssertionError(f"still {self.replay.state}")

    def begin(self, commands: Floats = LINE, **changed: Any) -> None:
        self.replay.begin(4, task(**changed), commands, 1.0)


def test_the_robot_follows_the_episode_and_the_hand_has_it_again_afterwards() -> None:
    stage = Stage()
    stage.begin()
    assert stage.replay.active and stage.commanding is not stage.hand
    state = stage.until_over()
    assert (state["episode"], state["phase"], state["problem"]) == (4, "done", "")
    assert (state["seconds"], state["progress_s"]) == (2.0, 1.9)
    assert stage.robot == pytest.approx(LINE[-1], abs=0.5)
    assert stage.commanding is stage.hand


def playing() -> Stage:
    stage = Stage()
    stage.begin()
    while stage.replay.state["progress_s"] < 0.5:  # type: ignore[index]
        stage.tick()
    return stage


def test_a_page_that_is_silent_stops_it_within_the_time_that_a_hand_has() -> None:
    stage = playing()
    stage.watched = False
    for _ in range(5):
        stage.tick()
    assert stage.replay.state["phase"] == "playing"  # type: ignore[index]
    stage.tick()
    stage.tick()
    state = stage.until_over()
    assert state["phase"] == "failed" and "is silent" in state["problem"]
    assert stage.robot[0] < 140.0


def test_a_stop_brings_it_to_rest_before_the_hand_commands() -> None:
    stage = playing()
    stage.replay.stop("a hand took over")
    assert stage.replay.active and stage.commanding is not stage.hand
    state = stage.until_over()
    assert state["problem"] == "a hand took over" and not stage.commanding.is_commanding
    stage.replay.stop("again")  # nobody replays
    assert stage.replay.state is state


def test_a_robot_that_does_not_follow_is_not_sent_on() -> None:
    stage = playing()
    stage.follows = False
    assert "limits.tracking_error allows 20" in stage.until_over()["problem"]


def test_a_robot_that_is_put_elsewhere_is_commanded_nothing_more() -> None:
    stage = playing()
    replaying = stage.commanding
    stage.replay.abandon("the robot was put elsewhere")
    assert not stage.replay.active and stage.commanding is stage.hand and not replaying.is_commanding


def test_what_cannot_be_replayed_is_refused_and_nothing_moves() -> None:
    stage = Stage()
    other = load_task("pusht_state").model_dump()["action"] | {"names": ["x", "y"], "state": None}
    for commands, changed, problem in (
        (LINE, {"rate_hz": 20.0}, "recorded at 20 Hz, the task says 10"),
        (LINE, {"action": other}, "the episode commands x, y, this robot agent_x, agent_y"),
        (np.full((3, 2), np.nan), {}, "not finite"),
        (np.zeros((3, 5)), {}, "another number of values"),
        (LINE[:0], {}, "no commands"),
    ):
        with pytest.raises(ValueError, match=problem):
            stage.begin(commands, **changed)
        assert not stage.replay.active and stage.commanding is stage.hand
    stage.hand.drive([1.0, 0.0], round(stage.now_s * 1e9) + TICK_NS)
    stage.tick()
    with pytest.raises(ValueError, match="the robot is being moved; let go first"):
        stage.begin()
    stage = playing()
    with pytest.raises(ValueError, match="an episode is being replayed"):
        stage.begin()
