"""Conditions, reactions and their time bounds, on clocks that the test moves."""

from __future__ import annotations

import pytest

from dp_ros.runtime.supervisor import (
    CLOCK_JUMP,
    CLOCK_STOPPED,
    CONTROLLER_SILENT,
    DEADMAN_RELEASED,
    EMERGENCY_STOP,
    INFERENCE_FAILED,
    INFERENCE_OVERDUE,
    STREAM_STALE,
    TAKEOVER,
    TRACKING_ERROR,
    Reaction,
    SafetyOptions,
    Supervisor,
    Verdict,
)


def judge(supervisor: Supervisor, time_s: float) -> Verdict:
    return supervisor.judge(round(time_s * 1e9), time_s)


def test_all_is_well_until_something_is_reported() -> None:
    supervisor = Supervisor()
    supervisor.watch_people(10.0)
    assert judge(supervisor, 10.0) == Verdict()
    assert not supervisor.counters


@pytest.mark.parametrize(
    ("reason", "at_once", "grace_s"),
    [
        (STREAM_STALE, Reaction.HOLD, 1.0),
        (CONTROLLER_SILENT, Reaction.HOLD, 2.0),
        (INFERENCE_OVERDUE, Reaction.WAIT, 3.0),
        (TRACKING_ERROR, Reaction.WAIT, 0.3),
        (INFERENCE_FAILED, Reaction.ABORT, 0.0),
    ],
)
def test_a_condition_has_its_reaction_at_once_and_ends_the_goal_after_its_grace(
    reason: str, at_once: Reaction, grace_s: float
) -> None:
    supervisor = Supervisor()
    supervisor.report(reason, "why", 10.0)
    assert judge(supervisor, 10.0) == Verdict(at_once, reason, "why")
    if grace_s:
        supervisor.report(reason, "still", 10.0 + grace_s - 0.01)
        assert judge(supervisor, 10.0 + grace_s - 0.01).reaction is at_once
    supervisor.report(reason, "still", 10.0 + grace_s)
    assert judge(supervisor, 10.0 + grace_s).reaction is Reaction.ABORT
    assert supervisor.counters == {reason: 1}, "an onset is counted once"


def test_a_condition_that_clears_in_time_leaves_only_its_count() -> None:
    supervisor = Supervisor()
    for onset_s in (10.0, 12.0):
        supervisor.report(STREAM_STALE, "old", onset_s)
        supervisor.report(STREAM_STALE, "", onset_s + 0.9)
        assert judge(supervisor, onset_s + 1.5) == Verdict()
    assert supervisor.counters[STREAM_STALE] == 2


def test_of_several_conditions_the_worst_reaction_is_taken() -> None:
    supervisor = Supervisor()
    supervisor.report(INFERENCE_OVERDUE, "late", 10.0)
    supervisor.report(STREAM_STALE, "old", 10.0)
    assert judge(supervisor, 10.1).reason == STREAM_STALE
    supervisor.operator_commands("/operator", 10.1)
    supervisor.watch_people(10.1)
    assert judge(supervisor, 10.1).reason == TAKEOVER
    supervisor.press_emergency_stop("topic /stop")
    supervisor.watch_people(10.1)
    assert judge(supervisor, 10.1).reason == EMERGENCY_STOP


def test_the_emergency_stop_stays_until_it_is_cleared_without_a_goal() -> None:
    supervisor = Supervisor()
    supervisor.press_emergency_stop("topic /stop")
    supervisor.press_emergency_stop("service")
    assert supervisor.counters[EMERGENCY_STOP] == 1
    supervisor.begin()
    supervisor.watch_people(100.0)
    assert judge(supervisor, 100.0).reaction is Reaction.ABORT
    assert supervisor.refusal(100.0).reason == EMERGENCY_STOP
    assert "cancel it first" in supervisor.clear_emergency_stop(goal_running=True)
    assert supervisor.emergency_stopped
    assert supervisor.clear_emergency_stop(goal_running=False) == ""
    assert supervisor.refusal(100.0) == Verdict()


@pytest.mark.parametrize(("release", "reaction"), [("hold", Reaction.HOLD), ("abort", Reaction.ABORT)])
def test_a_deadman_must_be_held_where_it_is_required(release: str, reaction: Reaction) -> None:
    supervisor = Supervisor(SafetyOptions(deadman_required=True, deadman_release=release))  # type: ignore[arg-type]
    assert supervisor.refusal(10.0).reason == DEADMAN_RELEASED, "no goal without it"
    supervisor.hold_deadman(True, 10.0)
    assert supervisor.refusal(10.1) == Verdict()
    supervisor.watch_people(10.29)
    assert judge(supervisor, 10.29) == Verdict()
    supervisor.watch_people(10.31)
    assert judge(supervisor, 10.31).reaction is reaction, "silence counts as a release"
    supervisor.hold_deadman(True, 10.4)
    supervisor.watch_people(10.4)
    assert judge(supervisor, 10.4) == Verdict()
    supervisor.hold_deadman(False, 10.41)
    supervisor.watch_people(10.41)
    assert judge(supervisor, 10.41).reaction is reaction


def test_nobody_asks_for_a_deadman_that_is_not_required() -> None:
    supervisor = Supervisor()
    supervisor.watch_people(10.0)
    assert supervisor.refusal(10.0) == judge(supervisor, 10.0) == Verdict()


@pytest.mark.parametrize(("then", "reaction"), [("resume", Reaction.YIELD), ("end", Reaction.ABORT)])
def test_while_the_operator_is_live_the_policy_yields(then: str, reaction: Reaction) -> None:
    supervisor = Supervisor(SafetyOptions(takeover_then=then))  # type: ignore[arg-type]
    supervisor.operator_commands("/operator", 10.0)
    supervisor.watch_people(10.0)
    assert judge(supervisor, 10.0).reaction is reaction
    assert "/operator" in judge(supervisor, 10.0).message
    assert supervisor.operator_is_live(10.49)
    supervisor.watch_people(10.51)
    assert judge(supervisor, 10.51) == Verdict()


@pytest.mark.parametrize(("jump_s", "noticed"), [(-0.04, False), (-0.06, True), (0.9, False), (1.1, True)])
def test_a_jump_of_the_clock_is_told_from_time_that_passes(jump_s: float, noticed: bool) -> None:
    supervisor = Supervisor()
    assert supervisor.watch_clock(10_000_000_000, 100.0) == 0
    assert supervisor.watch_clock(10_050_000_000, 100.05) == 0
    jumped_ns = 10_050_000_000 + round(jump_s * 1e9)
    assert supervisor.watch_clock(jumped_ns, 100.05) == (round(jump_s * 1e9) if noticed else 0)
    assert (judge(supervisor, 11.0).reason == CLOCK_JUMP) is noticed


def test_a_process_that_was_held_up_has_seen_no_jump() -> None:
    supervisor = Supervisor()
    supervisor.watch_clock(10_000_000_000, 100.0)
    assert supervisor.watch_clock(15_000_000_000, 105.0) == 0


def test_a_clock_that_stands_still_ends_the_goal_by_the_steady_clock() -> None:
    supervisor = Supervisor(SafetyOptions(clock_timeout_s=5.0))
    for steady_s in (100.0, 102.0, 104.9):
        supervisor.watch_clock(10_000_000_000, steady_s)
        assert supervisor.judge(10_000_000_000, steady_s).reaction <= Reaction.WAIT
    supervisor.watch_clock(10_000_000_000, 105.1)
    verdict = supervisor.judge(10_000_000_000, 105.1)
    assert (verdict.reaction, verdict.reason) == (Reaction.ABORT, CLOCK_STOPPED)
    supervisor.watch_clock(10_100_000_000, 105.2)
    assert supervisor.judge(10_100_000_000, 105.2) == Verdict()


def test_authority_rises_smoothly_from_nothing_to_all() -> None:
    supervisor = Supervisor(SafetyOptions(soft_start_s=2.0))
    share = [supervisor.authority(0.1 * k) for k in range(-1, 25)]
    assert share[0] == share[1] == 0.0
    assert share[-1] == 1.0
    assert supervisor.authority(1.0) == pytest.approx(0.5)
    assert all(a <= b for a, b in zip(share, share[1:], strict=False))
    assert Supervisor(SafetyOptions(soft_start_s=0.0)).authority(0.0) == 1.0
