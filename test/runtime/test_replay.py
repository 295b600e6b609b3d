"""A recorded episode on a robot that follows, does not follow, or is not there any more; a fake clock."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dp_ros.runtime.motion.limits import MotionLimits
from dp_ros.runtime.operator import OperatorMotion
from dp_ros.runtime.replay import EpisodeReplay, commands_of
from dp_ros.task import TaskSpec, load_task

TICK_NS = 50_000_000
TICK_S = TICK_NS / 1e9
START = np.array([100.0, 400.0])
Floats = npt.NDArray[np.float64]


def task(**limits: Any) -> TaskSpec:
    data = load_task("pusht_state").model_dump()
    data["action"]["limits"] |= limits
    data["action"]["state"] = "agent_pos"
    return TaskSpec.from_dict(data)


def circle(n: int = 60) -> Floats:
    turn = np.linspace(0.0, 2 * np.pi, n)
    return np.stack([256 + 80 * np.cos(turn), 256 + 80 * np.sin(turn)], axis=1)


class Stage:
    """A replay and a robot that is where it was commanded to be, unless told otherwise."""

    def __init__(self, spec: TaskSpec, commands: Floats, **options: Any) -> None:
        self.spec = spec
        self.motion = OperatorMotion(
            spec, tick_s=TICK_S, speed_scale=0.1, timeout_s=1.0, hold_s=options.pop("hold_s", 0.5)
        )
        self.replay = EpisodeReplay(spec, commands, self.motion, **options)
        self.robot: Floats | None = START.copy()
        self.follows, self.now_ns = True, 10 * TICK_NS
        self.path: list[tuple[str, Floats, Floats]] = []

    def tick(self) -> None:
        self.now_ns += TICK_NS
        self.replay.tick(self.now_ns, self.robot, self.now_ns)
        state = self.motion.tick(self.now_ns, self.robot)
        if state is not None:
            self.path.append((self.replay.phase, state.position, state.velocity))
            if self.follows and self.robot is not None:
                self.robot = state.position.copy()

    def run(self, ticks: int = 4000) -> None:
        for _ in range(ticks):
            self.tick()
            if self.replay.phase in ("done", "failed") and not self.motion.is_moving:
                return
        raise AssertionError(f"still {self.replay.phase}")


def test_it_goes_to_the_beginning_slowly_and_then_along_the_episode() -> None:
    stage = Stage(task(), circle())
    stage.run()
    assert stage.replay.phase == "done"
    slow = np.array([velocity for phase, _, velocity in stage.path if phase == "approach"])
    limits = MotionLimits.of(stage.spec.action)
    assert (np.abs(slow) <= 0.1 * limits.velocity + 1e-9).all()
    played = np.array([position for phase, position, _ in stage.path if phase in ("playing", "stopping")])
    want = circle()
    assert len(played) == pytest.approx(2 * len(want), abs=4)  # two ticks a step
    for k in range(5, 55):
        assert np.abs(played[2 * k - 1] - want[k]).max() < 2.0, k
    assert stage.path[-1][1] == pytest.approx(want[-1], abs=0.5)
    assert stage.replay.progress_s == pytest.approx(5.9)


def test_half_the_speed_takes_twice_the_time() -> None:
    lengths = []
    for speed in (1.0, 0.5):
        stage = Stage(task(), circle(), speed=speed)
        stage.run()
        lengths.append(sum(phase == "playing" for phase, _, _ in stage.path))
    assert lengths[1] == pytest.approx(2 * lengths[0], abs=4)


def test_jumps_in_the_recording_are_bounded_by_the_limits_of_the_task() -> None:
    spec = task(velocity=[200.0, 200.0])
    jumping = circle()
    jumping[30:] = [500.0, 20.0]
    stage = Stage(spec, jumping)
    stage.run()
    assert stage.replay.phase == "done"
    assert max(np.abs(velocity).max() for _, _, velocity in stage.path) <= 200.0
    positions = np.array([position for _, position, _ in stage.path])
    assert np.abs(np.diff(positions, axis=0)).max() <= 200.0 * TICK_S + 1e-9


@pytest.mark.parametrize("phase", ["approach", "playing"])
def test_a_robot_that_does_not_follow_is_not_sent_on(phase: str) -> None:
    stage = Stage(task(tracking_error=[20.0, 20.0]), circle())
    while stage.replay.phase != phase or not stage.motion.is_moving:
        stage.tick()
    stage.follows = False
    stage.run()
    assert stage.replay.phase == "failed"
    assert "away from its command, limits.tracking_error allows 20" in stage.replay.problem
    assert not stage.motion.is_moving


def test_a_robot_that_is_not_measured_any_more_is_stopped() -> None:
    stage = Stage(task(), circle())
    while stage.replay.phase != "playing":
        stage.tick()
    stage.robot = None
    stage.run()
    assert stage.replay.phase == "failed" and "no fresh sample of its state" in stage.replay.problem
    assert len(stage.path) < 4000 and not stage.path[-1][2].any()


def test_a_stop_counts_to_the_very_end() -> None:
    stage = Stage(task(), circle())
    while stage.replay.phase != "stopping":
        stage.tick()
    stage.robot = None
    stage.run(20)
    assert stage.replay.phase == "failed" and "no fresh sample of its state" in stage.replay.problem


def test_told_to_stop_it_brakes_and_says_why() -> None:
    stage = Stage(task(), circle())
    while stage.replay.phase != "playing":
        stage.tick()
    stage.replay.stop("the emergency stop was pressed")
    stage.run(20)
    assert (stage.replay.phase, stage.replay.problem) == ("failed", "the emergency stop was pressed")


def test_a_robot_that_is_held_does_not_approach_for_ever() -> None:
    first = np.tile([[256.0, 256.0]], (5, 1))
    boxed = task(keep_out=[{"names": ["agent_x"], "min": [150.0], "max": [200.0]}])
    stage = Stage(boxed, first)
    stage.run()
    assert stage.replay.phase == "failed" and "was not reached within 60 s" in stage.replay.problem
    assert max(position[0] for _, position, _ in stage.path) <= 150.0


def test_grippers_keep_their_commands_and_are_never_between() -> None:
    data = task().model_dump()
    gripper = {"name": "agent_y", "close_above": 300.0, "open_below": 200.0, "open": 10.0, "closed": 500.0}
    data["action"] |= {"grippers": [gripper], "topic": "/other"}
    spec = TaskSpec.from_dict(data)
    actions = np.stack([np.linspace(100, 300, 40), np.where(np.arange(40) < 20, 0.0, 400.0)], axis=1)
    commands = commands_of(spec, actions)
    assert set(commands[:, 1]) == {10.0, 500.0}
    stage = Stage(spec, commands)
    stage.robot = np.array([100.0, np.nan])
    stage.follows = False
    stage.run()
    assert stage.replay.phase == "done"
    assert {position[1] for _, position, _ in stage.path} == {10.0, 500.0}


def test_what_cannot_be_replayed_is_said() -> None:
    motion = OperatorMotion(task(), tick_s=TICK_S)
    with pytest.raises(ValueError, match="has no commands"):
        EpisodeReplay(task(), np.empty((0, 2)), motion)
    with pytest.raises(ValueError, match="speed: got 0"):
        EpisodeReplay(task(), circle(), motion, speed=0.0)
