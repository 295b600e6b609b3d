"""What changes lies behind the time at which it can be sent: before that everything goes on as it was commanded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dp_ros.runtime.controller import Controller
from dp_ros.runtime.lead import LONGEST_S, RECENT, Lead
from dp_ros.runtime.motion.chunk import ActionChunk, ChunkSchedule, Seam
from dp_ros.runtime.motion.planning import Planner
from test.runtime.motion_specs import joints
from test.runtime.test_controller import DT, Loop

MS = 1_000_000
STEP = 100 * MS
T0 = 1_700_000_000 * 1_000_000_000


def test_the_longest_of_the_last_ones_counts_but_no_stall() -> None:
    lead = Lead(0.01, 0.05)
    assert lead.chunk_ns == lead.stop_ns == 60 * MS
    lead.took(130 * MS, stop=False)
    lead.took(20 * MS, stop=False)
    assert (lead.chunk_ns, lead.stop_ns) == (140 * MS, 60 * MS)
    for _ in range(RECENT):
        lead.took(20 * MS, stop=False)
    assert lead.chunk_ns == 30 * MS
    lead.took(5000 * MS, stop=True)
    assert lead.stop_ns == 10 * MS + round(LONGEST_S * 1e9)


def commanded(controller: Controller, from_ns: int, to_ns: int) -> np.ndarray:
    states = [controller.schedule.state_at(t) for t in range(from_ns, to_ns, 5 * MS)]
    return np.array([(s.position, s.velocity, s.acceleration) for s in states if s is not None])


def accept(loop: Loop, offset: float) -> ActionChunk:
    request = loop.controller.tick(loop.now_ns).request
    assert request is not None
    actions = 100 + offset + 3 * loop.actions(request)
    chunk = loop.controller.accept(request, actions, now_ns=loop.now_ns, inference_ns=1)
    assert isinstance(chunk, ActionChunk)
    return chunk


def moving(took_ms: int) -> Loop:
    """A loop in which the first chunk runs, where changes take this long."""
    loop = Loop(immediate=False, margin_s=0.01, first_lead_s=0.05)
    loop.begin()
    chunk = accept(loop, 0.0)
    assert chunk.start_ns >= loop.now_ns + 60 * MS, "the first one of a goal as well"
    for stop in (True, False):
        loop.controller.lead.took(took_ms * MS, stop=stop)
    for _ in range(8):
        loop.advance()
    return loop


def test_a_new_chunk_changes_nothing_before_it_can_be_there() -> None:
    loop = moving(130)
    before = commanded(loop.controller, loop.now_ns, loop.now_ns + 140 * MS)
    assert len(before) == 28
    chunk = accept(loop, 20.0)
    assert np.allclose(commanded(loop.controller, loop.now_ns, loop.now_ns + 140 * MS), before, atol=1e-6)
    assert chunk.start_ns == loop.now_ns + 2 * DT
    points = loop.controller.outlet.trajectory(loop.now_ns)
    assert points is not None
    assert np.allclose(points.positions[0], before[0, 0]), "it begins with what runs"


@pytest.mark.parametrize("end", [True, False])
def test_a_stop_begins_when_it_can_be_there(end: bool) -> None:
    loop = moving(130)
    before = commanded(loop.controller, loop.now_ns, loop.now_ns + 140 * MS)
    if end:
        loop.controller.stop()
        loop.controller.brake(loop.now_ns)
    else:
        loop.step += 5  # nothing is published: stale
        before = commanded(loop.controller, loop.now_ns, loop.now_ns + 140 * MS)
        assert loop.controller.tick(loop.now_ns).braked
    after = commanded(loop.controller, loop.now_ns, loop.now_ns + 3000 * MS)
    assert np.allclose(after[:28], before, atol=1e-6)
    assert np.abs(after[0, 1]).max() > 1.0
    assert not after[-1, 1].any(), "and then it stands"


def test_a_stop_before_the_first_action_of_a_goal_is_a_stop() -> None:
    loop = Loop(immediate=False, margin_s=0.01)
    loop.begin()
    chunk = accept(loop, 0.0)
    loop.controller.stop()
    rest_ns = loop.controller.brake(loop.now_ns)
    assert rest_ns is not None
    assert rest_ns < chunk.start_ns + DT, "not the whole chunk"


# --- planned for too long -----------------------------------------------------------------------------------


class SlowPlanning:
    """A schedule on its way whose planning takes what it is told to, one after the other, by its own clock."""

    def __init__(self, patch: pytest.MonkeyPatch, *took_ms: int) -> None:
        self.now_ns = T0 + 5 * STEP
        self.schedule = ChunkSchedule(joints(1, velocity=2.0, acceleration=10.0, jerk=200.0))
        self.schedule.splice(ActionChunk(T0, STEP, 0.05 * np.arange(40.0)[:, None], T0))
        self._took = iter(took_ms)
        for name in ("approach", "brake"):
            patch.setattr(Planner, name, self._taking(getattr(Planner, name)))

    def _taking(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def planned(*args: Any) -> Any:
            self.now_ns += next(self._took) * MS
            return method(*args)

        return planned

    def before(self, to_ns: int) -> np.ndarray:
        times = range(T0, to_ns, 5 * MS)
        return np.array([self.schedule.commanded_at(t) for t in times])

    def splice(self) -> Seam:
        chunk = ActionChunk(T0 + 5 * STEP, STEP, 0.2 - 0.03 * np.arange(40.0)[:, None], T0)
        return self.schedule.splice(chunk, not_before_ns=self.now_ns + 100 * MS, ready_ns=lambda: self.now_ns)


@pytest.mark.parametrize(("took_ms", "tries"), [((80,), 1), ((350, 60), 2), ((350, 800, 100), 3)])
def test_a_seam_that_has_passed_when_it_is_planned_lies_later(
    took_ms: tuple[int, ...], tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowPlanning(monkeypatch, *took_ms)
    before = slow.before(T0 + 80 * STEP)
    seam = slow.splice()
    assert seam.spliced
    assert seam.time_ns >= slow.now_ns == T0 + 5 * STEP + sum(took_ms) * MS
    assert (tries == 1) == (seam.time_ns == T0 + 6 * STEP)
    count = (slow.now_ns - T0) // (5 * MS)
    after = slow.before(T0 + 80 * STEP)
    assert np.abs(after[:count] - before[:count]).max() < 1e-9, "what has been followed is what was commanded"
    assert np.abs(np.diff(after[:, 0])).max() < 2.0 * 0.005, "and goes on without a jump"
    assert after[-1, 0] < 0.0, "to where the new chunk leads"


def test_a_chunk_that_is_never_ready_in_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowPlanning(monkeypatch, 200, 700, 2400)
    before = slow.before(T0 + 80 * STEP)
    assert not slow.splice().spliced
    assert (slow.before(T0 + 80 * STEP) == before).all()


@pytest.mark.parametrize("took_ms", [(50,), (350, 50), (350, 800, 2600)])
def test_a_stop_begins_later_where_it_was_planned_for_long_and_is_never_refused(
    took_ms: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowPlanning(monkeypatch, *took_ms)
    before = slow.before(T0 + 80 * STEP)
    rest_ns = slow.schedule.brake(slow.now_ns + 100 * MS, ready_ns=lambda: slow.now_ns)
    after = slow.before(T0 + 80 * STEP)
    count = min((slow.now_ns - T0) // (5 * MS), 20 * len(took_ms))
    assert np.abs(after[:count] - before[:count]).max() < 1e-9
    assert after[-1, 0] < before[-1, 0], "it is a stop"
    assert rest_ns < T0 + 40 * STEP


def test_a_controller_with_a_clock_counts_the_actions_that_planning_made_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = moving(50)
    late, chunk_before = loop.controller.counts.late_steps, accept(loop, 20.0)
    for _ in range(8):
        loop.advance()
    now = {"ns": loop.now_ns}
    loop.controller._ready_ns = lambda: now["ns"]
    approach = Planner.approach

    def slow(*args: Any) -> Any:
        now["ns"] += 120 * MS
        return approach(*args)

    monkeypatch.setattr(Planner, "approach", slow)
    chunk = accept(loop, 30.0)
    assert chunk.start_ns >= now["ns"]
    assert chunk.start_ns > chunk_before.start_ns
    assert loop.controller.counts.late_steps > late
