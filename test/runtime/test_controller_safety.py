"""The closed loop under supervision, with a fake clock: what is commanded while something is wrong, and after."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dp_ros.runtime.controller import Controller, Stop, Tick
from dp_ros.runtime.execution import Execution, InferenceRequest
from dp_ros.runtime.motion.chunk import ActionChunk
from dp_ros.runtime.supervisor import SafetyOptions
from dp_ros.sim.trajectory_controller import Trajectory, TrajectoryController
from dp_ros.task import TaskSpec, load_task

DT = 100_000_000
T0 = 10_000_000_000
TICK = 20_000_000


def arm_task(**action: Any) -> TaskSpec:
    data = load_task("pusht_state").model_dump(mode="json")
    data["action"].update(state="agent_pos", **action)
    data["action"]["limits"].update(tracking_error=[30.0, 30.0])
    return TaskSpec.from_dict(data)


class Robot:
    """A robot that follows its commands, in front of a policy that moves it at 50 units a second; ticks at 50 Hz."""

    def __init__(self, inference_s: float = 0.05, **options: Any) -> None:
        self.task = options.pop("task", None) or arm_task()
        self.controller = Controller(self.task, immediate=False, **options)
        self.now_ns = T0
        self.position = np.array([100.0, 100.0])
        self.follows = self.publishes = True
        self.jump_ns = 0
        self.inference_ns = round(inference_s * 1e9)
        self.pending: tuple[int, InferenceRequest] | None = None
        self.commanded: list[tuple[int, np.ndarray | None]] = []
        self.chunks: list[ActionChunk] = []
        for _ in range(10):
            self.step()

    def start(self) -> None:
        self.controller.start(self.ros_ns, seed=1, time_limit_s=60.0)

    @property
    def ros_ns(self) -> int:
        return self.now_ns + self.jump_ns

    def actions(self, request: InferenceRequest) -> np.ndarray:
        first_s = (request.window.stamp_ns - T0) / 1e9 - 0.1 * (self.task.n_obs_steps - 1)
        times = first_s + 0.1 * np.arange(self.task.horizon)
        return np.repeat((110.0 + 50.0 * times)[:, None], self.task.action.dim, axis=1).astype(np.float32)

    def step(self) -> Tick:
        self.now_ns += TICK
        now_ns = self.ros_ns
        if (self.now_ns - T0) % DT == 0 and self.publishes:
            for key, spec in self.task.observations.items():
                value = self.position if key == "agent_pos" else np.zeros(spec.shape)
                self.controller.buffer.add(key, now_ns, value.astype(np.float32))
        if self.pending is not None and self.now_ns >= self.pending[0]:
            _, request = self.pending
            self.pending = None
            chunk = self.controller.accept(
                request, self.actions(request), now_ns=now_ns, inference_ns=self.inference_ns
            )
            if isinstance(chunk, ActionChunk):
                self.chunks.append(chunk)
        tick = self.controller.tick(now_ns, self.now_ns / 1e9)
        if tick.request is not None:
            self.pending = self.now_ns + self.inference_ns, tick.request
        if tick.stop is not None:
            self.controller.brake(now_ns)
        state = self.controller.outlet.setpoint(now_ns)
        self.commanded.append((self.now_ns, None if state is None else state.position))
        if state is not None and self.follows:
            self.position = state.position
        return tick

    def end(self) -> None:
        """End the goal as the node does: stop, then brake."""
        self.controller.stop()
        self.controller.brake(self.ros_ns)

    def run(self, seconds: float) -> list[Tick]:
        return [self.step() for _ in range(round(seconds * 1e9 / TICK))]

    def until_stop(self, limit_s: float) -> tuple[float, Stop]:
        """Seconds until the run ended, and why."""
        begin_ns = self.now_ns
        for _ in range(round(limit_s * 1e9 / TICK)):
            stop = self.step().stop
            if stop is not None:
                return (self.now_ns - begin_ns) / 1e9, stop
        raise AssertionError(f"the run goes on after {limit_s} s")

    def speeds(self, since_ns: int = 0) -> np.ndarray:
        positions = [p for t, p in self.commanded if p is not None and t >= since_ns]
        return np.abs(np.diff(np.array(positions), axis=0)).max(axis=1) / (TICK / 1e9)


def test_it_starts_softly_from_where_the_robot_is_and_then_follows_the_policy() -> None:
    robot = Robot()
    robot.start()
    robot.run(3.0)
    positions = [p for _, p in robot.commanded if p is not None]
    assert np.allclose(positions[0], [100.0, 100.0]), "authority begins at none"
    assert robot.speeds().max() < 250.0
    wanted = 110.0 + 50.0 * (robot.now_ns - T0) / 1e9
    assert positions[-1][0] == pytest.approx(wanted, abs=0.5)


def velocity_task() -> TaskSpec:
    """Two velocities and a gripper, as setpoints."""
    data = load_task("pusht_state").model_dump(mode="json")
    data["action"].update(
        topic="/velocities",
        type="std_msgs/msg/Float64MultiArray",
        output="setpoint",
        rate_hz=50,
        command="velocity",
        names=["x", "y", "gripper"],
        shape=[3],
        grippers=[{"name": "gripper", "close_above": 60.0, "open_below": 40.0, "open": 0.0, "closed": 1.0}],
    )
    data["action"]["limits"].update(
        position={"min": [-512.0, -512.0, 0.0], "max": [512.0, 512.0, 1.0]},
        acceleration=[34000.0, 34000.0, 1.0],
        jerk=[1.7e7, 1.7e7, 1.0],
    )
    return TaskSpec.from_dict(data)


def test_velocities_start_softly_from_zero_after_the_beginning_and_after_a_takeover() -> None:
    robot = Robot(task=velocity_task(), safety=SafetyOptions(soft_start_s=1.0))
    robot.follows = False
    robot.start()
    rising_velocities(robot)
    robot.controller.supervisor.operator_commands("/operator", robot.now_ns / 1e9)
    robot.run(0.3)
    assert robot.commanded[-1][1] is None
    rising_velocities(robot)


def rising_velocities(robot: Robot) -> None:
    """The velocities of the next 2.5 s rise as the authority does, to what the policy wants."""
    count = len(robot.commanded)
    robot.run(2.5)
    sent = np.array([p for _, p in robot.commanded[count:] if p is not None])
    assert (sent[0, :2] == 0.0).all(), "at rest"
    assert (sent[:, 2] == 1.0).all(), "the gripper closes at once"
    wanted = 110.0 + 50.0 * (robot.now_ns - T0) / 1e9
    assert sent[5, 0] < 0.02 * wanted and sent[25, 0] < 0.6 * wanted
    assert (np.diff(sent[:50, 0]) >= -1e-6).all() and np.diff(sent[:, 0]).max() < 0.1 * wanted
    assert sent[-1, 0] == pytest.approx(wanted, abs=1.0)


def test_a_goal_that_ends_brakes_and_then_commands_nothing() -> None:
    robot = Robot()
    robot.start()
    robot.run(2.0)
    robot.end()
    begin_ns = robot.now_ns
    robot.run(1.0)
    speeds = robot.speeds(begin_ns)
    assert speeds[-1] == 0.0
    assert robot.commanded[-1][1] is None


@pytest.mark.parametrize("end", [True, False])
def test_a_brake_that_is_held_up_for_a_second_on_its_way_is_taken_by_a_controller(end: bool) -> None:
    robot = Robot()
    robot.start()
    robot.run(2.0)
    if end:
        robot.end()
    else:
        robot.publishes = False
        while not robot.step().braked:
            pass
    points = robot.controller.outlet.trajectory(robot.ros_ns)
    assert points is not None
    moves = points.velocities.any(axis=1)
    assert moves.any()
    rest_ns = int(points.times_ns[np.flatnonzero(moves)[-1] + 1])
    controller = TrajectoryController(["x", "y"])
    late = Trajectory(
        robot.ros_ns, ["x", "y"], (points.times_ns - robot.ros_ns).tolist(), points.positions.tolist()
    )
    assert controller.accept(late, rest_ns + 990_000_000) is None
    assert controller.accept(late, rest_ns + 1_200_000_000) is not None


def test_a_stale_stream_brakes_at_once_and_a_short_one_goes_on() -> None:
    robot = Robot()
    robot.start()
    robot.run(2.0)
    robot.publishes = False
    ticks = robot.run(0.6)
    assert sum(tick.braked for tick in ticks) == 1
    assert robot.speeds(robot.now_ns - DT)[-1] == 0.0, "it stands while it sees nothing"
    robot.publishes = True
    ticks = robot.run(1.0)
    assert not any(tick.stop for tick in ticks)
    assert robot.speeds(robot.now_ns - DT)[-1] == pytest.approx(50.0, abs=10.0)
    assert robot.controller.supervisor.counters == {"STREAM_STALE": 1}


def test_a_stream_that_stays_away_ends_the_goal_within_its_age_and_the_grace() -> None:
    robot = Robot(safety=SafetyOptions(stale_grace_s=0.5))
    robot.start()
    robot.run(2.0)
    robot.publishes = False
    after_s, stop = robot.until_stop(3.0)
    assert stop.reason == "STREAM_STALE"
    assert after_s <= 0.25 + 0.5 + 0.05


def test_one_slow_inference_brakes_and_goes_on() -> None:
    robot = Robot()
    robot.start()
    robot.run(2.0)
    robot.inference_ns = 2_500_000_000
    while robot.pending is None:
        robot.step()
    robot.inference_ns = 50_000_000
    ticks = robot.run(4.0)
    assert not any(tick.stop for tick in ticks)
    assert (robot.speeds() == 0.0).any(), "it came to rest where its actions ended"
    assert robot.speeds()[-1] > 10.0
    assert robot.controller.supervisor.counters == {"INFERENCE_OVERDUE": 1}


def test_inference_that_always_takes_longer_than_a_chunk_ends_the_goal() -> None:
    robot = Robot(inference_s=1.7, safety=SafetyOptions(overdue_grace_s=3.0))
    robot.start()
    after_s, stop = robot.until_stop(10.0)
    assert stop.reason == "INFERENCE_OVERDUE"
    assert after_s <= 3.05
    assert robot.controller.counts.late_steps > 0
    assert all(p is None for _, p in robot.commanded), "nothing late was commanded"


def test_a_robot_that_does_not_follow_ends_the_goal_and_is_named() -> None:
    robot = Robot()
    robot.start()
    robot.run(2.0)
    robot.follows = False
    after_s, stop = robot.until_stop(3.0)
    assert stop.reason == "TRACKING_ERROR"
    assert "agent_x is" in stop.message
    assert "allows 30" in stop.message
    assert 0.6 < after_s < 1.3, "30 units at 50 a second, the age of the measurement and 0.3 s"


def test_a_robot_that_is_sent_nothing_is_not_off_course() -> None:
    robot = Robot(followed=False)
    robot.start()
    robot.follows = False
    assert not any(tick.stop for tick in robot.run(4.0))
    assert robot.controller.supervisor.counters.get("TRACKING_ERROR", 0) == 0


def test_the_latency_of_the_robot_is_no_tracking_error() -> None:
    slow = arm_task(latency_s=0.8)
    robot = Robot(task=slow)
    robot.start()
    follow = robot.controller.schedule.commanded_at
    for _ in range(150):
        tick = robot.step()
        assert tick.stop is None
        late = follow(robot.ros_ns - 800_000_000)
        robot.follows = False
        robot.position = robot.position if late is None else late


def test_the_emergency_stop_brakes_and_ends_the_goal_and_lets_none_begin() -> None:
    robot = Robot()
    robot.start()
    robot.run(2.0)
    robot.controller.supervisor.press_emergency_stop("a test")
    tick = robot.step()
    assert tick.stop is not None
    assert tick.stop.reason == "EMERGENCY_STOP"
    robot.run(0.6)
    assert robot.commanded[-1][1] is None
    assert robot.speeds()[-1] == 0.0
    assert robot.controller.supervisor.refusal(robot.now_ns / 1e9).reason == "EMERGENCY_STOP"


def test_an_operator_takes_over_within_a_tick_and_the_policy_resumes_from_where_the_robot_then_is() -> None:
    robot = Robot()
    robot.start()
    robot.run(2.0)
    robot.controller.supervisor.operator_commands("/operator", robot.now_ns / 1e9)
    robot.step()
    assert robot.commanded[-1][1] is None, "nothing is commanded from the next tick on"
    for _ in range(20):
        robot.controller.supervisor.operator_commands("/operator", robot.now_ns / 1e9)
        robot.position = robot.position + 1.0
        robot.step()
        assert robot.commanded[-1][1] is None
    left_at = robot.position
    count = len(robot.commanded)
    robot.run(1.0)
    resumed = [p for _, p in robot.commanded[count:] if p is not None]
    assert np.allclose(resumed[0], left_at), "from where the operator left it"
    assert robot.controller.running


def test_a_deadman_let_go_holds_the_goal_until_it_is_pressed_again() -> None:
    robot = Robot(safety=SafetyOptions(deadman_required=True))
    supervisor = robot.controller.supervisor

    def run(seconds: float, held: bool) -> None:
        for _ in range(round(seconds * 1e9 / TICK)):
            if held:
                supervisor.hold_deadman(True, robot.now_ns / 1e9)
            assert robot.step().stop is None

    supervisor.hold_deadman(True, robot.now_ns / 1e9)
    robot.start()
    run(2.0, held=True)
    run(1.0, held=False)
    assert robot.speeds()[-1] == 0.0
    run(1.0, held=True)
    assert robot.speeds()[-1] > 10.0


@pytest.mark.parametrize("jump_s", [-5.0, 5.0])
def test_a_jump_of_the_clock_ends_the_goal_without_a_jump_of_the_command(jump_s: float) -> None:
    robot = Robot()
    robot.start()
    robot.run(2.0)
    robot.jump_ns = round(jump_s * 1e9)
    tick = robot.step()
    assert tick.stop is not None
    assert tick.stop.reason == "CLOCK_JUMP"
    robot.run(0.5)
    assert robot.speeds().max() < 250.0, "it brakes in the time in which it moved"
    assert robot.speeds()[-1] == 0.0
    robot.start()
    robot.run(0.5)  # then it is near the end of its range
    assert robot.speeds()[-1] > 10.0, "and can be started again"


def test_a_result_from_before_a_hold_is_not_executed_after_it() -> None:
    robot = Robot(inference_s=0.4)
    robot.start()
    while robot.pending is None:
        robot.step()
    robot.controller.supervisor.operator_commands("/operator", robot.now_ns / 1e9 - 0.45)
    robot.run(0.1)
    assert robot.controller.running
    robot.run(0.4)
    assert robot.chunks == [], "its observation shows the world before the operator was there"
    robot.run(1.0)
    assert robot.chunks


def test_a_later_goal_goes_on_from_the_last_command_where_the_robot_stands_near_it() -> None:
    robot = Robot()
    robot.start()
    robot.run(2.0)
    robot.end()
    robot.run(1.0)
    last = robot.position
    robot.position = last - 5.0  # it sags, within the tracking error
    robot.run(0.2)
    count = len(robot.commanded)
    robot.start()
    robot.run(0.5)
    first = next(p for _, p in robot.commanded[count:] if p is not None)
    assert np.allclose(first, last)


@pytest.mark.parametrize("gone", ["state", "controller"])
def test_a_later_goal_begins_where_a_robot_stands_that_was_away_in_between(gone: str) -> None:
    robot = Robot()
    robot.start()
    robot.run(2.0)
    robot.end()
    robot.run(1.0)
    robot.publishes = gone != "state"
    if gone == "controller":
        robot.controller.supervisor.report("CONTROLLER_SILENT", "nobody listens", robot.now_ns / 1e9)
    robot.run(1.0)
    robot.publishes = True
    robot.controller.supervisor.report("CONTROLLER_SILENT", "", robot.now_ns / 1e9)
    elsewhere = robot.position = robot.position - 5.0  # within the tracking error
    robot.run(0.2)
    count = len(robot.commanded)
    robot.start()
    robot.run(0.5)
    first = next(p for _, p in robot.commanded[count:] if p is not None)
    assert np.allclose(first, elsewhere)


def test_a_goal_goes_on_from_where_a_robot_stands_whose_state_was_gone() -> None:
    robot = Robot()
    robot.start()
    robot.run(2.0)
    robot.publishes = False
    robot.run(0.8)
    robot.position = robot.position - 5.0
    elsewhere, count = robot.position, len(robot.commanded)
    robot.publishes, robot.follows = True, False
    robot.run(0.4)
    later = [p for _, p in robot.commanded[count:] if p is not None]
    assert any(np.allclose(p, elsewhere, atol=0.5) for p in later)
    assert robot.controller.running


def test_a_goal_that_has_to_wait_for_the_state_of_the_robot_starts_softly_as_well() -> None:
    robot = Robot()
    robot.publishes = False
    robot.run(0.6)
    robot.start()
    robot.run(0.3)
    robot.publishes = True
    robot.run(2.0)
    positions = [p for _, p in robot.commanded if p is not None]
    assert np.allclose(positions[0], [100.0, 100.0])


def test_a_known_plan_is_the_prefix_of_the_next_inference() -> None:
    robot = Robot(inference_s=0.25, execution=Execution("rtc", 4))
    robot.start()
    prefixes = []
    for _ in range(150):
        request = robot.step().request
        if request is not None:
            prefixes.append((request, robot.ros_ns))
    assert prefixes[0][0].prefix is None, "nothing runs yet"
    request, now_ns = prefixes[-1]
    prefix = request.prefix
    assert prefix is not None
    assert np.allclose(
        prefix.actions[prefix.weights > 0], robot.actions(request)[prefix.weights > 0], atol=0.5
    )
    # Row 1 is meant for the observation's time; known is what is commanded before the result is expected.
    known = int((prefix.weights == 1.0).sum())
    ready_ns = now_ns + 250_000_000 + 10_000_000
    assert known == 1 + -((request.window.stamp_ns - ready_ns) // DT)
    assert 0 < prefix.weights[known] < 1
    assert prefix.weights[-1] == 0


def test_back_to_back_infers_from_the_newest_observation_as_soon_as_a_result_is_there() -> None:
    robot = Robot(inference_s=0.16, execution=Execution("replace", 0))
    robot.start()
    robot.run(1.0)
    requests = [tick.request for tick in robot.run(4.0) if tick.request is not None]
    assert len(requests) == 4.0 / 0.16
    apart = np.diff([request.window.stamp_ns for request in requests])
    assert set(apart.tolist()) == {DT, 2 * DT}


def test_where_the_data_are_motions_commands_leave_early_by_the_latency() -> None:
    robot = Robot(task=arm_task(latency_s=0.2, demonstrated="motion"), safety=SafetyOptions(soft_start_s=0.0))
    robot.start()
    robot.run(3.0)
    commanded = robot.commanded[-1][1]
    assert commanded is not None
    assert commanded[0] == pytest.approx(110.0 + 50.0 * ((robot.now_ns - T0) / 1e9 + 0.2), abs=0.5)
