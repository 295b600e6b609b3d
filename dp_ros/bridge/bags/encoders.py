"""What a recording holds as ROS messages: the inverse of `codecs`, for bags.

Easy to get wrong: a recording's times are those of capture and a message's stamp is later by the stream's latency, and
an orientation that is recorded in another representation goes out as a quaternion, whose sign may differ.
"""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import Pose, PoseStamped, TwistStamped
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from dp_ros.bridge.clock import to_duration, to_stamp
from dp_ros.bridge.codecs import message_class
from dp_ros.errors import UserError
from dp_ros.runtime import rotation
from dp_ros.task import ActionSpec, ObservationSpec

Array = npt.NDArray[Any]


def encode_observation(value: Array, spec: ObservationSpec, time_ns: int) -> Any:
    """A sample as the message that its stream publishes.

    Args:
        value: of the stream's shape.
        spec: of the stream.
        time_ns: of its capture.

    Raises:
        UserError: if a picture cannot be encoded losslessly.
    """
    message = _ENCODERS[spec.type](value, spec)
    message.header.stamp = to_stamp(time_ns + round(1e9 * spec.latency_s))
    message.header.frame_id = message.header.frame_id or spec.topic.strip("/").replace("/", "_")
    return message


def _image(value: Array, spec: ObservationSpec) -> Any:
    pixels = np.ascontiguousarray(value)
    if not pixels.dtype.isnative or pixels.dtype.byteorder == ">":
        pixels = pixels.astype(pixels.dtype.newbyteorder("<"))
    height, width = pixels.shape[:2]
    message = Image(height=height, width=width, encoding=str(spec.encoding))
    message.step = pixels.nbytes // height
    message.data = array.array("B", pixels.tobytes())
    return message


def _compressed(value: Array, spec: ObservationSpec) -> Any:
    encoding = str(spec.encoding)
    pixels = value if value.ndim == 3 else value[..., None]
    if encoding == "rgb8":
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    elif encoding == "rgba8":
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA)
    done = False
    if pixels.dtype in (np.uint8, np.uint16):
        done, data = cv2.imencode(".png", pixels)
    if not done:
        raise UserError(f"{spec.topic}: {encoding} does not go into a CompressedImage without loss")
    message = message_class(spec.type)(format=f"{encoding}; png compressed")
    message.data = array.array("B", data.tobytes())
    return message


def _joint_state(value: Array, spec: ObservationSpec) -> Any:
    message = JointState(name=list(spec.names))
    for field, values in zip(
        spec.fields, np.asarray(value, np.float64).reshape(len(spec.fields), -1), strict=True
    ):
        setattr(message, field, values.tolist())
    return message


def _set(message: Any, path: str, value: float) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
    setattr(message, name, float(value))


def _inner(attribute: str) -> Callable[[Array, ObservationSpec], Any]:
    def encode(value: Array, spec: ObservationSpec) -> Any:
        message = message_class(spec.type)()
        for field, number in zip(spec.fields, value, strict=True):
            _set(getattr(message, attribute), field, number)
        return message

    return encode


def _pose(value: Array, spec: ObservationSpec) -> Any:
    values = np.asarray(value, np.float64)
    if spec.is_pose and spec.rotation != "quaternion":
        values = np.concatenate([values[:3], rotation.to_quaternion(values[3:], spec.rotation)])
    message = message_class(spec.type)()
    for field, number in zip(spec.fields, values, strict=True):
        _set(message.pose, field, number)
    return message


def _pose_array(value: Array, spec: ObservationSpec) -> Any:
    message = message_class(spec.type)()
    for row in np.asarray(value, np.float64).reshape(-1, len(spec.fields)):
        pose = Pose()
        for field, number in zip(spec.fields, row, strict=True):
            _set(pose, field, number)
        message.poses.append(pose)
    return message


_ENCODERS: dict[str, Callable[[Array, ObservationSpec], Any]] = {
    "sensor_msgs/msg/Image": _image,
    "sensor_msgs/msg/CompressedImage": _compressed,
    "sensor_msgs/msg/JointState": _joint_state,
    "geometry_msgs/msg/PoseStamped": _pose,
    "geometry_msgs/msg/PoseArray": _pose_array,
    "geometry_msgs/msg/PointStamped": _inner("point"),
    "geometry_msgs/msg/TwistStamped": _inner("twist"),
    "geometry_msgs/msg/WrenchStamped": _inner("wrench"),
}


def encode_command(
    values: list[float], names: list[str], action: ActionSpec, time_ns: int, dt_ns: int
) -> Any:
    """What is commanded from a time on, as the task's own kind of message.

    A trajectory has one point, a step later, as a controller wants it.
    """
    if action.output == "trajectory":
        trajectory = JointTrajectory(joint_names=names)
        trajectory.points = [JointTrajectoryPoint(positions=values, time_from_start=to_duration(dt_ns))]
        trajectory.header.stamp = to_stamp(time_ns)
        return trajectory
    message = _setpoint(values, names, action)
    if hasattr(message, "header"):
        message.header.stamp = to_stamp(time_ns)
        message.header.frame_id = action.frame_id
    return message


def _setpoint(values: list[float], names: list[str], action: ActionSpec) -> Any:
    if action.type == "std_msgs/msg/Float64MultiArray":
        return Float64MultiArray(data=values)
    if action.type == "sensor_msgs/msg/JointState":
        field = "velocity" if action.is_velocity else "position"
        return JointState(name=names, **{field: values})
    if action.type == "geometry_msgs/msg/TwistStamped":
        message: Any = TwistStamped()
        parts, fields = (message.twist.linear, message.twist.angular), "xyz"
        for part, three in zip(parts, (values[:3], values[3:6]), strict=True):
            for field, number in zip(fields, three, strict=True):
                setattr(part, field, number)
        return message
    message = PoseStamped()
    place, turn = message.pose.position, message.pose.orientation
    place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w = values[:7]
    return message
