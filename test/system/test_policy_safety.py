"""What people and faults do to a running policy: real process, real topics, the reaction and its reason."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")

import rclpy
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import Marker, MarkerArray

from dp_ros import bringup
from dp_ros.paths import share_dir
from dp_ros.processes import Processes, running
from dp_ros.srv import LoadModel
from dp_ros.task import load_task

from .processes_left import processes_of_domain
from .robot import Robot

pytestmark = pytest.mark.timeout(120)


@contextlib.contextmanager
def policy(*, task: str = "", **parameters: Any) -> Iterator[Processes]:
    description = bringup.policy(model="pusht_state", task=task, engine="onnx")
    (node,) = description.nodes
    changed = replace(node, parameters={**node.parameters, **parameters})
    with running(replace(description, nodes=(changed,))) as processes:
        yield processes


def setpoint_task(folder: Path) -> str:
    """pusht_state with 50 Hz of setpoints in place of trajectories."""
    data = load_task("pusht_state").model_dump(mode="json")
    data["action"].update(
        topic="/pusht/setpoints",
        type="std_msgs/msg/Float64MultiArray",
        output="setpoint",
        rate_hz=50,
        state="agent_pos",
    )
    file = folder / "setpoint.yaml"
    file.write_text(yaml.safe_dump(data))
    return str(file)


def begin(robot: Robot) -> Any:
    robot.until_ready()
    handle = robot.send_goal(60.0)
    assert handle.accepted
    robot.until(lambda: robot.chunks, "the policy to act")
    return handle


def test_the_emergency_stop_ends_the_goal_and_forbids_the_next_until_it_is_cleared(robot: Robot) -> None:
    with policy():
        handle = begin(robot)
        assert not robot.call(Trigger, "/policy/clear_emergency_stop", Trigger.Request()).success
        robot.stop_pub.publish(Bool(data=True))
        result = robot.result(handle).result
        assert result.reason == "EMERGENCY_STOP"
        robot.stop_pub.publish(Bool(data=False))
        robot.statuses.clear()
        robot.until(lambda: len(robot.statuses) > 2, "status")
        assert robot.statuses[-1].emergency_stop, "letting go clears nothing"
        assert robot.statuses[-1].reason == "EMERGENCY_STOP"
        assert not robot.send_goal(5.0).accepted
        assert robot.call(Trigger, "/policy/clear_emergency_stop", Trigger.Request()).success
        handle = begin(robot)
        assert robot.call(Trigger, "/policy/emergency_stop", Trigger.Request()).success
        assert robot.result(handle).result.reason == "EMERGENCY_STOP"
        robot.until(
            lambda: any(
                "EMERGENCY_STOP" in s.message or s.level == b"\x02"
                for d in robot.diagnostics
                for s in d.status
            ),
            "an error in /diagnostics",
        )
        assert robot.verdicts == [None] * len(robot.trajectories), (
            "each trajectory was one that a controller takes"
        )


def test_while_the_operator_commands_the_policy_does_not_and_then_it_resumes(robot: Robot) -> None:
    with policy():
        handle = begin(robot)
        robot.operating = True
        robot.until(lambda: robot.takeovers, "the takeover to be published")
        assert robot.takeovers[-1].active
        sent = len(robot.trajectories)
        robot.statuses.clear()
        robot.until(lambda: len(robot.statuses) > 20, "status")
        assert {status.state for status in robot.statuses} == {"yielded"}
        assert len(robot.trajectories) == sent
        robot.operating = False
        robot.until(lambda: len(robot.trajectories) > sent, "the policy to resume")
        assert not robot.takeovers[-1].active
        robot.answer(handle.cancel_goal_async(), "the answer to cancelling")
        assert robot.result(handle).result.reason == "CANCELED"


def test_a_deadman_that_is_let_go_brakes_and_ends_the_goal_where_that_is_wanted(robot: Robot) -> None:
    with policy(deadman_required=True, deadman_release="abort", deadman_timeout_s=2.0):
        robot.until(lambda: robot.statuses and robot.statuses[-1].reason == "DEADMAN_RELEASED", "the status")
        assert not robot.send_goal(5.0).accepted
        robot.deadman = True
        handle = begin(robot)
        robot.deadman = False
        assert robot.result(handle).result.reason == "DEADMAN_RELEASED"


def test_setpoints_come_at_their_rate_and_end_at_rest(robot: Robot, tmp_path: Path) -> None:
    robot.position = np.array([256.0, 256.0])
    with policy(task=setpoint_task(tmp_path)):
        robot.until_ready()
        handle = robot.send_goal(60.0)
        robot.until(lambda: len(robot.setpoints) > 100, "setpoints")
        assert np.allclose(robot.setpoints[0][1], robot.position, atol=1.0), "from where the robot is"
        robot.answer(handle.cancel_goal_async(), "the answer to cancelling")
        assert robot.result(handle).result.reason == "CANCELED"
        robot.statuses.clear()
        robot.until(lambda: len(robot.statuses) > 4, "a second to pass")
        sent = len(robot.setpoints)
        positions = np.array([position for _, position in robot.setpoints])
        assert np.array_equal(positions[-1], positions[-2]), "the last ones stand still"
        assert np.abs(np.diff(positions, axis=0)).max() < 1024.0 / 50 * 1.01, "no jump above the speed limit"
        robot.statuses.clear()
        robot.until(lambda: len(robot.statuses) > 2, "status")
        assert len(robot.setpoints) == sent, "nothing is sent outside a goal"
        found = [s.name for d in robot.diagnostics for s in d.status]
        assert {"policy: policy", "policy: stream agent_pos", "policy: setpoints"} <= set(found)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_that_is_told_to_end_brings_the_robot_to_rest_first(
    robot: Robot, tmp_path: Path, number: int
) -> None:
    robot.position = np.array([256.0, 256.0])
    with policy(task=setpoint_task(tmp_path)) as processes:
        robot.until_ready()
        handle = robot.send_goal(60.0)
        robot.until(lambda: len(robot.setpoints) > 60, "setpoints")
        (name,) = processes.pids
        processes.send(name, number)
        assert robot.result(handle).result.reason == "DEACTIVATED"
        robot.until(processes.ended, "the process to end")
        assert processes.ended() == {name: 0}, processes.describe_end(name)
        positions = np.array([position for _, position in robot.setpoints])
        assert np.array_equal(positions[-5:], np.repeat(positions[-1:], 5, axis=0)), (
            "the last ones stand still"
        )


def test_a_killed_node_leaves_its_robot_at_rest_and_no_process(
    robot: Robot, tmp_path: Path, ros_domain: int
) -> None:
    """What sends the setpoints goes on alone: it brakes within the limits and ends."""
    robot.position = np.array([256.0, 256.0])
    with policy(task=setpoint_task(tmp_path)) as processes:
        robot.until_ready()
        robot.send_goal(60.0)
        robot.until(lambda: len(robot.setpoints) > 60, "setpoints")
        (name,) = processes.pids
        assert len(setpoint_processes(ros_domain)) == 1
        processes.kill(name)
        robot.until(lambda: not setpoint_processes(ros_domain), "the process of the setpoints to end")
        robot.until(nothing_more(robot), "the last setpoint")
    positions = np.array([position for _, position in robot.setpoints])
    assert np.array_equal(positions[-1], positions[-2]), "at rest"
    assert np.abs(np.diff(positions, axis=0)).max() < 1024.0 / 50 * 1.01, "no jump above the speed limit"


def setpoint_processes(domain: int) -> list[str]:
    return [line for line in processes_of_domain(domain) if "setpoint_loop" in line]


def nothing_more(robot: Robot) -> Callable[[], bool]:
    """Asked again and again: whether nothing has come for a tenth of a second, in which it was listened for."""
    seen = [-1, 0]

    def check() -> bool:
        if seen[0] != len(robot.setpoints):
            seen[:] = len(robot.setpoints), robot.now_ns()
        return robot.now_ns() - seen[1] > 100_000_000

    return check


def test_a_dry_run_does_everything_but_send(robot: Robot, tmp_path: Path) -> None:
    markers: list[Any] = []
    robot.node.create_subscription(MarkerArray, "/policy/markers", markers.append, 1)
    with policy(dry_run=True, marker_samples=2):
        handle = begin(robot)
        robot.until(lambda: len(robot.chunks) > 2, "chunks")
        assert robot.trajectories == []
        assert robot.node.count_publishers("/pusht/joint_trajectory") == 0
        assert robot.statuses[-1].dry_run

        def drawn(name: str) -> int:
            return sum(marker.ns == name and marker.action == Marker.ADD for marker in markers[-1].markers)

        # As many as were asked for, where no inference was due meanwhile.
        robot.until(lambda: markers and drawn("alternatives") >= 2, "two alternatives")
        assert (drawn("chunk"), drawn("alternatives")) == (1, 2)

        model = str(share_dir() / "models" / "pusht_state")
        refused = robot.call(LoadModel, "/policy/load_model", LoadModel.Request(model=str(tmp_path)))
        assert not refused.success
        assert "manifest" in refused.message
        taken = robot.call(LoadModel, "/policy/load_model", LoadModel.Request(model=model))
        assert taken.success, taken.message
        assert taken.model_id.startswith("pusht_state-")
        count = len(robot.chunks)
        robot.until(lambda: len(robot.chunks) > count, "the goal to go on with it")
        robot.answer(handle.cancel_goal_async(), "the answer to cancelling")
        assert robot.result(handle).result.reason == "CANCELED"


def test_a_goal_waits_for_a_controller_and_gives_up_with_the_reason(ros_domain: int) -> None:
    with Robot(listens=False) as robot, policy(silent_grace_s=0.5):
        recorder = rclpy.create_node("recorder", context=robot.node.context)
        recorder.create_subscription(JointTrajectory, "/pusht/joint_trajectory", lambda _: None, 10)
        robot.until(lambda: robot.node.count_subscribers("/pusht/joint_trajectory"), "one who only watches")
        robot.until(lambda: robot.statuses and robot.statuses[-1].reason == "CONTROLLER_SILENT", "the status")
        handle = robot.send_goal(30.0)
        assert handle.accepted
        result = robot.result(handle).result
        assert result.reason == "CONTROLLER_SILENT"
        assert "/pusht/joint_trajectory" in result.message
        assert robot.chunks == []
        recorder.destroy_node()
