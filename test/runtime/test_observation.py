"""Observation windows: by capture time, aligned on a grid, never filled and never too old."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_ros.runtime.observation import BadObservation, FrozenStream, ObservationBuffer, StaleStream
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


def test_two_cameras_wait_for_the_slower_one_rather_than_stopping() -> None:
    data = make_task(n_obs_steps=1).model_dump(mode="json")
    wrist = {**data["observations"]["image"], "topic": "/wrist", "max_age_s": 0.05}
    data["observations"] = {"image": data["observations"]["image"], "wrist": wrist}
    buffer = ObservationBuffer(TaskSpec.from_dict(data))
    buffer.add("image", 10 * S, picture(0))
    buffer.add("wrist", 10 * S - 10_000_000, picture(7))
    buffer.add("image", 10 * S + DT, picture(1))
    buffer.add("wrist", 10 * S + DT + 1, picture(8))  # just after: the frame before is the newest complete
    window = buffer.window(10 * S + DT + 20_000_000)
    assert window.stamp_ns == buffer.newest_complete_ns(10 * S + DT + 20_000_000) == 10 * S
    assert window.observations["image"][0, 0, 0, 0] == 0
    assert window.observations["wrist"][0, 0, 0, 0] == 7


def test_an_interpolated_stream_is_never_drawn_out_beyond_its_samples_or_across_a_gap() -> None:
    buffer = ObservationBuffer(make_task("interpolate", n_obs_steps=1))
    buffer.add("joints", 10 * S - DT, vector(0))
    with pytest.raises(StaleStream, match="nothing of /joint_states after the observation step yet"):
        buffer.sample("joints", 10 * S)
    buffer.add("joints", 10 * S + 3 * DT, vector(4))
    with pytest.raises(StaleStream, match="0.300 s old"):
        buffer.sample("joints", 10 * S)
    assert buffer.sample("joints", 10 * S + 1 * DT)[0] == pytest.approx(2.0)


def test_a_stamp_from_the_future_is_refused_and_counted_and_a_slightly_fast_clock_is_not() -> None:
    buffer = ObservationBuffer(make_task())
    buffer.add("joints", 10 * S + 200_000_000, vector(0), now_ns=10 * S)
    with pytest.raises(BadObservation, match="0.201 s ahead of this node's clock; synchronise"):
        buffer.add("joints", 10 * S + 201_000_000, vector(0), now_ns=10 * S)
    assert buffer.counts["joints"].future == 1
    assert buffer.newest_ns("joints") == 10 * S + 200_000_000


def test_a_clock_that_is_set_back_empties_the_buffer_once_and_a_steered_one_does_not() -> None:
    buffer = ObservationBuffer(make_task(n_obs_steps=1))
    for stamp in (10 * S, 20 * S):
        for key, value in (("image", picture(1)), ("joints", vector(1))):
            buffer.add(key, stamp, value, now_ns=stamp)
    buffer.check_fresh(20 * S - 90_000_000)
    assert buffer.epoch == 0
    with pytest.raises(StaleStream, match="nothing received"):
        buffer.check_fresh(3 * S)
    for key, value in (("image", picture(2)), ("joints", vector(2))):
        buffer.add(key, 3 * S, value, now_ns=3 * S)
    assert buffer.window(3 * S).observations["joints"][0, 0] == 2
    assert buffer.epoch == 1


def test_a_clock_that_leaps_ahead_makes_what_is_there_too_old_until_new_samples_come() -> None:
    buffer = ObservationBuffer(make_task(n_obs_steps=1))
    for stamp in (10 * S, 50 * S):
        with pytest.raises(StaleStream):
            buffer.window(stamp)
        buffer.add("image", stamp, picture(stamp // S), now_ns=stamp)
        buffer.add("joints", stamp, vector(stamp // S), now_ns=stamp)
        assert buffer.window(stamp).observations["joints"][0, 0] == stamp // S
    assert buffer.counts["joints"].gaps == 1
    assert buffer.epoch == 0


@pytest.mark.parametrize("freeze_after_s", [None, 0.5])
def test_a_camera_that_shows_the_same_under_new_stamps_is_frozen_where_the_task_says_so(
    freeze_after_s: float | None,
) -> None:
    data = make_task(n_obs_steps=1).model_dump(mode="json")
    data["observations"]["image"]["freeze_after_s"] = freeze_after_s
    buffer = ObservationBuffer(TaskSpec.from_dict(data))
    problems = []
    for k in range(12):
        stamp = 10 * S + k * DT
        buffer.add("image", stamp, picture(1 if k < 2 or k > 9 else 2))
        buffer.add("joints", stamp, vector(0))
        try:
            buffer.check_fresh(stamp)
        except FrozenStream as problem:
            problems.append((k, problem.reason, str(problem)))
    frozen = [k for k, _, _ in problems]
    assert frozen == ([] if freeze_after_s is None else [8, 9])  # shown from step 2 to step 9
    for _, reason, message in problems:
        assert reason == "STREAM_FROZEN"
        assert message.startswith("image: /image has shown exactly the same for 0.")


def test_each_sample_is_counted_once_under_what_became_of_it() -> None:
    buffer = ObservationBuffer(make_task())
    for stamp in (100 * S, 100 * S + DT, 100 * S + 5 * DT, 100 * S + 4 * DT, 100 * S + DT, 90 * S):
        buffer.add("joints", stamp, vector(0))
    for stamp, value in ((0, vector(0)), (100 * S, vector(float("nan")))):
        with pytest.raises(BadObservation):
            buffer.add("joints", stamp, value)
    counts = buffer.counts["joints"]
    assert (counts.kept, counts.late, counts.gaps) == (4, 1, 1)
    assert (counts.duplicates, counts.outdated, counts.unstamped, counts.malformed) == (1, 1, 1, 1)


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
