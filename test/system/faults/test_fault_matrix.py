"""The fault matrix: what goes wrong in front of a robot, and what the policy node makes of it.

Real processes on real DDS. The rows share one policy node, so that each also shows that the node was usable after
the one before: every row begins with a new goal that moves the robot. What holds in every row is checked by
`rows.row`. Bounds are far above what is measured on an idle machine, and below what a robot needs that only runs its
chunk to the end.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition

from dp_ros.processes import running

from ..processes_left import processes_left
from .bench import Bench
from .model import CHUNK_S, SLOW_S
from .rows import row
from .scene import END_S, GOES_ON_S, OVERDUE_S, STILL_S, faulty_policy

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def bench(module_ros_domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("faults")
    with running(faulty_policy(folder)) as policy, Bench(policy, folder) as bench:
        yield bench
        bench.report()
    assert processes_left(module_ros_domain) == []


# --- streams --------------------------------------------------------------------------------------------


def test_camera_stops(bench: Bench) -> None:
    with row(bench, "camera stops") as entry:
        entry.begin()
        entry.fault(camera="stopped")
        entry.says("holding", "STREAM_STALE")
        entry.stands_still(STILL_S)
        entry.ends("STREAM_STALE", "camera", "max_age_s is 0.4", within_s=END_S)
        entry.counts("STREAM_STALE")
        entry.clear()


def test_camera_comes_back_in_time(bench: Bench) -> None:
    with row(bench, "camera drops out") as entry:
        entry.begin()
        entry.fault(camera="stopped")
        entry.says("holding", "STREAM_STALE")
        entry.clear()
        entry.goes_on()
        entry.cancel()


def test_camera_stops_in_front_of_a_controller_that_starts_from_the_measured_state(bench: Bench) -> None:
    """`interpolate_from_desired_state: false`, the default of a joint_trajectory_controller."""
    with row(bench, "camera stops, stock controller", from_measured=True) as entry:
        entry.begin()
        entry.fault(camera="stopped")
        entry.stands_still(STILL_S)
        entry.ends("STREAM_STALE", "camera", within_s=END_S)
        bench.set(camera="well")


def test_camera_freezes(bench: Bench) -> None:
    with row(bench, "camera freezes") as entry:
        entry.begin()
        entry.fault(camera="frozen")
        entry.stands_still(STILL_S)
        entry.ends("STREAM_FROZEN", "camera", "freeze_after_s is 0.5", within_s=END_S)
        entry.counts("STREAM_FROZEN")
        entry.clear()


def test_joint_states_stop(bench: Bench) -> None:
    with row(bench, "joint states stop") as entry:
        entry.begin()
        entry.fault(joints="stopped")
        entry.stands_still(STILL_S)
        entry.ends("STREAM_STALE", "joints", "max_age_s is 0.4", within_s=END_S)
        entry.clear()


def test_joint_states_are_nan(bench: Bench) -> None:
    with row(bench, "NaN in joint states") as entry:
        entry.begin()
        entry.fault(joints="nan")
        entry.stands_still(STILL_S)
        entry.ends("BAD_OBSERVATION", "/robot/joint_states has nan at [0]", within_s=END_S)
        entry.counts("BAD_OBSERVATION")
        entry.clear()


def test_picture_size_changes(bench: Bench) -> None:
    with row(bench, "image size changes") as entry:
        entry.begin()
        entry.fault(camera_size=[48, 64])
        entry.stands_still(STILL_S)
        entry.ends("BAD_OBSERVATION", "48x64", "24x32", within_s=END_S)
        entry.clear()


def test_stamps_jump_forth(bench: Bench) -> None:
    with row(bench, "camera stamps jump forth") as entry:
        entry.begin()
        entry.fault(camera_stamp_s=10.0)
        entry.stands_still(STILL_S)
        entry.ends("BAD_OBSERVATION", "camera", "ahead of this node's clock", within_s=END_S)
        entry.clear()


def test_stamps_jump_back(bench: Bench) -> None:
    with row(bench, "joint stamps jump back") as entry:
        entry.begin()
        entry.fault(joints_stamp_s=-10.0)
        entry.stands_still(STILL_S)
        entry.ends("STREAM_STALE", "joints", within_s=END_S)
        entry.clear()


def test_stamps_jump_back_and_forth_between_good_ones(bench: Bench) -> None:
    with row(bench, "stamps jump back and forth") as entry:
        entry.begin()
        entry.fault(camera_stamp_s=[0.0, 0.0, 8.0, 0.0, 0.0, -8.0], joints_stamp_s=[0.0, 8.0, 0.0, -8.0])
        entry.goes_on(within_s=GOES_ON_S)
        entry.clear()
        entry.goes_on(within_s=GOES_ON_S)
        entry.cancel()


# --- inference ------------------------------------------------------------------------------------------


def test_inference_takes_a_second_once(bench: Bench) -> None:
    with row(bench, "inference takes 1 s once") as entry:
        entry.begin()
        entry.fault(mood="SLOW")
        bench.until(lambda: bench.statuses[-1].message.inference_ms > 400.0, "a slow inference")
        entry.clear()  # at most one more has begun
        entry.goes_on(within_s=2 * SLOW_S + GOES_ON_S)
        assert bench.statuses[-1].message.late_steps > 0, "what came too late was dropped"
        entry.cancel()


def test_inference_always_takes_longer_than_the_chunk(bench: Bench) -> None:
    with row(bench, "inference slower than chunk") as entry:
        entry.begin()
        entry.fault(mood="TOO_SLOW")
        entry.stands_still(CHUNK_S + 2.5)
        entry.ends("INFERENCE_OVERDUE", within_s=CHUNK_S + OVERDUE_S + 2.5)
        entry.counts("INFERENCE_OVERDUE")
        entry.clear()
        late_ms = 1e3 * CHUNK_S  # of an inference that must end before the next row can have one
        bench.until(lambda: bench.statuses[-1].message.inference_ms > late_ms, "the inference's end", 60.0)


def test_inference_raises(bench: Bench) -> None:
    with row(bench, "inference raises") as entry:
        entry.begin()
        entry.fault(mood="RAISES")
        entry.stands_still(STILL_S)
        entry.ends("INFERENCE_FAILED", "out of data bounds", within_s=STILL_S)
        entry.counts("INFERENCE_FAILED")
        entry.clear()


def test_inference_gives_nan(bench: Bench) -> None:
    with row(bench, "NaN from the model") as entry:
        entry.begin()
        entry.fault(mood="NAN")
        entry.stands_still(STILL_S)
        entry.ends("INFERENCE_FAILED", "not finite", within_s=STILL_S)
        entry.clear()


def test_the_model_asks_for_what_is_far_out_of_bounds(bench: Bench) -> None:
    with row(bench, "actions far out of bounds") as entry:
        entry.begin()
        entry.fault(mood="OUT_OF_BOUNDS")
        bench.until(lambda: bench.statuses[-1].message.clamped > 0, "values to be clamped")
        entry.stands_still(within_s=10.0)  # at the ends of its range
        entry.clear()
        entry.goes_on()
        entry.cancel()


def test_it_brakes_while_it_moves_as_fast_as_its_limits_allow(bench: Bench) -> None:
    with row(bench, "emergency stop at the limits") as entry:
        entry.begin()
        bench.set(mood="OUT_OF_BOUNDS")
        seen = len(bench.trajectories)
        bench.until(lambda: len(bench.trajectories) > seen, "the way to the bounds")
        entry.happened()
        assert bench.call("emergency_stop").success
        entry.stands_still(STILL_S)
        entry.ends("EMERGENCY_STOP", within_s=STILL_S)
        entry.clear()
        assert bench.call("clear_emergency_stop").success


# --- the robot ------------------------------------------------------------------------------------------


def test_the_robot_is_stuck(bench: Bench) -> None:
    with row(bench, "robot does not follow") as entry:
        entry.begin()
        entry.fault(motors="stuck")
        entry.ends("TRACKING_ERROR", "limits.tracking_error allows 0.25", within_s=3.0)
        entry.stands_still(4.0)
        entry.counts("TRACKING_ERROR")
        entry.clear()


def test_the_controller_is_silent(bench: Bench) -> None:
    with row(bench, "controller silent") as entry:
        entry.begin()
        bench.listen(False)
        entry.fault(controller="silent")
        entry.says("holding", "CONTROLLER_SILENT")
        entry.ends("CONTROLLER_SILENT", "/robot/joint_trajectory", within_s=END_S)
        entry.counts("CONTROLLER_SILENT")
        bench.listen(True)
        entry.clear()


def test_the_robot_hangs_and_its_participant_is_lost(bench: Bench) -> None:
    with row(bench, "participant lost (robot hangs)") as entry:
        entry.begin()
        entry.happened()
        bench.robot.send(signal.SIGSTOP)
        entry.stands_still(STILL_S)
        entry.ends("STREAM_STALE", within_s=END_S)
        bench.until(lambda: bench.node.count_publishers("/robot/camera") == 0, "the lease to run out")
        bench.robot.send(signal.SIGCONT)
        entry.clear()
        bench.wait_until_standing()


def test_the_robot_is_killed_and_started_again(bench: Bench) -> None:
    try:
        with row(bench, "robot killed") as entry:
            entry.begin()
            entry.happened(bench.kill_robot())
            entry.stands_still(STILL_S)
            entry.ends("STREAM_STALE", within_s=END_S)
    finally:
        bench.start_robot()
    with row(bench, "robot restarted") as entry:
        entry.begin()
        entry.cancel()


# --- people ---------------------------------------------------------------------------------------------


def test_emergency_stop(bench: Bench) -> None:
    with row(bench, "emergency stop") as entry:
        entry.begin()
        entry.happened()
        assert bench.call("emergency_stop").success
        entry.stands_still(STILL_S)
        entry.ends("EMERGENCY_STOP", within_s=STILL_S)
        entry.counts("EMERGENCY_STOP")
        assert not bench.send_goal(10.0).accepted, "it is latched"
        assert bench.call("clear_emergency_stop").success


def test_deadman_is_let_go_and_held_again(bench: Bench) -> None:
    with row(bench, "deadman let go, held again") as entry:
        entry.begin()
        entry.happened()
        bench.deadman = False
        entry.says("holding", "DEADMAN_RELEASED")
        entry.stands_still(STILL_S)
        entry.counts("DEADMAN_RELEASED")
        bench.deadman = True
        entry.goes_on()
        entry.cancel()


def test_operator_takes_over_and_gives_back(bench: Bench) -> None:
    with row(bench, "takeover, then resumed") as entry:
        entry.begin()
        entry.happened()
        bench.operate()
        entry.says("yielded", "TAKEOVER")
        entry.counts("TAKEOVER")
        yielded_ns = time.time_ns()
        sent = len(bench.trajectories)
        for _ in range(3):
            bench.operate()
            heard = len(bench.statuses)
            bench.until(lambda heard=heard: len(bench.statuses) >= heard + 3, "a status")
        late = [one for one in bench.trajectories[sent:] if one.sent_ns > yielded_ns]
        assert late == [], "nothing is commanded while the operator commands"
        entry.goes_on()
        entry.cancel()


def test_dry_run_publishes_nothing(bench: Bench) -> None:
    with row(bench, "dry run") as entry:
        for dry in (True, False):
            bench.set_parameter("dry_run", dry)
            for transition in (
                Transition.TRANSITION_DEACTIVATE,
                Transition.TRANSITION_CLEANUP,
                Transition.TRANSITION_CONFIGURE,
                Transition.TRANSITION_ACTIVATE,
            ):
                bench.change_state(transition)
            bench.wait_until_ready()
            if dry:
                sent, seen = len(bench.trajectories), len(bench.chunks)
                goal = bench.send_goal(1.0)
                result = bench.answer(goal.get_result_async(), "the goal's end").result
                assert result.reason == "TIME_LIMIT"
                assert len(bench.chunks) > seen and len(bench.trajectories) == sent
        entry.begin()
        entry.cancel()
