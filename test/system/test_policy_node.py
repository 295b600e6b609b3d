"""The policy node as a real process, in front of a robot that works and of robots that do not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from action_msgs.msg import GoalStatus
from lifecycle_msgs.msg import Transition

from dp_ros import bringup
from dp_ros.bridge.clock import to_ns
from dp_ros.processes import Processes, running

from .constant_model import make_constant_image_model
from .robot import Robot

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def policy(robot: Robot) -> Iterator[Processes]:
    with running(bringup.policy(model="pusht_state", engine="onnx")) as processes:
        yield processes


def finish(robot: Robot, time_limit_s: float = 30.0) -> tuple[Any, Any]:
    """Run a goal to its end; returns (status, result)."""
    handle = robot.send_goal(time_limit_s)
    assert handle.accepted
    answer = robot.result(handle, time_limit_s + 15.0)
    return answer.status, answer.result


def require_light(pid: int) -> None:
    """A policy node that is active, bounds generous: no torch, 300 MiB, 10 s of processor time (it takes about one)."""
    proc = Path(f"/proc/{pid}")
    assert "libtorch" not in (proc / "maps").read_text()
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    assert int(status["VmRSS"].split()[0]) / 1024 < 300
    ticks = (proc / "stat").read_text().rpartition(")")[2].split()[11:13]
    assert sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK") < 10.0


def duration_s(trajectory: Any) -> float:
    """Until it stands still, which it then does for a while."""
    moving = [point for point in trajectory.points if any(point.velocities)]
    return to_ns(moving[-1].time_from_start) / 1e9 if moving else 0.0


def test_it_runs_to_its_time_limit_and_every_trajectory_is_one_a_controller_takes(
    robot: Robot, policy: Processes
) -> None:
    robot.until_ready()
    require_light(policy.pids["policy"])
    status, result = finish(robot, 3.0)
    assert (status, result.reason) == (GoalStatus.STATUS_SUCCEEDED, "TIME_LIMIT")
    assert result.duration_s == pytest.approx(3.0, abs=0.3)
    assert result.inferences >= 3
    assert len(robot.trajectories) >= 3
    assert robot.verdicts == [None] * len(robot.trajectories)
    told = [message.feedback for message in robot.feedback]
    elapsed_s = [each.elapsed_s for each in told]
    assert (
        len(told) >= 10 and elapsed_s == sorted(elapsed_s) and 1.0 < elapsed_s[-1] <= result.duration_s + 0.1
    )
    assert max(each.queue_s for each in told) > 0.3, "how long what is commanded lasts"
    assert all(0.0 <= each.queue_s < 3.0 for each in told)
    late_steps = [each.late_steps for each in told]
    assert late_steps == sorted(late_steps) and late_steps[-1] <= result.late_steps
    gates = [each.gate for each in told]
    assert gates[0] == "closed" and {"open", "limiting"} & set(gates[1:])
    assert set(gates) <= {"closed", "soft_start", "open", "limiting"}
    for message in robot.trajectories:
        assert list(message.joint_names) == ["agent_x", "agent_y"]
        assert list(message.points[-1].velocities) == [0.0, 0.0]
        positions = np.array([point.positions for point in message.points])
        assert ((positions >= 0) & (positions <= 512)).all()
    for chunk in robot.chunks:
        late_ns = to_ns(chunk.header.stamp) - to_ns(chunk.observation_stamp)
        assert late_ns == chunk.dropped * to_ns(chunk.step), "late actions are dropped, never shifted"
        assert chunk.model_id.startswith("pusht_state-")


def test_lifecycle_and_goals_by_a_client(robot: Robot) -> None:
    with running(bringup.policy(model="pusht_state", engine="onnx", autostart=False)):
        assert robot.lifecycle_state() == "unconfigured"
        assert robot.transition(Transition.TRANSITION_CONFIGURE)
        assert robot.lifecycle_state() == "inactive"
        assert not robot.send_goal(5.0).accepted, "an inactive node takes no goal"
        assert robot.transition(Transition.TRANSITION_ACTIVATE)
        assert not robot.send_goal(-1.0).accepted, "a goal needs a time limit"

        handle = robot.send_goal(30.0)
        assert handle.accepted
        assert not robot.send_goal(5.0).accepted, "one goal at a time"
        robot.until(lambda: robot.trajectories, "the first trajectory")
        robot.answer(handle.cancel_goal_async(), "the answer to cancelling")
        answer = robot.result(handle)
        assert (answer.status, answer.result.reason) == (GoalStatus.STATUS_CANCELED, "CANCELED")
        robot.until(lambda: duration_s(robot.trajectories[-1]) < 1.0, "the brake, shorter than a chunk")
        assert robot.verdicts[-1] is None
        sent = len(robot.trajectories)

        idle = len(robot.statuses)
        robot.until(lambda: len(robot.statuses) > idle + 1, "idle status")
        assert robot.statuses[-1].state == "idle"
        assert len(robot.trajectories) == sent, "nothing is commanded outside a goal"

        handle = robot.send_goal(30.0)
        robot.until(lambda: len(robot.trajectories) > sent, "the next trajectory")
        assert robot.transition(Transition.TRANSITION_DEACTIVATE)
        answer = robot.result(handle)
        assert (answer.status, answer.result.reason) == (GoalStatus.STATUS_ABORTED, "DEACTIVATED")
        assert robot.transition(Transition.TRANSITION_CLEANUP)
        assert robot.transition(Transition.TRANSITION_CONFIGURE)
        assert robot.transition(Transition.TRANSITION_ACTIVATE)
        assert finish(robot, 1.0)[1].reason == "TIME_LIMIT", "it runs again after a round of its lifecycle"


def test_a_missing_stream_is_named_and_nothing_is_commanded(robot: Robot, policy: Processes) -> None:
    robot.keypoints = None
    status, result = finish(robot)
    assert (status, result.reason) == (GoalStatus.STATUS_ABORTED, "STREAM_STALE")
    assert "nothing received on /pusht/keypoints" in result.message
    assert robot.trajectories == []
    assert any(s.state == "waiting" and s.reason == "STREAM_STALE" for s in robot.statuses)


def test_a_stream_that_stops_ends_the_goal_with_its_name_and_age(robot: Robot, policy: Processes) -> None:
    handle = robot.send_goal(30.0)
    robot.until(lambda: len(robot.trajectories) >= 2, "trajectories")
    robot.publish_joints = False
    answer = robot.result(handle)
    assert (answer.status, answer.result.reason) == (GoalStatus.STATUS_ABORTED, "STREAM_STALE")
    assert "agent_pos" in answer.result.message
    assert "max_age_s is 0.25" in answer.result.message
    assert answer.result.duration_s < 10.0


def test_nan_in_the_joint_state_ends_the_goal_and_is_the_reason(robot: Robot, policy: Processes) -> None:
    handle = robot.send_goal(30.0)
    robot.until(lambda: len(robot.trajectories) >= 2, "trajectories")
    robot.position = np.array([np.nan, 200.0])
    answer = robot.result(handle)
    assert (answer.status, answer.result.reason) == (GoalStatus.STATUS_ABORTED, "BAD_OBSERVATION")
    assert "/pusht/joint_states has nan at [0]" in answer.result.message
    assert all(np.isfinite(p.positions).all() for m in robot.trajectories for p in m.points)


def test_a_camera_of_the_wrong_size_is_named_with_both_sizes(robot: Robot, tmp_path: Path) -> None:
    model, task = make_constant_image_model(tmp_path)
    robot.image = np.zeros((48, 64, 3), np.uint8)
    with running(bringup.policy(model=str(model), task=str(task), engine="onnx")):
        status, result = finish(robot)
        assert (status, result.reason) == (GoalStatus.STATUS_ABORTED, "BAD_OBSERVATION")
        assert "/pusht/image publishes 48x64, the task says 96x96; set resize: [96, 96]" in result.message
        assert robot.trajectories == []
        robot.image = np.zeros((96, 96, 3), np.uint8)
        assert finish(robot, 1.0)[1].reason == "TIME_LIMIT", "it recovers once the camera is right"
        assert robot.trajectories


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "pusht_image"}, "observations is ['agent_pos', 'image'], the model was made for"),
        ({"engine": "tensorrt"}, "parameter engine: got 'tensorrt', expected one of"),
    ],
)
def test_what_cannot_work_is_refused_at_start_with_the_reason(
    ros_domain: int, options: dict[str, str], words: str
) -> None:
    with running(bringup.policy(model="pusht_state", **options)) as processes:
        with Robot() as robot:
            robot.until(processes.ended, "the node's end")
        assert processes.ended() == {"policy": 2}
        assert words in "\n".join(processes.output("policy"))


def start_run(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dp_ros.cli.main", "run", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_person_runs_it_from_the_command_line_and_ctrl_c_cancels(robot: Robot, policy: Processes) -> None:
    robot.until_heard()
    to_the_end = start_run("--time-limit", "1.5")
    robot.until(lambda: to_the_end.poll() is not None, "the command's end", 40.0)
    output = to_the_end.communicate()[0]
    assert to_the_end.returncode == 0, output
    assert "TIME_LIMIT: ran for its time limit of 1.5 s" in output

    robot.until_ready()  # after the first goal, whose last trajectory may still have been on its way
    interrupted = start_run("--time-limit", "60")
    robot.until(lambda: robot.statuses[-1].state == "running", "the policy to act", 40.0)
    interrupted.send_signal(signal.SIGINT)
    robot.until(lambda: interrupted.poll() is not None, "the command's end", 20.0)
    output = interrupted.communicate()[0]
    assert interrupted.returncode == 130, output
    assert "CANCELED" in output
    assert "Traceback" not in output
