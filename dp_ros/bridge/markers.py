"""The chunk in force and what else the policy might have done, as `visualization_msgs` for RViz.

A pose is drawn where it is, and values that are named like coordinates likewise; other joints have no place
without a model of the robot, so each becomes a curve over time: seconds along x, its value along z. Easy to get
wrong: alternatives cost an inference each, so they are drawn only while somebody looks and the model is idle.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from dp_ros.bridge.clock import to_duration, to_stamp
from dp_ros.task import ActionSpec

Floats = npt.NDArray[np.float64]
CHUNK = ColorRGBA(r=0.1, g=0.5, b=1.0, a=1.0)
ALTERNATIVE = ColorRGBA(r=0.6, g=0.6, b=0.6, a=0.6)
#: Markers of a policy that no longer acts vanish after this time.
LIFETIME_NS = 2_000_000_000


def chunk_markers(
    action: ActionSpec,
    chunk: Floats,
    alternatives: Sequence[Floats],
    *,
    dt_s: float,
    now_ns: int,
    frame: str,
    width: float,
) -> MarkerArray:
    """Markers of a chunk and of alternatives to it.

    Args:
        action: meaning of the values.
        chunk: (n, command_dim).
        alternatives: (n, command_dim) each.
        dt_s: time between two actions.
        now_ns: stamp.
        frame: of the drawing, where the task names none.
        width: of the lines, m.
    """
    array = MarkerArray()
    for name, color, sequences in (("alternatives", ALTERNATIVE, alternatives), ("chunk", CHUNK, [chunk])):
        lines = [line for values in sequences for line in _lines(action, values, dt_s)]
        for index, points in enumerate(lines):
            marker = Marker(ns=name, id=index, type=Marker.LINE_STRIP, action=Marker.ADD, color=color)
            marker.header.frame_id = action.frame_id or frame
            marker.header.stamp = to_stamp(now_ns)
            marker.lifetime = to_duration(LIFETIME_NS)
            marker.pose.orientation.w = 1.0
            marker.scale.x = width
            marker.points = [Point(x=x, y=y, z=z) for x, y, z in points.tolist()]
            array.markers.append(marker)
    return array


def _lines(action: ActionSpec, values: Floats, dt_s: float) -> list[Floats]:
    """The curves that stand for a chunk, (n, 3) each."""
    names = action.command_names
    columns = [next((i for i, n in enumerate(names) if n == a or n.endswith(f"_{a}")), None) for a in "xyz"]
    if not action.is_velocity and columns[0] is not None and columns[1] is not None:
        points = np.zeros((len(values), 3))
        for axis, column in enumerate(columns):
            if column is not None:
                points[:, axis] = values[:, column]
        return [points]
    times = dt_s * np.arange(len(values))
    return [np.column_stack([times, np.zeros(len(values)), column]) for column in values.T]
