"""The closed loop with a fake clock: when it infers, what it commands, and why it stops."""

from __future__ import annotations

from typing import Any

import numpy as np

from dp_ros.runtime.controller import Controller, InferenceRequest, Stop
from dp_ros.runtime.execution import Execution
from dp_ros.runtime.motion.chunk import ActionChunk
from dp_ros.runtime.supervisor import SafetyOptions
from dp_ros.task import TaskSpec, load_task

DT = 100_000_000
T0 = 10_000_000_000


class Loop:
    """A controller with streams that arrive on the grid, and a policy whose action i is its time in steps."""

    def __init__(self, *, immediate: bool = True, **options: Any) -> None:
        self.task: TaskSpec = load_task("pusht_state")
        self.controller = Controller(self.task, immediate=immediate, **options)
        self.step = 0

    @property
    def now_ns(self) -> int:
        return T0 + self.step * DT

    def observe(self, *, skip: str = "") -> None:
        for key, spec in self.task.observations.items():
            if key != skip:
                self.controller.buffer.add(key, self.now_ns, np.zeros(spec.shape, np.float32))

    def actions(self, request: InferenceRequest) -> np.ndarray:
        first = (request.window.stamp_ns - T0) // DT - (self.task.n_obs_steps - 1)
        return np.repeat(np.arange(first, first + self.task.horizon, dtype=np.float32)[:, None], 2, axis=1)

    def advance(self) -> None:
        self.step += 1
        self.observe()

    def begin(self) -> None:
        self.observe()
        self.advance()
        self.controller.start(self.now_ns, seed=7, time_limit_s=100.0)


def test_nothing_is_asked_for_before_a_run() -> None:
    loop = Loop()
    loop.observe()
    assert loop.controller.tick(loop.now_ns).request is None


def test_in_lockstep_it_infers_every_n_action_steps_and_each_action_is_commanded_at_its_own_time() -> None:
    loop = Loop()
    loop.begin()
    asked = []
    for _ in range(30):
        tick = loop.controller.tick(loop.now_ns)
        if tick.request is not None:
            asked.append(loop.step)
            loop.controller.accept(
                tick.request, loop.actions(tick.request), now_ns=loop.now_ns, inference_ns=1
            )
        commanded = loop.controller.schedule.commanded_at(loop.now_ns)
        assert commanded is not None
        assert commanded[0] == loop.step
        loop.advance()
    assert asked == [1, 9, 17, 25]
    assert loop.controller.counts.late_steps == 0


def test_the_noise_of_an_inference_is_told_by_seed_and_steps_since_the_first() -> None:
    loop = Loop()
    loop.begin()
    steps = []
    for _ in range(20):
        tick = loop.controller.tick(loop.now_ns)
        if tick.request is not None:
            steps.append((tick.request.seed, tick.request.step))
            loop.controller.accept(
                tick.request, loop.actions(tick.request), now_ns=loop.now_ns, inference_ns=1
            )
        loop.advance()
    assert steps == [(7, 0), (7, 8), (7, 16)]


def test_in_lockstep_how_long_inferences_take_does_not_tell_in_what_they_are_asked_for() -> None:
    def prefixes(inference_ns: int) -> list[list[float]]:
        loop = Loop(execution=Execution("rtc", 4))
        loop.begin()
        weights = []
        for _ in range(12):
            tick = loop.controller.tick(loop.now_ns)
            if tick.request is not None:
                prefix = tick.request.prefix
                weights.append([] if prefix is None else prefix.weights.tolist())
                actions = loop.actions(tick.request)
                loop.controller.accept(tick.request, actions, now_ns=loop.now_ns, inference_ns=inference_ns)
            loop.advance()
        return weights

    quick = prefixes(0)
    assert len(quick) == 3
    assert quick[1].count(1.0) == 1, (
        "what is executed at the observation is past, everything later can change"
    )
    assert prefixes(3 * DT) == quick


def test_late_actions_are_dropped_and_the_rest_keep_their_time() -> None:
    loop = Loop(immediate=False, margin_s=0.01)
    loop.begin()
    request = loop.controller.tick(loop.now_ns).request
    assert request is not None
    late_ns = 250_000_000
    chunk = loop.controller.accept(
        request, loop.actions(request), now_ns=loop.now_ns + late_ns, inference_ns=late_ns
    )
    assert isinstance(chunk, ActionChunk)
    assert chunk.dropped == 3
    assert chunk.start_ns == loop.now_ns + 3 * DT
    assert chunk.values[0, 0] == loop.step + 3
    assert loop.controller.counts.late_steps == 3


def test_with_a_slow_model_inference_starts_early_enough_and_no_gap_opens() -> None:
    loop = Loop(immediate=False, margin_s=0.01)
    loop.begin()
    pending: tuple[InferenceRequest, int] | None = None
    for _ in range(60):
        if pending is not None and loop.step >= pending[1]:
            request = pending[0]
            loop.controller.accept(
                request, loop.actions(request), now_ns=loop.now_ns - 60_000_000, inference_ns=240_000_000
            )
            pending = None
        tick = loop.controller.tick(loop.now_ns)
        if tick.request is not None:
            assert pending is None
            pending = tick.request, loop.step + 3
        commanded = loop.controller.schedule.commanded_at(loop.now_ns)
        if loop.step > 5:
            assert commanded is not None
            assert abs(commanded[0] - loop.step) < 1e-9
        loop.advance()
    assert loop.controller.lead_steps == 3


def test_a_chunk_that_is_late_as_a_whole_commands_nothing_and_asks_again_with_the_next_observation() -> None:
    loop = Loop(immediate=False)
    loop.begin()
    request = loop.controller.tick(loop.now_ns).request
    assert request is not None
    chunk = loop.controller.accept(
        request, loop.actions(request), now_ns=loop.now_ns + 20 * DT, inference_ns=20 * DT
    )
    assert chunk is None
    assert loop.controller.schedule.commanded_at(loop.now_ns + 20 * DT) is None
    assert loop.controller.tick(loop.now_ns).request is None
    loop.advance()
    assert loop.controller.tick(loop.now_ns).request is not None


def test_a_stale_stream_stops_inference_at_once_and_the_run_after_the_grace() -> None:
    loop = Loop(safety=SafetyOptions(stale_grace_s=1.0))
    loop.begin()
    for _ in range(9):
        loop.step += 1
        loop.observe(skip="agent_pos")
        tick = loop.controller.tick(loop.now_ns)
        if loop.step >= 5:
            assert tick.problem is not None
            assert tick.problem.stream == "agent_pos"
        assert tick.stop is None
    stops = []
    for _ in range(6):
        loop.step += 1
        loop.observe(skip="agent_pos")
        stops.append(loop.controller.tick(loop.now_ns).stop)
    reasons = [stop for stop in stops if stop is not None]
    assert [stop.reason for stop in reasons] == ["STREAM_STALE"]
    assert "/pusht/joint_states" in reasons[0].message
    assert not loop.controller.running


def test_a_run_ends_at_its_time_limit() -> None:
    loop = Loop()
    loop.observe()
    loop.advance()
    loop.controller.start(loop.now_ns, seed=0, time_limit_s=0.3)
    outcomes = []
    for _ in range(5):
        outcomes.append(loop.controller.tick(loop.now_ns).stop)
        loop.advance()
    assert [stop and stop.reason for stop in outcomes] == [None, None, None, "TIME_LIMIT", None]


def test_actions_that_are_not_finite_end_the_run_and_command_nothing() -> None:
    loop = Loop()
    loop.begin()
    request = loop.controller.tick(loop.now_ns).request
    assert request is not None
    actions = loop.actions(request)
    actions[4, 1] = np.nan
    outcome = loop.controller.accept(request, actions, now_ns=loop.now_ns, inference_ns=1)
    assert isinstance(outcome, Stop)
    assert outcome.reason == "INFERENCE_FAILED"
    assert loop.controller.schedule.commanded_at(loop.now_ns) is None
    assert not loop.controller.running


def test_actions_beyond_the_limits_are_clamped_and_counted() -> None:
    loop = Loop()
    loop.begin()
    request = loop.controller.tick(loop.now_ns).request
    assert request is not None
    chunk = loop.controller.accept(
        request, loop.actions(request) + 1000.0, now_ns=loop.now_ns, inference_ns=1
    )
    assert isinstance(chunk, ActionChunk)
    assert chunk.values.max() == 512.0
    assert loop.controller.counts.clamped == chunk.values.size


def test_a_result_of_an_earlier_run_is_ignored() -> None:
    loop = Loop()
    loop.begin()
    request = loop.controller.tick(loop.now_ns).request
    assert request is not None
    loop.controller.stop()
    loop.controller.start(loop.now_ns, seed=1, time_limit_s=10.0)
    assert loop.controller.accept(request, loop.actions(request), now_ns=loop.now_ns, inference_ns=1) is None
    assert loop.controller.schedule.commanded_at(loop.now_ns) is None


def test_stopping_brakes_along_what_is_commanded_and_ends_at_rest() -> None:
    loop = Loop(immediate=False)
    loop.begin()
    request = loop.controller.tick(loop.now_ns).request
    assert request is not None
    chunk = loop.controller.accept(request, 100 + loop.actions(request), now_ns=loop.now_ns, inference_ns=1)
    assert isinstance(chunk, ActionChunk)
    now_ns = chunk.start_ns + 2 * DT
    moving = loop.controller.outlet.setpoint(now_ns)
    assert moving is not None
    assert moving.velocity[0] > 1.0
    loop.controller.stop()
    rest_ns = loop.controller.brake(now_ns)
    assert rest_ns is not None
    assert now_ns < rest_ns < now_ns + 5 * DT
    at_rest = loop.controller.outlet.setpoint(rest_ns)
    assert at_rest is not None
    assert (at_rest.velocity == 0).all()
    points = loop.controller.outlet.trajectory(now_ns)
    assert points is not None
    assert np.allclose(points.positions[0], moving.position)
    assert loop.controller.outlet.setpoint(rest_ns + 5 * DT) is None, "nothing is commanded after a run"
