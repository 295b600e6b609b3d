from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from visualization_msgs.msg import Marker, MarkerArray

from dp_ros.bridge.clock import to_ns
from dp_ros.bridge.markers import ALTERNATIVE, CHUNK, chunk_markers
from dp_ros.task import ActionSpec

POSE = ["x", "y", "z", "qx", "qy", "qz", "qw"]


def action(names: list[str], **values: Any) -> ActionSpec:
    n = len(names)
    given = {
        "topic": "/t",
        "type": "std_msgs/msg/Float64MultiArray",
        "output": "setpoint",
        "rate_hz": 50,
        "names": names,
        "shape": [n],
        "limits": {"position": {"min": [-1.0] * n, "max": [1.0] * n}},
    }
    return ActionSpec.model_validate({**given, **values})


def draw(spec: ActionSpec, chunk: np.ndarray, *alternatives: np.ndarray) -> MarkerArray:
    return chunk_markers(spec, chunk, alternatives, dt_s=0.1, now_ns=1_500_000_000, frame="map", width=0.01)


def points(marker: Marker) -> list[list[float]]:
    return [[point.x, point.y, point.z] for point in marker.points]


def test_a_pose_is_one_line_where_it_is_in_its_own_frame() -> None:
    spec = action(POSE, type="geometry_msgs/msg/PoseStamped", frame_id="base")
    chunk = np.array([[0.1, 0.2, 0.3, 0, 0, 0, 1], [0.4, 0.5, 0.6, 0, 0, 0, 1]])
    (marker,) = draw(spec, chunk).markers
    assert (marker.ns, marker.type, marker.action) == ("chunk", Marker.LINE_STRIP, Marker.ADD)
    assert points(marker) == [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]
    assert marker.header.frame_id == "base"
    assert to_ns(marker.header.stamp) == 1_500_000_000
    assert to_ns(marker.lifetime) > 0  # or it would stay when the policy is gone
    assert (marker.color, marker.scale.x, marker.pose.orientation.w) == (CHUNK, 0.01, 1.0)


def test_values_that_are_named_like_coordinates_lie_in_the_plane() -> None:
    (marker,) = draw(action(["agent_y", "agent_x"]), np.array([[1.0, 2.0], [3.0, 4.0]])).markers
    assert points(marker) == [[2.0, 1.0, 0.0], [4.0, 3.0, 0.0]]
    assert marker.header.frame_id == "map"


@pytest.mark.parametrize(
    "spec",
    [
        action(["shoulder", "elbow"]),
        action(["agent_x", "elbow"]),
        action(["agent_x", "agent_y"], command="velocity"),
    ],
)
def test_other_joints_and_velocities_are_curves_over_time(spec: ActionSpec) -> None:
    first, second = draw(spec, np.array([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]])).markers
    assert [first.id, second.id] == [0, 1]
    np.testing.assert_allclose(points(first), [[0.0, 0, 1], [0.1, 0, 2], [0.2, 0, 3]])
    np.testing.assert_allclose(points(second), [[0.0, 0, 5], [0.1, 0, 6], [0.2, 0, 7]])


def test_alternatives_have_names_and_a_colour_of_their_own() -> None:
    spec, chunk = action(["agent_x", "agent_y"]), np.zeros((2, 2))
    markers = draw(spec, chunk, chunk + 1, chunk + 2).markers
    assert [(m.ns, m.id) for m in markers] == [("alternatives", 0), ("alternatives", 1), ("chunk", 0)]
    assert [m.color for m in markers] == [ALTERNATIVE, ALTERNATIVE, CHUNK]
    assert points(markers[1])[0] == [2.0, 2.0, 0.0]
