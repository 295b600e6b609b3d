"""Commands as ROS messages."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy")

from dp_ros.bridge.codecs import decode_trajectory
from dp_ros.bridge.outputs import encode_command, encode_trajectory
from dp_ros.runtime.chunk import ActionChunk


def test_a_chunk_becomes_a_trajectory_with_velocities_that_ends_at_rest() -> None:
    values = np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]])
    chunk = ActionChunk(3_000_000_000, 100_000_000, values, 3_000_000_000)
    plain = decode_trajectory(encode_trajectory(chunk, ["a", "b"]))
    assert plain.stamp_ns == 3_000_000_000
    assert list(plain.times_ns) == [0, 100_000_000, 200_000_000]
    assert np.array_equal(plain.positions, values)
    assert np.allclose(plain.velocities, [[10, 20], [10, 20], [0, 0]])


def test_a_trajectory_stamped_earlier_keeps_each_actions_time() -> None:
    chunk = ActionChunk(3_000_000_000, 100_000_000, np.zeros((2, 1)), 3_000_000_000)
    plain = decode_trajectory(encode_trajectory(chunk, ["a"], stamp_ns=2_950_000_000))
    assert [plain.stamp_ns + t for t in plain.times_ns] == [3_000_000_000, 3_100_000_000]


def test_a_command_is_a_trajectory_of_one_point() -> None:
    plain = decode_trajectory(encode_command(np.array([1.0, 2.0]), 7, ["a", "b"]))
    assert (plain.stamp_ns, list(plain.times_ns), plain.positions) == (7, [0], [[1.0, 2.0]])
