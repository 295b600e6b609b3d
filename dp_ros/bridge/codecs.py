"""ROS messages to arrays and back: one table by message type.

Arrays come out in the shape that the task states, or the message is refused with what it gave and what the
task says. Easy to get wrong: joints are looked up by name, because a driver may publish them in any order and
may publish others in between.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import Image

from dp_ros.bridge.clock import to_ns, to_stamp
from dp_ros.bridge.images import ImageProblem, decode_compressed, decode_image, resize_image
from dp_ros.errors import UserError
from dp_ros.runtime import rotation
from dp_ros.runtime.alignment import orientation_fields, with_positive_w
from dp_ros.sim.trajectory_controller import Trajectory
from dp_ros.task import ActionSpec, ObservationSpec

Array = npt.NDArray[Any]
Decoder = Callable[[Any, ObservationSpec], Array]


class CodecProblem(ValueError):
    """A message that does not hold what the task says."""


def message_class(type_name: str) -> Any:
    """Class of a message type such as `sensor_msgs/msg/Image`.

    Raises:
        UserError: if the package or the message is not installed.
    """
    package, _, name = type_name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError):
        raise UserError(
            f"message type {type_name} is not installed; install the ROS package {package}"
        ) from None


def decode(message: Any, spec: ObservationSpec) -> Array:
    """A message as the task's stream wants it: float32 (n,), or an image (height, width, channels).

    Raises:
        CodecProblem: saying what the message has and what the task says.
    """
    return _DECODERS[spec.type](message, spec)


def _decode_joint_state(message: Any, spec: ObservationSpec) -> Array:
    index = {name: i for i, name in enumerate(message.name)}
    absent = [name for name in spec.names if name not in index]
    if absent:
        raise CodecProblem(f"{spec.topic} has joints {list(message.name)}, the task also names {absent}")
    columns = [index[name] for name in spec.names]
    values: list[float] = []
    for field in spec.fields:
        data = getattr(message, field)
        if len(data) != len(message.name):
            raise CodecProblem(
                f"{spec.topic} has {len(data)} {field} value(s) for {len(message.name)} joints; the task takes {field}"
            )
        values.extend(data[i] for i in columns)
    return np.array(values, dtype=np.float32)


def _member(message: Any, path: str) -> float:
    for part in path.split("."):
        message = getattr(message, part)
    return float(message)


def _decode_inner(attribute: str) -> Decoder:
    def decode_fields(message: Any, spec: ObservationSpec) -> Array:
        inner = getattr(message, attribute)
        return np.array([_member(inner, field) for field in spec.fields], dtype=np.float32)

    return decode_fields


def _decode_pose(message: Any, spec: ObservationSpec) -> Array:
    """A pose, its orientation normalised, with w >= 0, in the representation that the policy sees."""
    values = np.array([_member(message.pose, field) for field in spec.fields])
    return _orient(values, spec)


def _orient(values: npt.NDArray[np.float64], spec: ObservationSpec) -> Array:
    width = len(spec.fields)
    given = orientation_fields(spec)
    if not given:
        return values.astype(np.float32)
    try:
        rows = values.reshape(-1, width)
        quaternions = with_positive_w(rotation.normalize(rows[:, given]))
    except rotation.BadRotation as problem:
        raise CodecProblem(f"{spec.topic}: {problem}") from None
    if spec.is_pose and spec.rotation != "quaternion":
        turned = rotation.from_quaternion(quaternions[0], spec.rotation)
        return np.concatenate([values[:3], turned]).astype(np.float32)
    rows[:, given] = quaternions
    return rows.reshape(-1).astype(np.float32)


def _decode_pose_array(message: Any, spec: ObservationSpec) -> Array:
    values = [_member(pose, field) for pose in message.poses for field in spec.fields]
    if len(values) != spec.dim:
        expected = spec.dim // len(spec.fields)
        raise CodecProblem(f"{spec.topic} has {len(message.poses)} poses, the task says {expected}")
    return _orient(np.array(values), spec)


def _decode_image(message: Any, spec: ObservationSpec) -> Array:
    return _fit(lambda: decode_image(message, str(spec.encoding)), spec)


def _decode_compressed(message: Any, spec: ObservationSpec) -> Array:
    return _fit(lambda: decode_compressed(message, str(spec.encoding)), spec)


def _fit(read: Callable[[], Array], spec: ObservationSpec) -> Array:
    try:
        pixels = read()
    except ImageProblem as problem:
        raise CodecProblem(f"{spec.topic}: {problem}") from None
    if spec.resize is not None:
        pixels = resize_image(pixels, spec.resize)
    if pixels.shape != spec.shape:
        height, width = spec.shape[:2]
        raise CodecProblem(
            f"{spec.topic} publishes {pixels.shape[0]}x{pixels.shape[1]}, the task says {height}x{width}; "
            f"set resize: [{height}, {width}] or change shape"
        )
    return pixels


_DECODERS: dict[str, Decoder] = {
    "sensor_msgs/msg/Image": _decode_image,
    "sensor_msgs/msg/CompressedImage": _decode_compressed,
    "sensor_msgs/msg/JointState": _decode_joint_state,
    "geometry_msgs/msg/PoseStamped": _decode_pose,
    "geometry_msgs/msg/PoseArray": _decode_pose_array,
    "geometry_msgs/msg/PointStamped": _decode_inner("point"),
    "geometry_msgs/msg/TwistStamped": _decode_inner("twist"),
    "geometry_msgs/msg/WrenchStamped": _decode_inner("wrench"),
}


def encode_image(pixels: npt.NDArray[np.uint8], stamp_ns: int, frame_id: str) -> Image:
    """RGB pixels (height, width, 3) as a `sensor_msgs/Image` (rgb8)."""
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding="rgb8", step=3 * pixels.shape[1])
    message.header.stamp = to_stamp(stamp_ns)
    message.header.frame_id = frame_id
    message.data = pixels.tobytes()  # bytes, not the array: rclpy copies an array value by value
    return message


def decode_trajectory(message: Any) -> Trajectory:
    """A `trajectory_msgs/JointTrajectory` as plain numbers."""
    return Trajectory(
        to_ns(message.header.stamp),
        list(message.joint_names),
        [to_ns(point.time_from_start) for point in message.points],
        [list(point.positions) for point in message.points],
        [list(point.velocities) for point in message.points],
        [list(point.accelerations) for point in message.points],
    )


def decode_setpoint(message: Any, action: ActionSpec, names: Sequence[str]) -> list[float]:
    """Values of a setpoint in the order of `names`, the command names that share the action's topic.

    A Float64MultiArray has no names: its order is the task's. A JointState may name more joints, in any order.

    Raises:
        CodecProblem: saying what the message has and what the task says.
    """
    values = _SETPOINTS[action.type](message, action, names)
    if len(values) != len(names):
        raise CodecProblem(
            f"{action.topic} has {len(values)} value(s), the task says {len(names)}: {', '.join(names)}"
        )
    return values


def _array_setpoint(message: Any, action: ActionSpec, names: Sequence[str]) -> list[float]:
    return list(message.data)


def _joint_setpoint(message: Any, action: ActionSpec, names: Sequence[str]) -> list[float]:
    field = "velocity" if action.is_velocity else "position"
    data, index = getattr(message, field), {name: i for i, name in enumerate(message.name)}
    absent = [name for name in names if name not in index]
    if absent:
        raise CodecProblem(f"{action.topic} has joints {list(message.name)}, the task also names {absent}")
    if len(data) != len(message.name):
        raise CodecProblem(f"{action.topic} has {len(data)} {field} value(s) for {len(message.name)} joints")
    return [data[index[name]] for name in names]


def _pose_setpoint(message: Any, action: ActionSpec, names: Sequence[str]) -> list[float]:
    _check_frame(message, action)
    place, turn = message.pose.position, message.pose.orientation
    try:
        unit = rotation.normalize(np.array([turn.x, turn.y, turn.z, turn.w]))
    except rotation.BadRotation as problem:
        raise CodecProblem(f"{action.topic}: {problem}") from None
    return [place.x, place.y, place.z, *unit.tolist()]


def _twist_setpoint(message: Any, action: ActionSpec, names: Sequence[str]) -> list[float]:
    _check_frame(message, action)
    linear, angular = message.twist.linear, message.twist.angular
    return [linear.x, linear.y, linear.z, angular.x, angular.y, angular.z]


def _check_frame(message: Any, action: ActionSpec) -> None:
    given = message.header.frame_id
    if given and action.frame_id and given != action.frame_id:
        raise CodecProblem(f"{action.topic} is in frame {given}, the task says {action.frame_id}")


_SETPOINTS: dict[str, Callable[[Any, ActionSpec, Sequence[str]], list[float]]] = {
    "std_msgs/msg/Float64MultiArray": _array_setpoint,
    "sensor_msgs/msg/JointState": _joint_setpoint,
    "geometry_msgs/msg/PoseStamped": _pose_setpoint,
    "geometry_msgs/msg/TwistStamped": _twist_setpoint,
}
