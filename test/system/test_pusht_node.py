"""The simulated robot as a real process: what it publishes, which commands it takes, how it is reset."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from geometry_msgs.msg import PoseArray
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from dp_ros.bridge.clock import to_ns, to_stamp
from dp_ros.bridge.images import image_array
from dp_ros.bridge.outputs import encode_command
from dp_ros.bridge.pusht_client import PushTClient
from dp_ros.bridge.qos import reliable_qos
from dp_ros.bringup import Bringup, NodeSpec
from dp_ros.errors import UserError
from dp_ros.msg import LockstepDone
from dp_ros.processes import Processes, command_of, running
from dp_ros.sim.pusht import PushT
from dp_ros.sim.pusht_view import render
from dp_ros.task import load_task

pytestmark = pytest.mark.timeout(60)
NAMES = ["agent_x", "agent_y"]


class Wire(PushTClient):
    """A client that listens to everything the robot publishes and can command it."""

    def listen(self) -> None:
        self.heard: dict[str, list[Any]] = {"joints": [], "keypoints": [], "image": [], "clock": []}
        for key, kind, topic in (
            ("joints", JointState, "/pusht/joint_states"),
            ("keypoints", PoseArray, "/pusht/keypoints"),
            ("image", Image, "/pusht/image"),
            ("clock", Clock, "/clock"),
        ):
            self.node.create_subscription(kind, topic, self.heard[key].append, reliable_qos(1000))
        self._command_pub = self.node.create_publisher(
            JointTrajectory, "/pusht/joint_trajectory", reliable_qos()
        )
        self._done_pub = self.node.create_publisher(LockstepDone, "/lockstep/done", reliable_qos())
        self.wait(lambda: self._command_pub.get_subscription_count(), "the robot to listen")
        self.wait(lambda: self._done_pub.get_subscription_count(), "the barrier to listen")

    def command(self, position: list[float], stamp_ns: int, names: list[str] = NAMES) -> None:
        self._command_pub.publish(encode_command(np.array(position), stamp_ns, names))

    def done(self, time_ns: int, command_ns: int = 0) -> None:
        message = LockstepDone(
            participant="policy", stamp=to_stamp(time_ns), last_command=to_stamp(command_ns)
        )
        self._done_pub.publish(message)

    def forget(self) -> None:
        for heard in self.heard.values():
            heard.clear()


@contextmanager
def robot(**parameters: Any) -> Iterator[tuple[Wire, Processes]]:
    given = {"task": "pusht_state", "lockstep": False, "use_sim_time": False, **parameters}
    description = Bringup("robot", (NodeSpec("pusht", "pusht_node", given),))
    with running(description) as processes, Wire(load_task("pusht_state"), processes.check, 20.0) as wire:
        wire.listen()
        wire.wait(lambda: wire.statuses, "the robot's status")
        yield wire, processes


def test_it_shows_the_start_state_of_its_seed_in_every_stream(ros_domain: int) -> None:
    world = PushT()
    world.reset(100007)
    with robot(seed=100007, image_size_px=64) as (wire, _):
        wire.wait(lambda: all(wire.heard[k] for k in ("joints", "keypoints", "image")), "all streams")
        joints, keypoints, image = (wire.heard[k][-1] for k in ("joints", "keypoints", "image"))
        assert (list(joints.name), list(joints.position)) == (NAMES, world.agent_pos.tolist())
        assert [[p.position.x, p.position.y] for p in keypoints.poses] == world.keypoints.tolist()
        assert np.array_equal(image_array(image), render(world.state, 64))
        status = wire.statuses[-1]
        assert (status.seed, status.phase, status.step) == (100007, "ready", 0)
        assert list(status.state) == world.state.tolist()
        assert wire.heard["clock"] == [], "in real time it is no clock"


def test_sensors_have_rates_of_their_own_on_one_clock(ros_domain: int) -> None:
    with robot(joint_rate_hz=50, camera_rate_hz=20) as (wire, _):
        wire.command([200.0, 200.0], wire.node.get_clock().now().nanoseconds + 300_000_000)
        wire.wait(lambda: wire.statuses[-1].step >= 5, "motion")
        wire.forget()
        first = wire.statuses[-1].step
        wire.wait(lambda: wire.statuses[-1].step >= first + 15, "15 control steps")
        for key, period_ns in (("joints", 20_000_000), ("image", 50_000_000), ("keypoints", 50_000_000)):
            stamps = [to_ns(m.header.stamp) for m in wire.heard[key]]
            assert set(np.diff(stamps).tolist()) <= {period_ns}, key
        images = {to_ns(m.header.stamp) for m in wire.heard["image"]}
        joints = {to_ns(m.header.stamp) for m in wire.heard["joints"]}
        assert len(images & joints) >= len(images) // 2 - 1, "they share the instants they have in common"


def test_stamps_are_never_ahead_of_the_clock_after_a_standstill(ros_domain: int) -> None:
    with robot() as (wire, processes):
        ahead_ns: list[int] = []

        def compare(message: JointState) -> None:
            ahead_ns.append(to_ns(message.header.stamp) - wire.node.get_clock().now().nanoseconds)

        wire.node.create_subscription(JointState, "/pusht/joint_states", compare, reliable_qos(1000))
        for late_s in (0.13, 0.26, 0.39):  # late by something else than whole ticks, whatever the phase
            wire.wait(lambda: wire.heard["joints"], "joint states")
            processes.send("pusht", signal.SIGSTOP)
            time.sleep(late_s)  # it is the standstill itself
            processes.send("pusht", signal.SIGCONT)
            wire.forget()
            ahead_ns.clear()
            wire.wait(lambda: len(ahead_ns) >= 4, "joint states after a standstill")
            assert max(ahead_ns) <= 0
        assert any("off the clock" in line for line in processes.output("pusht"))


def test_the_world_stands_still_until_a_command_and_refuses_bad_ones(ros_domain: int) -> None:
    with robot() as (wire, _):
        still = list(wire.statuses[-1].state)
        now_ns = wire.node.get_clock().now().nanoseconds
        wire.command([100.0, 100.0], now_ns, names=["elbow", "wrist"])
        wire.command([float("nan"), 100.0], now_ns)
        wire.command([100.0, 100.0], now_ns - 3_000_000_000)
        wire.wait(lambda: wire.statuses[-1].rejected == 3, "three refusals")
        assert list(wire.statuses[-1].state) == still
        assert wire.statuses[-1].phase == "ready"
        wire.command([300.0, 300.0], wire.node.get_clock().now().nanoseconds + 500_000_000)
        wire.wait(lambda: wire.statuses[-1].phase == "running" and wire.statuses[-1].step >= 20, "motion")
        assert np.allclose(wire.statuses[-1].state[:2], [300.0, 300.0], atol=2.0), "it holds at the end"


def test_a_reset_is_counted_and_forgets_commands_made_before_it(ros_domain: int) -> None:
    with robot() as (wire, _):
        before_ns = wire.node.get_clock().now().nanoseconds
        wire.reset(5)
        status = wire.statuses[-1]
        world = PushT()
        world.reset(5)
        assert (status.episode, status.seed, status.step) == (2, 5, 0)
        assert list(status.state) == world.state.tolist()
        wire.command([300.0, 300.0], before_ns)
        wire.wait(lambda: wire.statuses[-1].rejected == 1, "the refusal")
        assert wire.statuses[-1].phase == "ready"
        with pytest.raises(UserError, match="seed -4 is out of range"):
            wire.reset(-4)


def test_lockstep_moves_on_only_when_the_participant_is_done_and_its_command_is_here(ros_domain: int) -> None:
    with robot(lockstep=True) as (wire, _):
        start_ns = to_ns(wire.wait(lambda: wire.heard["clock"], "the clock")[-1].clock)
        wire.wait(lambda: len(wire.heard["clock"]) >= 4, "the repeated clock")
        assert {to_ns(m.clock) for m in wire.heard["clock"]} == {start_ns}
        wire.done(start_ns, command_ns=start_ns)
        wire.forget()
        wire.wait(lambda: len(wire.heard["clock"]) >= 3, "the repeated clock")
        assert {to_ns(m.clock) for m in wire.heard["clock"]} == {start_ns}, "the command is not here yet"
        wire.command([200.0, 200.0], start_ns)
        wire.wait(lambda: wire.statuses[-1].step == 1, "the first step")
        wire.wait(lambda: to_ns(wire.heard["clock"][-1].clock) == start_ns + 100_000_000, "the next clock")
        world = PushT()
        world.reset(100000)
        world.step([200.0, 200.0])
        assert list(wire.statuses[-1].state) == world.state.tolist()


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"joint_rate_hz": 30}, "joint_rate_hz: got 30, expected a divisor of 100"),
        ({"joint_rate_hz": 50, "lockstep": True}, "expected 10: lockstep"),
        ({"image_size_px": 8}, "image_size_px: got 8, expected 0 or 16 to 1024"),
        ({"seed": -1}, "parameter seed: expected int from 0"),
        ({"task": "nowhere.yaml"}, "task nowhere.yaml: No such file"),
    ],
)
def test_a_bad_parameter_ends_it_at_once_with_the_reason(
    ros_domain: int, parameters: dict[str, Any], words: str
) -> None:
    given = {"task": "pusht_state", "lockstep": False, **parameters}
    command = command_of(NodeSpec("pusht", "pusht_node", given))
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
