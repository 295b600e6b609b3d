"""What changes lies behind the time at which it can be sent: before that everything goes on as it was commanded."""

from __future__ import annotations

import numpy as np
import pytest

from dp_ros.runtime.chunk import ActionChunk
from dp_ros.runtime.controller import Controller
from dp_ros.runtime.lead import LONGEST_S, RECENT, Lead
from test.runtime.test_controller import DT, Loop

MS = 1_000_000


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
