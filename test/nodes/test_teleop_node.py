"""The teleoperation node with a gamepad and a leader arm; the test plays device and robot, in real time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from sensor_msgs.msg import JointState, Joy  # noqa: E402
from std_msgs.msg import Bool  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402
from trajectory_msgs.msg import JointTrajectory  # noqa: E402

from dp_ros.bridge.clock import to_ns  # noqa: E402
from dp_ros.bridge.qos import reliable_qos  # noqa: E402
from dp_ros.errors import UserError  # noqa: E402
from dp_ros.msg import PolicyStatus  # noqa: E402
from dp_ros.nodes.teleop_node import TeleopNode  # noqa: E402


class Person:
    """A teleoperation node, its device and its robot."""

    def __init__(self, **parameters: object) -> None:
        words = [word for key, value in parameters.items() for word in ("-p", f"{key}:={value}")]
        rclpy.init(args=["--ros-args", *words])
        self.executor = SingleThreadedExecutor()
        self.teleop = TeleopNode()
        self.node = rclpy.create_node("person", use_global_arguments=False)
        self.executor.add_node(self.teleop)
        self.executor.add_node(self.node)
        self.joy = self.node.create_publisher(Joy, "/joy", reliable_qos())
        self.leader = self.node.create_publisher(JointState, "/leader/joint_states", reliable_qos())
        self.joints = self.node.create_publisher(JointState, "/pusht/joint_states", reliable_qos())
        self.stop = self.node.create_publisher(Bool, "/policy/emergency_stop", reliable_qos())
        self.policy = self.node.create_publisher(PolicyStatus, "/policy/status", reliable_qos())
        self.clear = self.node.create_client(Trigger, "/teleop/clear_emergency_stop")
        self.commands: list[Any] = []
        self.repeated: list[Any] = []
        for topic, kept in (
            ("/pusht/joint_trajectory", self.commands),
            ("/policy/operator", self.repeated),
        ):
            self.node.create_subscription(JointTrajectory, topic, kept.append, reliable_qos())
        self.device: Callable[[], None] = lambda: None
        self._robot_s = 0.0
        self.until(lambda: self.joints.get_subscription_count(), "the node to listen")

    def until(self, condition: Callable[[], Any], what: str, limit_s: float = 10.0) -> None:
        """Spin with the robot and the device speaking 40 times a second until something is true."""
        end_s = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end_s, f"waited in vain for {what}"
            if time.monotonic() - self._robot_s > 0.025:
                self._robot_s = time.monotonic()
                stamp = self.node.get_clock().now().to_msg()
                joints = JointState(name=["agent_y", "agent_x"], position=[200.0, 100.0])
                joints.header.stamp = stamp
                self.joints.publish(joints)
                self.device()
            self.executor.spin_once(timeout_sec=0.005)

    def target(self) -> list[float]:
        return [] if not self.commands else list(self.commands[-1].points[-1].positions)

    def close(self) -> None:
        self.teleop.destroy_node()
        self.node.destroy_node()
        self.executor.shutdown()
        rclpy.shutdown()


@contextmanager
def person(**parameters: object) -> Iterator[Person]:
    made = Person(**parameters)
    try:
        yield made
    finally:
        made.close()


def gamepad(made: Person, axes: list[float], *, held: bool) -> Callable[[], None]:
    return lambda: made.joy.publish(Joy(axes=axes, buttons=[0, 0, 0, 0, int(held)]))


def test_a_stick_moves_the_robot_while_the_deadman_is_held(ros_domain: int) -> None:
    with person(operator="joy", speed="[100.0, 100.0]", hold_s=0.2) as made:
        made.device = gamepad(made, [1.0, -0.02], held=False)
        made.until(lambda: made.joy.get_subscription_count(), "the gamepad")
        end_s = time.monotonic() + 0.3
        made.until(lambda: time.monotonic() > end_s, "a while")
        assert not made.commands
        made.device = gamepad(made, [1.0, -0.02], held=True)
        made.until(lambda: made.commands and made.target()[0] > 130.0, "the motion")
        first = made.commands[0]
        assert list(first.joint_names) == ["agent_x", "agent_y"]
        assert first.points[0].positions[0] == pytest.approx(100.0, abs=6.0)  # from where the robot is
        assert made.target()[1] == pytest.approx(200.0)  # within the dead zone
        assert list(made.commands[-1].points[-1].velocities) == [0.0, 0.0]
        made.device = gamepad(made, [1.0, -0.02], held=False)
        made.until(lambda: not any(made.commands[-1].points[0].velocities), "the stop")
        made.device = lambda: None
        count = -1

        def silent() -> bool:
            nonlocal count
            before, count = count, len(made.commands)
            return before == count

        end_s = time.monotonic() + 0.5
        made.until(lambda: time.monotonic() > end_s, "a while")
        made.until(silent, "silence")


def test_a_gamepad_that_falls_silent_was_let_go(ros_domain: int) -> None:
    with person(operator="joy", speed="[100.0, 100.0]", hold_s=0.1, command_timeout_s=0.2) as made:
        made.device = gamepad(made, [0.0, 1.0], held=True)
        made.until(lambda: made.commands and made.target()[1] > 220.0, "the motion")
        made.device = lambda: None
        made.until(lambda: not any(made.commands[-1].points[0].velocities), "the stop")


def test_the_robot_goes_to_a_leader_arm_at_the_operators_speed_and_follows_it(ros_domain: int) -> None:
    with person(
        operator="leader",
        speed="[400.0, 400.0]",
        leader_joints='["a", "b"]',
        leader_scales="[100.0, -100.0]",
        leader_offsets="[0.0, 300.0]",
    ) as made:
        made.device = lambda: made.leader.publish(JointState(name=["b", "a"], position=[0.5, 1.5]))
        made.until(
            lambda: made.target() and made.target() == pytest.approx([150.0, 250.0], abs=0.5), "the leader"
        )
        steps = [
            abs(b.points[0].positions[0] - a.points[0].positions[0])
            for a, b in zip(made.commands, made.commands[1:], strict=False)
        ]
        assert max(steps) <= 400.0 * 0.05 + 1e-6
        made.device = lambda: made.leader.publish(JointState(name=["a"], position=[0.5]))
        made.until(
            lambda: not any(made.commands[-1].points[0].velocities), "the stop of one that lacks joints"
        )


def test_the_emergency_stop_ends_the_motion_until_it_is_cleared_and_the_deadman_pressed_anew(
    ros_domain: int,
) -> None:
    with person(operator="joy", speed="[60.0, 60.0]", hold_s=0.1, command_rate_hz=50.0) as made:

        def at_rest() -> bool:
            return bool(made.commands) and not any(made.commands[-1].points[0].velocities)

        def drives_again(what: str) -> None:
            made.device = gamepad(made, [1.0, 0.0], held=False)
            made.until(lambda: not made.teleop._operator._again, "the deadman to be let go")
            made.device = gamepad(made, [1.0, 0.0], held=True)
            made.until(lambda: not at_rest(), what)

        made.device = gamepad(made, [1.0, 0.0], held=True)
        made.until(lambda: made.commands and not at_rest(), "the motion")

        def spans_s() -> float:  # of the last 16 commands
            stamps = [to_ns(command.header.stamp) for command in made.commands[-16:]]
            return (stamps[-1] - stamps[0]) / 1e9 if len(stamps) == 16 else float("inf")

        made.until(lambda: spans_s() < 0.5, "50 commands a second")  # the task says 20
        made.until(lambda: made.stop.get_subscription_count(), "the stop's listener")
        made.stop.publish(Bool(data=True))
        made.until(at_rest, "the stop by topic")
        made.policy.publish(PolicyStatus(emergency_stop=False))  # sent before the policy heard of it
        made.until(lambda: made.teleop._operator._stop._policy is False, "the policy's status")
        assert made.teleop._operator._stop.problem
        answer = made.clear.call_async(Trigger.Request())
        made.until(answer.done, "the answer")
        assert answer.result().success
        count = len(made.commands)
        end_s = time.monotonic() + 0.3
        made.until(lambda: time.monotonic() > end_s, "a while")
        assert not any(v for c in made.commands[count:] for v in c.points[0].velocities)  # held all the time
        drives_again("the motion after the stop")
        made.policy.publish(PolicyStatus(emergency_stop=True))  # pressed by the service alone
        made.until(at_rest, "the stop by the policy's word")
        answer = made.clear.call_async(Trigger.Request())
        made.until(answer.done, "the answer")
        assert not answer.result().success and "latched" in answer.result().message
        made.policy.publish(PolicyStatus(emergency_stop=False))
        made.until(lambda: not made.teleop._operator._stop.problem, "the policy's word that it is cleared")
        drives_again("the motion after the second stop")


def test_a_stop_that_was_latched_before_is_heeded(ros_domain: int) -> None:
    with person(operator="joy", speed="[60.0, 60.0]") as made:
        made.until(lambda: made.policy.get_subscription_count(), "the status's listener")
        made.policy.publish(PolicyStatus(emergency_stop=True))
        made.until(lambda: made.teleop._operator._stop.problem, "the policy's status")
        made.device = gamepad(made, [1.0, 0.0], held=True)
        end_s = time.monotonic() + 0.4
        made.until(lambda: time.monotonic() > end_s, "a while")
        assert not made.commands


def test_a_policy_hears_of_every_command(ros_domain: int) -> None:
    with person(operator="joy") as made:
        made.device = gamepad(made, [1.0, 0.0], held=True)
        made.until(lambda: made.commands and made.repeated, "commands on both topics")
        made.until(lambda: made.repeated[0] in made.commands, "the same command")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"operator": "joy", "axes": "[0]"},
            "axes: got 1 values, expected 2, one for each of agent_x, agent_y",
        ),
        ({"operator": "joy", "deadman_button": "-1"}, "a gamepad needs one"),
        ({"operator": "joy", "speed": "[1.0]"}, "expected 2 values above 0"),
        ({"operator": "leader", "leader_offsets": "[1.0]"}, "leader_offsets: got 1 values"),
        ({"operator": "joy", "lockstep": "true"}, "does not wait for a person"),
        ({"operator": "joy", "command_rate_hz": "500.0"}, "commands a second, 5 to 100; 20 by the task"),
        ({"operator": "hand"}, "expected one of expert, joy, leader"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(
    ros_domain: int, parameters: dict[str, str], message: str
) -> None:
    words = [word for key, value in parameters.items() for word in ("-p", f"{key}:={value}")]
    rclpy.init(args=["--ros-args", *words])
    try:
        with pytest.raises(UserError, match=message):
            TeleopNode()
    finally:
        rclpy.shutdown()
