"""The recorder in this process; the test plays simulated robot and operator, in lockstep, message by message."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

rclpy = pytest.importorskip("rclpy")

from geometry_msgs.msg import Pose, PoseArray  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402
from trajectory_msgs.msg import JointTrajectory  # noqa: E402

from dp_ros.bridge.clock import to_ns, to_stamp  # noqa: E402
from dp_ros.bridge.outputs import encode_command  # noqa: E402
from dp_ros.bridge.qos import latched_qos, reliable_qos  # noqa: E402
from dp_ros.data.episode_writer import EpisodeWriter  # noqa: E402
from dp_ros.data.replay_buffer import ReplayBuffer  # noqa: E402
from dp_ros.errors import UserError  # noqa: E402
from dp_ros.msg import LockstepDone, RecorderStatus  # noqa: E402
from dp_ros.nodes.recorder_node import RecorderNode  # noqa: E402
from dp_ros.task import load_task  # noqa: E402

DT = 100_000_000
T0 = 1_000_000_000
NAMES = ["agent_x", "agent_y"]


class Stage:
    """A recorder, and publishers for everything that it listens to."""

    def __init__(self, out: Path, lockstep: bool = True, operator: bool = True, **others: str) -> None:
        parameters = {"out": str(out), "lockstep": str(lockstep).lower(), **others}
        arguments = [word for item in parameters.items() for word in ("-p", "{}:={}".format(*item))]
        rclpy.init(args=["--ros-args", *arguments])
        self.executor = SingleThreadedExecutor()
        self.recorder = RecorderNode()
        self.node = rclpy.create_node("stage", use_global_arguments=False)
        self.executor.add_node(self.recorder)
        self.executor.add_node(self.node)
        make = self.node.create_publisher
        self.clock = make(Clock, "/clock", reliable_qos())
        self.keypoints = make(PoseArray, "/pusht/keypoints", reliable_qos())
        self.joints = make(JointState, "/pusht/joint_states", reliable_qos())
        self.commands: Any = None
        if operator:
            self.commands = make(JointTrajectory, "/pusht/joint_trajectory", reliable_qos())
        self.operator = make(LockstepDone, "/lockstep/done", reliable_qos())
        self.acknowledged: list[int] = []
        self.statuses: list[Any] = []
        self.node.create_subscription(LockstepDone, "/lockstep/done", self._done, reliable_qos())
        self.node.create_subscription(RecorderStatus, "/recorder/status", self.statuses.append, latched_qos())
        self.triggers = {
            n: self.node.create_client(Trigger, f"/recorder/{n}")
            for n in ("start", "save", "discard", "delete_last")
        }
        self.marking = self.node.create_client(SetBool, "/recorder/mark")
        publishers = [p for p in (self.keypoints, self.joints, self.commands) if p is not None]
        self.until(lambda: all(p.get_subscription_count() for p in publishers), "subscriptions")
        if operator:
            self.until(lambda: not self.recorder._commands.unconnected(), "the operator's connection")
        self.until(lambda: all(c.service_is_ready() for c in self.triggers.values()), "services")
        if lockstep:
            self.until(lambda: self.clock.get_subscription_count(), "clock")
            self.until(lambda: self.operator.get_subscription_count() == 2, "lockstep")
            self.until(lambda: self.node.count_publishers("/lockstep/done") == 2, "acknowledgements")

    def close(self) -> None:
        self.executor.remove_node(self.recorder)
        self.recorder.destroy_node()
        self.node.destroy_node()
        self.executor.shutdown()
        rclpy.shutdown()

    def _done(self, message: Any) -> None:
        if message.participant == "recorder":
            self.acknowledged.append(to_ns(message.stamp))

    def until(self, condition: Callable[[], Any], what: str, limit_s: float = 10.0) -> None:
        end_s = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end_s, f"waited in vain for {what}"
            self.executor.spin_once(timeout_sec=0.01)

    def spin_a_little(self) -> None:
        for _ in range(30):
            self.executor.spin_once(timeout_sec=0.005)

    def call(self, name: str) -> Any:
        future = self.triggers[name].call_async(Trigger.Request())
        self.until(future.done, name)
        return future.result()

    def mark(self, success: bool) -> Any:
        future = self.marking.call_async(SetBool.Request(data=success))
        self.until(future.done, "mark")
        return future.result()

    def show(self, k: int, x: float | None = None) -> None:
        """Samples and clock of tick `k`."""
        stamp = to_stamp(T0 + k * DT)
        self.show_at(stamp, k, x)
        self.clock.publish(Clock(clock=stamp))

    def show_at(self, stamp: Any, k: int, x: float | None = None) -> None:
        """Samples of a time, with the values of tick `k`."""
        keypoints = PoseArray(poses=[Pose() for _ in range(9)])
        keypoints.header.stamp = stamp
        for pose in keypoints.poses:
            pose.position.x = float(k)
        joints = JointState(name=NAMES[::-1], position=[-float(k), float(k) if x is None else x])
        joints.header.stamp = stamp
        self.keypoints.publish(keypoints)
        self.joints.publish(joints)

    def operate(self, k: int, x: float | None) -> None:
        """The operator's answer to tick `k`: a command, or none."""
        time_ns = T0 + k * DT
        if x is not None:
            self.commands.publish(encode_command(np.array([x, -x]), time_ns, NAMES))
        self.operator.publish(
            LockstepDone(
                participant="teleop",
                stamp=to_stamp(time_ns),
                last_command=to_stamp(0 if x is None else time_ns),
            )
        )

    def tick(self, k: int, x: float | None = None) -> None:
        """A whole tick: samples, operator, and the recorder's acknowledgement."""
        self.show(k)
        self.operate(k, x)
        self.until(lambda: T0 + k * DT in self.acknowledged, f"acknowledgement of tick {k}")


@pytest.fixture
def stage(ros_domain: int, tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path / "x.zarr")
    yield made
    made.close()


def test_an_episode_runs_from_the_first_command_to_the_last(stage: Stage, tmp_path: Path) -> None:
    stage.tick(0)
    assert stage.call("start").success
    stage.tick(1)
    for k in (2, 3, 4):
        stage.tick(k, x=100.0 + k)
    stage.tick(5)
    answer = stage.call("save")
    assert answer.success and answer.message == "episode 0 saved, 3 steps"
    episode = ReplayBuffer.open(tmp_path / "x.zarr").episode(0)
    assert episode["action"].tolist() == [[102, -102], [103, -103], [104, -104]]
    assert episode["agent_pos"].tolist() == [[2, -2], [3, -3], [4, -4]]
    assert episode["keypoint"][:, 0].tolist() == [2, 3, 4]
    assert episode["timestamp"].tolist() == [0.0, 0.1, 0.2]


def test_a_time_is_acknowledged_only_when_its_row_is_complete(stage: Stage) -> None:
    stage.tick(0)
    stage.call("start")
    stage.show(1)
    stage.operator.publish(
        LockstepDone(participant="teleop", stamp=to_stamp(T0 + DT), last_command=to_stamp(T0 + DT))
    )
    stage.spin_a_little()
    assert T0 + DT not in stage.acknowledged  # the command it names is not here
    stage.commands.publish(encode_command(np.array([1.0, 2.0]), T0 + DT, NAMES))
    stage.until(lambda: T0 + DT in stage.acknowledged, "the acknowledgement")


def test_services_refuse_what_makes_no_sense_and_say_why(stage: Stage) -> None:
    stage.tick(0)
    assert stage.call("save").message == "no steps to save: not recording"
    assert stage.call("discard").message == "not recording"
    assert stage.call("start").success
    assert stage.call("start").message == "already recording, 0 steps so far; save or discard them"
    stage.tick(1)
    answer = stage.call("save")
    assert not answer.success
    assert answer.message == "no steps to save: nothing was commanded on /pusht/joint_trajectory"
    stage.tick(2, x=1.0)
    assert stage.call("discard").message == "1 steps discarded"
    assert stage.recorder._writer.n_episodes == 0


def test_a_value_that_is_not_finite_ends_the_recording_and_keeps_what_was_before(
    stage: Stage, tmp_path: Path
) -> None:
    stage.tick(0)
    stage.call("start")
    stage.tick(1, x=1.0)
    stage.tick(2, x=2.0)
    stage.show(3, x=float("nan"))
    stage.until(lambda: stage.statuses[-1].phase == "idle", "the end of the recording")
    assert "recording ended after 2 steps: agent_pos: " in stage.recorder._message
    assert "values must be finite" in stage.recorder._message
    assert stage.call("start").message == "2 steps are not saved yet; save or discard them"
    answer = stage.call("save")
    assert answer.success
    assert answer.message.startswith("episode 0 saved, 2 steps; recording ended after 2 steps: agent_pos")
    assert ReplayBuffer.open(tmp_path / "x.zarr").n_steps == 2


def test_an_operator_who_pauses_ends_the_recording(stage: Stage) -> None:
    stage.tick(0)
    stage.call("start")
    stage.tick(1, x=1.0)
    stage.tick(2)
    stage.tick(3, x=1.0)
    stage.until(lambda: stage.statuses[-1].phase == "idle", "the end of the recording")
    assert "nothing was commanded on /pusht/joint_trajectory for 0.10 s" in stage.recorder._message


def test_the_status_names_what_lockstep_waits_for(stage: Stage) -> None:
    stage.clock.publish(Clock(clock=to_stamp(T0)))
    stage.until(lambda: stage.statuses and "waiting" in stage.statuses[-1].message, "the status")
    assert stage.statuses[-1].message == (
        "waiting for keypoint (/pusht/keypoints), agent_pos (/pusht/joint_states), the operator teleop"
    )


def test_without_a_stream_recording_does_not_start(ros_domain: int, tmp_path: Path) -> None:
    stage = Stage(tmp_path / "x.zarr", lockstep=False)
    try:
        answer = stage.call("start")
        assert not answer.success
        assert answer.message == "keypoint: nothing received on /pusht/keypoints yet"
    finally:
        stage.close()


def test_before_an_operator_is_connected_recording_does_not_start(ros_domain: int, tmp_path: Path) -> None:
    stage = Stage(tmp_path / "x.zarr", operator=False)
    try:
        stage.show(0)
        stage.until(lambda: stage.recorder._rows.buffer.complete_at(T0), "samples")
        answer = stage.call("start")
        assert not answer.success
        assert answer.message == ("no operator is connected to /pusht/joint_trajectory yet; start one first")
        stage.commands = stage.node.create_publisher(
            JointTrajectory, "/pusht/joint_trajectory", reliable_qos()
        )
        stage.until(lambda: stage.call("start").success, "the start")
    finally:
        stage.close()


def test_a_hold_up_in_the_middle_of_an_episode_ends_nothing(ros_domain: int, tmp_path: Path) -> None:
    stage = Stage(tmp_path / "x.zarr", lockstep=False)

    def now_ns() -> int:
        return stage.node.get_clock().now().nanoseconds

    def show_until(end_ns: int) -> None:
        """Publish every 0.1 s without spinning."""
        nonlocal next_ns, k
        while next_ns <= end_ns:
            while now_ns() < next_ns:
                pass
            stage.commands.publish(encode_command(np.array([k, -k]), next_ns + DT, NAMES))
            stage.show_at(to_stamp(next_ns), k)
            next_ns, k = next_ns + DT, k + 1

    try:

        def started() -> bool:
            stage.show_at(to_stamp(now_ns()), 0)
            return bool(stage.call("start").success)

        stage.until(started, "the start")
        next_ns, k = now_ns(), 0
        show_until(next_ns + 2 * DT)
        stage.until(lambda: stage.recorder._rows.n_rows, "the first row")
        stage.until(lambda: not stage.recorder._arrived, "a look at what has come")
        show_until(next_ns + 8 * DT)  # much longer than max_age_s; the recorder does not spin meanwhile
        assert stage.call("save").message.startswith("episode 0 saved")
    finally:
        stage.close()
    episode = ReplayBuffer.open(tmp_path / "x.zarr").episode(0)
    assert episode["action"][:10, 0].tolist() == list(range(10))
    assert episode["agent_pos"][:10, 0].tolist() == list(range(1, 11))


def test_in_real_time_nothing_is_lost_while_the_recorder_is_held_up(ros_domain: int, tmp_path: Path) -> None:
    stage = Stage(tmp_path / "x.zarr", lockstep=False)

    def now_ns() -> int:
        return stage.node.get_clock().now().nanoseconds

    try:

        def started() -> bool:
            stage.show_at(to_stamp(now_ns()), 0)
            return bool(stage.call("start").success)

        stage.until(started, "the start")
        begin_ns = now_ns() + DT
        for k in range(5):  # nobody spins the recorder: everything waits for it
            while now_ns() < begin_ns + k * DT:
                pass
            stage.commands.publish(encode_command(np.array([k, -k]), begin_ns + (k + 1) * DT, NAMES))
            stage.show_at(to_stamp(begin_ns + k * DT), k)
        while now_ns() < begin_ns + 6 * DT:
            pass
        stage.show_at(to_stamp(begin_ns + 5 * DT), 5)
        saved = stage.call("save")
        assert saved.success, saved.message
    finally:
        stage.close()
    episode = ReplayBuffer.open(tmp_path / "x.zarr").episode(0)
    # Until it is saved the last command and the last sample stand for one step more.
    assert episode["action"][:5, 0].tolist() == [0, 1, 2, 3, 4]
    assert episode["agent_pos"][:5, 0].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([], "parameter out is empty"),
        (["-p", "out:=x.zarr", "-p", "task:=nothing"], "task nothing"),
        (
            ["-p", "out:=x.zarr", "-p", "hold_steps:=0.5"],
            "parameter hold_steps: expected float from 1 to 100",
        ),
        (["-p", "out:=x.zarr", "-p", "episode_seed:=-5"], "parameter episode_seed"),
        (["-p", "out:=x.zarr", "-p", "raw_streams:=joints"], "raw_streams.*none, vectors, all"),
        (
            ["-p", "out:=x.zarr", "-p", "raw_streams:=all", "-p", "lockstep:=true"],
            "raw_streams: got all, but lockstep",
        ),
        (
            ["-p", "out:=x.zarr", "-p", "jpeg_quality:=90", "-p", "video_crf:=20"],
            "jpeg_quality 90 and video_crf 20: give one",
        ),
        (["-p", "out:=x.zarr", "-p", "video_crf:=60"], "parameter video_crf.*51"),
    ],
)
def test_bad_parameters_are_refused_with_a_reason(
    ros_domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameters: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    rclpy.init(args=["--ros-args", *parameters])
    try:
        with pytest.raises(UserError, match=message):
            RecorderNode()
    finally:
        rclpy.shutdown()
    assert not (tmp_path / "x.zarr").exists()


def test_a_recording_of_another_task_is_refused(ros_domain: int, tmp_path: Path) -> None:
    EpisodeWriter(tmp_path / "x.zarr", load_task("pusht_image")).close()
    rclpy.init(args=["--ros-args", "-p", f"out:={tmp_path / 'x.zarr'}"])
    try:
        with pytest.raises(UserError, match="holds episodes of task pusht_image .* not of pusht_state"):
            RecorderNode()
    finally:
        rclpy.shutdown()


def record(stage: Stage, first: int) -> None:
    """Start, and three steps of an episode."""
    stage.tick(first)
    assert stage.call("start").success
    for k in (first + 1, first + 2, first + 3):
        stage.tick(k, x=float(k))


def test_an_episode_is_saved_with_its_mark_and_who_demonstrated(stage: Stage, tmp_path: Path) -> None:
    stage.recorder.set_parameters(
        [Parameter("operator_name", value="anna"), Parameter("instruction", value="push")]
    )
    stage.tick(0)
    assert not stage.mark(True).success
    record(stage, first=1)
    assert stage.mark(True).success
    stage.until(lambda: stage.statuses[-1].success == 1, "the mark in the status")
    assert stage.call("save").success
    record(stage, first=5)
    assert stage.call("save").success
    buffer = ReplayBuffer.open(tmp_path / "x.zarr")
    assert buffer.episode_success.tolist() == [1, -1]
    info = buffer.episode_info[0]
    assert (info["operator"], info["instruction"]) == ("anna", "push")
    assert info["task_digest"] == load_task("pusht_state").digest()


def test_the_last_episode_can_be_deleted_and_is_kept_elsewhere(stage: Stage, tmp_path: Path) -> None:
    record(stage, first=1)
    answer = stage.call("delete_last")
    assert not answer.success and "are in progress" in answer.message
    assert stage.call("save").success
    answer = stage.call("delete_last")
    assert answer.success and str(tmp_path / "x.set_aside.zarr") in answer.message
    assert ReplayBuffer.open(tmp_path / "x.zarr").n_episodes == 0
    assert ReplayBuffer.open(tmp_path / "x.set_aside.zarr").n_episodes == 1
    stage.until(lambda: stage.statuses[-1].episodes == 0, "the status")
    assert "no episode is there to delete" in stage.call("delete_last").message


def test_a_disk_that_fills_up_is_said_early_and_ends_the_recording_in_time(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [10**10]
    monkeypatch.setattr(stage.recorder._space, "_free", lambda path: free[0])
    record(stage, first=1)
    stage.until(lambda: stage.statuses and not stage.statuses[-1].problems, "a status without problems")
    free[0] = 10**9
    stage.until(lambda: any("1000 MB are left" in p for p in stage.statuses[-1].problems), "the warning")
    assert stage.statuses[-1].phase == "recording"
    free[0] = 10**8
    stage.until(lambda: stage.statuses[-1].phase == "idle", "the end")
    assert "recording ended after 3 steps: 100 MB are left" in stage.statuses[-1].message
    assert "100 MB are left" in stage.call("start").message or stage.recorder._rows.n_rows
    assert stage.call("save").success
    assert "100 MB are left" in stage.call("start").message
    assert ReplayBuffer.open(tmp_path / "x.zarr").n_episodes == 1


def test_a_stream_that_is_missing_late_or_frozen_is_shown_while_recording(
    ros_domain: int, tmp_path: Path
) -> None:
    given = load_task("pusht_state").model_dump(mode="json")
    given["observations"]["agent_pos"]["freeze_after_s"] = 0.3
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(given))
    stage = Stage(tmp_path / "x.zarr", lockstep=False, task=str(tmp_path / "task.yaml"))
    shown: list[str] = []  # streams that give samples
    x = 0.0

    def after(what: str, *words: str, still: bool = False) -> None:
        """Wait, while the robot speaks, until the status says so and nothing else."""

        def said() -> bool:
            nonlocal x
            stamp, x = to_stamp(stage.node.get_clock().now().nanoseconds), x + (0.0 if still else 0.01)
            if "keypoint" in shown:
                keypoints = PoseArray(poses=[Pose() for _ in range(9)])
                keypoints.header.stamp = stamp
                stage.keypoints.publish(keypoints)
            if "agent_pos" in shown:
                joints = JointState(name=NAMES, position=[x, x])
                joints.header.stamp = stamp
                stage.joints.publish(joints)
            found = [] if not stage.statuses else stage.statuses[-1].problems
            one = len(found) == 1 and all(word in found[0] for word in words)
            return bool(stage.statuses) and (one if words else not found)

        stage.until(said, what)

    try:
        shown[:] = ["agent_pos"]
        after("the missing stream", "keypoint", "/pusht/keypoints")
        shown[:] = ["agent_pos", "keypoint"]
        after("no problem")
        started = stage.call("start")
        assert started.success, started.message
        shown[:] = ["agent_pos"]
        after("the late stream", "keypoint", "old")
        assert stage.statuses[-1].phase == "recording"
        ages = dict(zip(stage.statuses[-1].streams, stage.statuses[-1].ages_s, strict=True))
        assert ages["keypoint"] > 0.25 > ages["agent_pos"] >= 0.0
        shown[:] = ["agent_pos", "keypoint"]
        after("that it is back")
        after("the frozen stream", "agent_pos", "/pusht/joint_states", still=True)
        assert stage.statuses[-1].phase == "recording"
        after("that it moves again")
    finally:
        stage.close()
