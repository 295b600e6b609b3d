"""A robot's side of the wire for system tests: publishes what a task names, receives what the policy sends.

The only mock in these tests, and it stands where a robot would be; everything it talks to is a real process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Pose, PoseArray
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.action import ActionClient
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from dp_ros.action import RunPolicy
from dp_ros.bridge.client import RosClient
from dp_ros.bridge.clock import to_ns
from dp_ros.bridge.codecs import decode_trajectory, encode_image
from dp_ros.bridge.qos import latched_qos, reliable_qos
from dp_ros.msg import ActionChunk, PolicyStatus, Takeover
from dp_ros.sim.trajectory_controller import TrajectoryController

JOINTS = ["agent_x", "agent_y"]
PERIOD_S = 0.1


class Robot(RosClient):
    """Publishes at 10 Hz while it waits; `streams` maps a stream to what it publishes, or leaves it out."""

    def __init__(self, *, listens: bool = True) -> None:
        super().__init__("robot")
        self._listens = listens
        self.position = np.array([100.0, 200.0])
        self.keypoints: np.ndarray | None = np.zeros((9, 2))
        self.image: np.ndarray | None = None
        self.publish_joints = True
        self.trajectories: list[Any] = []
        self.verdicts: list[str | None] = []
        self.chunks: list[Any] = []
        self.statuses: list[Any] = []
        self.feedback: list[Any] = []
        self.setpoints: list[tuple[int, np.ndarray]] = []
        self.takeovers: list[Any] = []
        self.diagnostics: list[Any] = []
        self.operating = False  # whether the operator commands
        self.deadman: bool | None = None  # what is said of it; None: nothing
        self.controller = TrajectoryController(JOINTS)
        self.controller.hold(self.position)

    def __enter__(self) -> Self:
        super().__enter__()
        qos = reliable_qos()
        self._joint_pub = self.node.create_publisher(JointState, "/pusht/joint_states", qos)
        self._keypoint_pub = self.node.create_publisher(PoseArray, "/pusht/keypoints", qos)
        self._image_pub = self.node.create_publisher(Image, "/pusht/image", qos)
        if self._listens:
            self.node.create_subscription(JointTrajectory, "/pusht/joint_trajectory", self._receive, qos)
        self.node.create_subscription(ActionChunk, "/policy/action_chunk", self.chunks.append, qos)
        self.node.create_subscription(PolicyStatus, "/policy/status", self.statuses.append, qos)
        self.node.create_subscription(Float64MultiArray, "/pusht/setpoints", self._setpoint, qos)
        self.node.create_subscription(Takeover, "/policy/takeover", self.takeovers.append, latched_qos())
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, qos)
        self._operator_pub = self.node.create_publisher(JointTrajectory, "/policy/operator", qos)
        self._deadman_pub = self.node.create_publisher(Bool, "/policy/deadman", qos)
        self.stop_pub = self.node.create_publisher(Bool, "/policy/emergency_stop", qos)
        self.run_client = ActionClient(self.node, RunPolicy, "/policy/run")
        self._change = self.node.create_client(ChangeState, "/policy/change_state")
        self._get = self.node.create_client(GetState, "/policy/get_state")
        self._next_s = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run_client.destroy()
        super().__exit__(kind, error, trace)

    def now_ns(self) -> int:
        return self.node.get_clock().now().nanoseconds

    def until(self, condition: Callable[[], Any], what: str, limit_s: float = 20.0) -> Any:
        """Publish and receive until `condition` gives something true; fails after `limit_s`."""
        end_s = time.monotonic() + limit_s
        while not (value := condition()):
            assert time.monotonic() < end_s, f"waited {limit_s} s for {what}, in vain"
            if time.monotonic() >= self._next_s:
                self._next_s = max(self._next_s + PERIOD_S, time.monotonic())
                self._publish()
            self._executor.spin_once(timeout_sec=0.01)
        return value

    def answer(self, future: Any, what: str, limit_s: float = 20.0) -> Any:
        self.until(future.done, what, limit_s)
        return future.result()

    def transition(self, transition_id: int) -> bool:
        self.until(self._change.service_is_ready, "the lifecycle service")
        request = ChangeState.Request()
        request.transition.id = transition_id
        return self.answer(self._change.call_async(request), "the transition").success

    def lifecycle_state(self) -> str:
        self.until(self._get.service_is_ready, "the lifecycle service")
        return self.answer(self._get.call_async(GetState.Request()), "the state").current_state.label

    def send_goal(self, time_limit_s: float, seed: int = 0) -> Any:
        """Send a goal once the policy hears this robot; returns its handle, accepted or not."""
        self.until(self.run_client.server_is_ready, "the action server")
        self.until_heard()
        sent = self.run_client.send_goal_async(
            RunPolicy.Goal(time_limit_s=time_limit_s, seed=seed), feedback_callback=self.feedback.append
        )
        return self.answer(sent, "the answer to the goal")

    def until_ready(self) -> None:
        """Wait until the policy says that a goal could begin."""
        self.statuses.clear()
        self.until(
            lambda: self.statuses and self.statuses[-1].state == "idle" and not self.statuses[-1].reason,
            "the policy to be ready",
            limit_s=60.0,  # two processes begin, one after the other, on a busy machine
        )

    def call(self, kind: Any, name: str, request: Any) -> Any:
        """The answer of a service."""
        client = self.node.create_client(kind, name)
        self.until(client.service_is_ready, f"service {name}")
        return self.answer(client.call_async(request), f"the answer of {name}")

    def until_heard(self) -> None:
        """Wait until the policy listens to two streams, as many as the tasks of these tests have."""
        publishers = (self._joint_pub, self._keypoint_pub, self._image_pub)
        self.until(
            lambda: sum(p.get_subscription_count() > 0 for p in publishers) == 2, "the policy's subscriptions"
        )

    def result(self, handle: Any, limit_s: float = 20.0) -> Any:
        """The goal's result with its `status`."""
        return self.answer(handle.get_result_async(), "the goal's end", limit_s)

    def _receive(self, message: Any) -> None:
        self.trajectories.append(message)
        self.verdicts.append(self.controller.accept(decode_trajectory(message), self.now_ns()))

    def _setpoint(self, message: Any) -> None:
        self.setpoints.append((self.now_ns(), np.array(message.data)))

    def _publish(self) -> None:
        stamp = self.node.get_clock().now().to_msg()
        if self.operating:
            self._operator_pub.publish(JointTrajectory(joint_names=JOINTS))
        if self.deadman is not None:
            self._deadman_pub.publish(Bool(data=self.deadman))
        if self.publish_joints:
            joints = JointState(name=JOINTS, position=self.position.tolist(), velocity=[0.0, 0.0])
            joints.header.stamp = stamp
            self._joint_pub.publish(joints)
        if self.keypoints is not None:
            message = PoseArray()
            message.header.stamp = stamp
            for x, y in self.keypoints.tolist():
                pose = Pose()
                pose.position.x, pose.position.y = x, y
                message.poses.append(pose)
            self._keypoint_pub.publish(message)
        if self.image is not None:
            self._image_pub.publish(encode_image(self.image, to_ns(stamp), "camera"))
