"""Observation windows: by capture time, aligned on a grid, never filled and never too old."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_ros.runtime.observation import BadObservation, ObservationBuffer, StaleStream
from dp_ros.task import TaskSpec

S = 1_000_000_000
DT = S // 10


def make_task(alignment: str = "asof", latency_s: float = 0.0, n_obs_steps: int = 2) -> TaskSpec:
    joints: dict[str, Any] = {
        "topic": "/joint_states",
        "type": "sensor_msgs/msg/JointState",
        "fields": ["position"],
        "names": ["a"],
        "shape": [1],
        "latency_s": latency_s,
        "max_age_s": 0.25,
        "alignment": alignment,
    }
    camera = {
        "topic": "/image",
        "type": "sensor_msgs/msg/Image",
        "encoding": "mono8",
        "shape": [2, 2, 1],
        "max_age_s": 0.25,
    }
    return TaskSpec.from_dict(
        {
            "name": "test",
            "rate_hz": 10,
            "n_obs_steps": n_obs_steps,
            "horizon": 16,
            "n_action_steps": 8,
            "observations": {"joints": joints, "image": camera},
            "action": {
                "topic": "/command",
                "type": "trajectory_msgs/msg/JointTrajectory",
                "output": "trajectory",
                "names": ["a"],
                "shape": [1],
                "limits": {"position": {"min": [-1], "max": [1]}},
            },
        }
    )


def vector(value: float) -> np.ndarray[Any, Any]:
    return np.array([value], dtype=np.float32)


def picture(value: int) -> np.ndarray[Any, Any]:
    return np.full((2, 2, 1), value, dtype=np.uint8)


def test_the_grid_ends_at_the_newest_picture_and_others_give_their_last_sample_before_it() -> None:
    buffer = ObservationBuffer(make_task())
    for i, stamp in enumerate([10 * S, 10 * S + DT]):
        buffer.add("image", stamp, picture(i))
    for i, ms in enumerate([-30, -10, 20, 60, 95, 105]):
        buffer.add("joints", 10 * S + ms * 1_000_000, vector(i))
    window = buffer.window(10 * S + DT + 5_000_000)
    assert window.stamp_ns == 10 * S + DT
    assert window.observations["image"][:, 0, 0, 0].tolist() == [0, 1]
    assert window.observations["joints"][:, 0].tolist() == [1, 4]


def test_nearest_may_take_a_younger_sample_and_interpolate_lies_between() -> None:
    for alignment, expected in (("nearest", 3.0), ("interpolate", 2.75)):
        buffer = ObservationBuffer(make_task(alignment, n_obs_steps=1))
        buffer.add("image", 10 * S, picture(0))
        buffer.add("joints", 10 * S - 30_000_000, vector(2))
        buffer.add("joints", 10 * S + 10_000_000, vector(3))
        assert buffer.window(10 * S).observations["joints"][0, 0] == pytest.approx(expected)


def test_a_streams_latency_is_taken_off_its_stamp() -> None:
    buffer = ObservationBuffer(make_task(latency_s=0.05, n_obs_steps=1))
    buffer.add("image", 10 * S, picture(0))
    buffer.add("joints", 10 * S - 20_000_000, vector(1))
    buffer.add("joints", 10 * S + 40_000_000, vector(2))
    buffer.add("joints", 10 * S + 60_000_000, vector(3))
    assert buffer.window(10 * S).observations["joints"][0, 0] == 2


def test_samples_out_of_order_and_twice_make_no_difference() -> None:
    buffer = ObservationBuffer(make_task())
    for stamp, value in [(3, 3), (1, 1), (2, 2), (2, 9), (4, 4)]:
        buffer.add("joints", 10 * S + stamp * DT, vector(value))
        buffer.add("image", 10 * S + stamp * DT, picture(value))
    assert buffer.window(10 * S + 4 * DT).observations["joints"][:, 0].tolist() == [3, 4]
    assert buffer.sample("joints", 10 * S + 2 * DT)[0] == 2
    assert buffer.duplicates == 2


def test_a_camera_that_jitters_by_a_millisecond_loses_no_frame() -> None:
    buffer = ObservationBuffer(make_task())
    for k, jitter_ms in enumerate([0, 1, -1, 1]):
        stamp = 10 * S + k * DT + jitter_ms * 1_000_000
        buffer.add("image", stamp, picture(k))
        buffer.add("joints", stamp, vector(k))
    assert buffer.window(10 * S + 3 * DT).observations["image"][:, 0, 0, 0].tolist() == [2, 3]


def test_a_missing_stream_is_refused_by_name() -> None:
    buffer = ObservationBuffer(make_task())
    buffer.add("image", 10 * S, picture(0))
    with pytest.raises(StaleStream, match="joints: nothing received on /joint_states yet"):
        buffer.window(10 * S)


def test_a_stream_that_stopped_is_refused_with_its_age_and_the_age_allowed() -> None:
    buffer = ObservationBuffer(make_task())
    for k in range(5):
        buffer.add("image", 10 * S + k * DT, picture(k))
        buffer.add("joints", 10 * S, vector(0)) if k == 0 else None
    with pytest.raises(StaleStream, match=r"joints: .*/joint_states is 0\.400 s old, max_age_s is 0\.25"):
        buffer.window(10 * S + 4 * DT)


def test_a_history_that_does_not_reach_back_is_refused_and_not_filled() -> None:
    buffer = ObservationBuffer(make_task())
    buffer.add("image", 10 * S, picture(0))
    buffer.add("image", 10 * S + DT, picture(1))
    buffer.add("joints", 10 * S + DT, vector(1))
    with pytest.raises(StaleStream, match="joints: the oldest sample .* younger"):
        buffer.window(10 * S + DT)


@pytest.mark.parametrize(
    ("stamp", "value", "words"),
    [
        (0, vector(1), "header.stamp"),
        (10 * S, np.zeros(2, np.float32), r"shape \[2\], the task says \[1\]"),
        (10 * S, vector(float("nan")), "nan at .0.; values must be finite"),
        (10 * S, vector(float("inf")), "inf"),
    ],
)
def test_an_unusable_sample_is_refused_and_is_the_reason_once_the_stream_is_stale(
    stamp: int, value: np.ndarray[Any, Any], words: str
) -> None:
    buffer = ObservationBuffer(make_task())
    with pytest.raises(BadObservation, match=words):
        buffer.add("joints", stamp, value)
    buffer.add("image", 10 * S, picture(0))
    with pytest.raises(BadObservation, match=words):
        buffer.check_fresh(10 * S)


def test_one_bad_sample_between_good_ones_stops_nothing() -> None:
    buffer = ObservationBuffer(make_task(n_obs_steps=1))
    buffer.add("image", 10 * S, picture(0))
    buffer.add("joints", 10 * S - DT, vector(1))
    with pytest.raises(BadObservation):
        buffer.add("joints", 10 * S, vector(float("nan")))
    assert buffer.window(10 * S).observations["joints"][0, 0] == 1


def test_lockstep_knows_by_header_stamp_which_streams_are_still_to_come() -> None:
    buffer = ObservationBuffer(make_task(latency_s=0.05))
    buffer.add("image", 10 * S, picture(0))
    assert buffer.incomplete_at(10 * S) == ["joints"]
    buffer.add("joints", 10 * S, vector(0))
    assert buffer.complete_at(10 * S)
    assert not buffer.complete_at(10 * S + 1)


@given(
    stamps=st.lists(st.integers(0, 3000), min_size=1, max_size=60, unique=True),
    time_ms=st.integers(0, 3000),
)
def test_asof_never_takes_a_sample_from_the_future_or_beyond_its_age(stamps: list[int], time_ms: int) -> None:
    buffer = ObservationBuffer(make_task())
    for ms in stamps:
        buffer.add("joints", 10 * S + ms * 1_000_000, vector(ms))
    kept = [ms for ms in stamps if ms >= time_ms - 250 and ms <= time_ms]
    recent = [ms for ms in stamps if ms > max(stamps) - 600]
    try:
        taken = buffer.sample("joints", 10 * S + time_ms * 1_000_000)[0]
    except StaleStream:
        assert not [ms for ms in kept if ms in recent]
    else:
        assert taken == max(kept)
