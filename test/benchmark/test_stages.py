"""Stages of one action, put together from what the probes wrote down."""

from __future__ import annotations

import pytest

from dp_ros.benchmark.stages import STAGES, Inference, StageTimes, stage_quantiles

MS = 1_000_000


def one_pass(capture_ns: int) -> tuple[Inference, tuple[int, int]]:
    return Inference(capture_ns, capture_ns + 3 * MS, capture_ns + 17 * MS), (
        capture_ns + 18 * MS,
        capture_ns + 7,
    )


def test_every_stage_has_its_time_and_they_add_up() -> None:
    inference, published = one_pass(100 * MS)
    times = StageTimes({100 * MS: 102 * MS}, [inference], [published], {100 * MS + 7: 123 * MS})
    found = stage_quantiles(times)
    assert tuple(found) == STAGES
    assert [found[stage].p50 for stage in STAGES] == pytest.approx([2.0, 1.0, 14.0, 1.0, 5.0, 23.0])


def test_an_inference_whose_actions_were_all_late_counts_up_to_its_end() -> None:
    late, _ = one_pass(0)
    good, published = one_pass(100 * MS)
    times = StageTimes({0: MS, 100 * MS: 101 * MS}, [late, good], [published], {100 * MS + 7: 120 * MS})
    found = stage_quantiles(times)
    assert found["splice_and_gate"].max == pytest.approx(1.0), "not the publication of the next inference"
    assert found["inference"].p50 == pytest.approx(14.0)


def test_a_trajectory_that_the_robot_never_got_has_no_total() -> None:
    inference, published = one_pass(0)
    found = stage_quantiles(StageTimes({0: MS}, [inference], [published], {}))
    assert "total" not in found
    assert "splice_and_gate" in found


def test_nothing_seen_is_nothing_found() -> None:
    assert stage_quantiles(StageTimes()) == {}
