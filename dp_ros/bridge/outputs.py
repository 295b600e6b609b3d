"""What a policy commands as ROS messages.

Easy to get wrong: assigning a numpy array to a message field copies it value by value through Python; lists and
`array.array` go through at once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from dp_ros.bridge.clock import to_duration, to_stamp
from dp_ros.msg import ActionChunk as ActionChunkMsg
from dp_ros.runtime.chunk import ActionChunk


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
