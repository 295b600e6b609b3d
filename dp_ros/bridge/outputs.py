"""What a policy commands as ROS messages, and the publishers of them.

`make_output` gives the one that a task asks for: a trajectory with its points, or setpoints, of which every
publisher keeps one message and only changes the numbers in it, because a setpoint goes out in a thread that
competes with everything else for the interpreter. Easy to get wrong: assigning a numpy array to a message field
copies it value by value through Python (an `array.array` goes through at once), and a command that stops
position control is the last position once more, while one that stops velocity control is zero.
"""

from __future__ import annotations

import array
import math
import threading
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from dp_ros.bridge.clock import to_duration, to_stamp
from dp_ros.bridge.qos import reliable_qos
from dp_ros.msg import ActionChunk as ActionChunkMsg
from dp_ros.runtime.motion.chunk import ActionChunk
from dp_ros.runtime.motion.spline import MotionState, TrajectoryPoints
from dp_ros.runtime.safety import BadAction
from dp_ros.task import ActionSpec

Floats = npt.NDArray[np.float64]
#: A gripper command is sent when it changes, and again after this time, for a driver that came up later.
GRIPPER_REPEAT_NS = 1_000_000_000


def make_output(node: Node, action: ActionSpec) -> TrajectoryOutput | SetpointOutput:
    """The publisher of a task's commands, with those of its grippers."""
    if action.output == "trajectory":
        return TrajectoryOutput(node, action)
    return _SETPOINTS[action.type](node, action)


class GripperOutput:
    """Publishes the grippers that have a topic of their own; nothing where there is none."""

    def __init__(self, node: Node, action: ActionSpec) -> None:
        self._node = node
        topics = {gripper.name: gripper.topic for gripper in action.grippers}
        #: Columns of a command that are not part of the main message.
        self.columns = [i for i in action.gripper_indices if topics[action.command_names[i]] is not None]
        self._publishers = {
            i: node.create_publisher(Float64MultiArray, topics[action.command_names[i]], reliable_qos())
            for i in self.columns
        }
        self._sent: dict[int, tuple[float, int]] = {}

    def publish(self, position: Floats, now_ns: int) -> None:
        """Send what has changed in a command (command_dim,), and each gripper once a second."""
        for index, publisher in self._publishers.items():
            value = float(position[index])
            sent, sent_ns = self._sent.get(index, (math.nan, 0))
            if value != sent or not 0 <= now_ns - sent_ns < GRIPPER_REPEAT_NS:
                publisher.publish(Float64MultiArray(data=array.array("d", [value])))
                self._sent[index] = (value, now_ns)

    def destroy(self) -> None:
        """Remove the publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)


class TrajectoryOutput:
    """Publishes trajectories for a joint_trajectory_controller.

    Grippers with a topic of their own are not among its joints: `grippers.publish` sends what is due.

    Attributes:
        grippers: those that have a topic of their own.
    """

    def __init__(self, node: Node, action: ActionSpec) -> None:
        self._node = node
        self.grippers = GripperOutput(node, action)
        self._columns = [i for i in range(action.command_dim) if i not in self.grippers.columns]
        self._names = [action.command_names[i] for i in self._columns]
        self._publisher = node.create_publisher(JointTrajectory, action.topic, reliable_qos())

    def publish(self, points: TrajectoryPoints, stamp_ns: int | None = None) -> JointTrajectory:
        """Send a motion; it replaces the one that the controller executes.

        Args:
            points: columns in the order of the task's command names.
            stamp_ns: header stamp, from which the points' times count; the first point's time if None.

        Returns:
            The message sent.

        Raises:
            ValueError: if a point lies before the stamp.
        """
        message = encode_points(points, self._names, self._columns, stamp_ns)
        self._publisher.publish(message)
        return message

    def stop(self, position: Floats) -> None:
        """Hold a position (command_dim,) at once: for where nothing brakes along the path any more."""
        rest = MotionState.at_rest(position)
        points = TrajectoryPoints(
            np.zeros(1, np.int64), rest.position[None], rest.velocity[None], rest.acceleration[None]
        )
        self.publish(points, stamp_ns=0)  # a stamp of zero means now, and is never too late

    def destroy(self) -> None:
        """Remove the publishers."""
        self._node.destroy_publisher(self._publisher)
        self.grippers.destroy()


class SetpointOutput(ABC):
    """Publishes one setpoint at a time; `publish` and `stop` may be called from different threads.

    Attributes:
        grippers: those that have a topic of their own; they go out with the setpoints.
    """

    _class: Any

    def __init__(self, node: Node, action: ActionSpec) -> None:
        self._node, self._action = node, action
        self._velocity = action.is_velocity
        self.grippers = GripperOutput(node, action)
        self._columns = np.array([i for i in range(action.command_dim) if i not in self.grippers.columns])
        self._moving = np.array([i for i in range(action.command_dim) if i not in action.gripper_indices])
        self._message = self._class()
        if hasattr(self._message, "header"):
            self._message.header.frame_id = action.frame_id
        self._lock = threading.Lock()
        self._last: MotionState | None = None
        # The newest setpoint is the only one of interest.
        self._publisher = node.create_publisher(self._class, action.topic, reliable_qos(depth=1))

    def publish(self, state: MotionState, now_ns: int) -> None:
        """Send a setpoint.

        Args:
            state: (command_dim,) each. Where the task commands velocities they are `state.position`, as in every
                schedule: what the policy's values are.
            now_ns: header stamp.
        """
        with self._lock:
            self._fill(state, now_ns)
            self._publisher.publish(self._message)
            self.grippers.publish(state.position, now_ns)
            self._last = state

    def stop(self, now_ns: int) -> None:
        """Send what makes the robot stop: the last position once more, or zero velocity; grippers stay as they are.

        Nothing is sent where nothing has been since the last stop: what was sent longer ago is not where the
        robot still is.
        """
        with self._lock:
            if self._last is None:
                return
            rest = MotionState.at_rest(self._last.position)
            if self._velocity:
                rest.position[self._moving] = 0.0
            self._fill(rest, now_ns)
            self._publisher.publish(self._message)
            self._last = None

    @property
    def message(self) -> Any:
        """The message that was sent last."""
        return self._message

    @property
    def listeners(self) -> int:
        """How many subscribers the setpoints reach."""
        return int(self._publisher.get_subscription_count())

    def delivered(self, patience_s: float) -> bool:
        """Wait until every listener has what was sent, for so long at most; for whoever ends right after."""
        return bool(self._publisher.wait_for_all_acked(Duration(nanoseconds=round(patience_s * 1e9))))

    def destroy(self) -> None:
        """Remove the publishers."""
        self._node.destroy_publisher(self._publisher)
        self.grippers.destroy()

    def _stamp(self, now_ns: int) -> None:
        stamp = self._message.header.stamp
        stamp.sec, stamp.nanosec = divmod(now_ns, 1_000_000_000)

    @abstractmethod
    def _fill(self, state: MotionState, now_ns: int) -> None:
        """Put a setpoint into the message."""


class ArrayOutput(SetpointOutput):
    """`std_msgs/Float64MultiArray` for position_controllers, velocity_controllers, forward_command_controller."""

    _class = Float64MultiArray

    def __init__(self, node: Node, action: ActionSpec) -> None:
        super().__init__(node, action)
        self._message.data = [0.0] * len(self._columns)
        self._data = _writable(self._message.data)

    def _fill(self, state: MotionState, now_ns: int) -> None:
        self._data[:] = state.position[self._columns]


class JointStateOutput(SetpointOutput):
    """`sensor_msgs/JointState`: positions with their velocities, or velocities alone."""

    _class = JointState

    def __init__(self, node: Node, action: ActionSpec) -> None:
        super().__init__(node, action)
        self._message.name = [action.command_names[i] for i in self._columns]
        self._message.velocity = [0.0] * len(self._columns)
        self._velocities = _writable(self._message.velocity)
        if not self._velocity:
            self._message.position = [0.0] * len(self._columns)
            self._positions = _writable(self._message.position)

    def _fill(self, state: MotionState, now_ns: int) -> None:
        self._stamp(now_ns)
        if self._velocity:
            self._velocities[:] = state.position[self._columns]
        else:
            self._positions[:] = state.position[self._columns]
            self._velocities[:] = state.velocity[self._columns]


class PoseOutput(SetpointOutput):
    """`geometry_msgs/PoseStamped`, as moveit_servo and Cartesian controllers take it."""

    _class = PoseStamped

    def _fill(self, state: MotionState, now_ns: int) -> None:
        x, y, z, qx, qy, qz, qw = state.position[:7].tolist()
        norm = math.sqrt(qx * qx + qy * qy + qz * qz + qw * qw)
        if not norm > 1e-3:
            raise BadAction(f"the commanded orientation has length {norm:g}; nothing was sent")
        self._stamp(now_ns)
        place, turn = self._message.pose.position, self._message.pose.orientation
        place.x, place.y, place.z = x, y, z
        turn.x, turn.y, turn.z, turn.w = qx / norm, qy / norm, qz / norm, qw / norm


class TwistOutput(SetpointOutput):
    """`geometry_msgs/TwistStamped`, as moveit_servo takes it."""

    _class = TwistStamped

    def _fill(self, state: MotionState, now_ns: int) -> None:
        self._stamp(now_ns)
        linear, angular = self._message.twist.linear, self._message.twist.angular
        linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = state.position[:6].tolist()


_SETPOINTS: dict[str, type[SetpointOutput]] = {
    "std_msgs/msg/Float64MultiArray": ArrayOutput,
    "sensor_msgs/msg/JointState": JointStateOutput,
    "geometry_msgs/msg/PoseStamped": PoseOutput,
    "geometry_msgs/msg/TwistStamped": TwistOutput,
}


def encode_points(
    points: TrajectoryPoints, names: list[str], columns: list[int], stamp_ns: int | None = None
) -> JointTrajectory:
    """A motion as the trajectory that a joint_trajectory_controller takes.

    Args:
        points: the motion.
        names: joint names.
        columns: which columns of the points they are.
        stamp_ns: header stamp, from which the points' times count; the first point's time if None.

    Raises:
        ValueError: if a point lies before the stamp.
    """
    times = [int(t) for t in points.times_ns]
    start_ns = times[0] if stamp_ns is None else stamp_ns
    if times[0] < start_ns:
        raise ValueError(f"the first point lies {start_ns - times[0]} ns before the trajectory's stamp")
    message = JointTrajectory(joint_names=names)
    message.header.stamp = to_stamp(start_ns)
    for i, time_ns in enumerate(times):
        point = JointTrajectoryPoint(time_from_start=to_duration(time_ns - start_ns))
        point.positions = _row(points.positions[i, columns])
        point.velocities = _row(points.velocities[i, columns])
        if points.accelerations is not None:
            point.accelerations = _row(points.accelerations[i, columns])
        message.points.append(point)
    return message


def encode_trajectory(chunk: ActionChunk, names: list[str], stamp_ns: int | None = None) -> JointTrajectory:
    """A chunk as the trajectory a joint_trajectory_controller takes: stamped, with velocities, ending at rest.

    Args:
        chunk: the actions.
        names: joint names.
        stamp_ns: header stamp, from which the points' times count; the first action's time if None.
    """
    start_ns = chunk.start_ns if stamp_ns is None else stamp_ns
    message = JointTrajectory(joint_names=names)
    message.header.stamp = to_stamp(start_ns)
    for i, (position, velocity) in enumerate(zip(chunk.values, chunk.velocities(), strict=True)):
        message.points.append(
            JointTrajectoryPoint(
                positions=position.tolist(),
                velocities=velocity.tolist(),
                time_from_start=to_duration(chunk.start_ns - start_ns + i * chunk.dt_ns),
            )
        )
    return message


def encode_chunk(chunk: ActionChunk, names: list[str], model_id: str) -> ActionChunkMsg:
    """A chunk with everything known about it, for those who watch."""
    message = ActionChunkMsg(
        step=to_duration(chunk.dt_ns),
        names=names,
        dropped=chunk.dropped,
        clamped=chunk.clamped,
        values=chunk.values.reshape(-1).tolist(),
        observation_stamp=to_stamp(chunk.observation_ns),
        inference_time=to_duration(chunk.inference_ns),
        model_id=model_id,
    )
    message.header.stamp = to_stamp(chunk.start_ns)
    return message


def encode_command(position: npt.NDArray[np.float64], stamp_ns: int, names: list[str]) -> JointTrajectory:
    """One position to be at, at one time: a trajectory of a single point."""
    return encode_trajectory(ActionChunk(stamp_ns, 1, position[np.newaxis], stamp_ns), names)


def _row(values: Floats) -> array.array[float]:
    return array.array("d", values.tobytes())


def _writable(field: array.array[float]) -> Floats:
    """A message field's own storage as an array: what is written to it is in the message."""
    return np.frombuffer(field, dtype=np.float64)
