from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dp_ros.errors import UserError
from dp_ros.inference import load
from dp_ros.inference.engine import CheckedEngine
from dp_ros.inference.load import load_engine
from dp_ros.inference.native.engine import NativeEngine
from dp_ros.inference.placement import Placement, Wanted, available_cores, fastest_engine, thread_counts
from dp_ros.inference.worker import InferenceWorker
from dp_ros.paths import share_dir
from dp_ros.runtime.execution import InferenceRequest
from dp_ros.runtime.observation import Window


class Clock:
    """Time that passes only while an engine computes."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class FakeEngine:
    def __init__(self, clock: Clock, call_s: list[float]) -> None:
        self._clock, self._call_s = clock, call_s

    def warm_up(self) -> None:
        self._clock.now_s += self._call_s.pop(0) if len(self._call_s) > 1 else self._call_s[0]


Times = dict[Placement, list[float]]


def choose(times_ms: Times, n_cores: int, wanted: Wanted | None = None) -> tuple[Placement, list[Placement]]:
    """What is chosen, and what was tried."""
    clock, tried = Clock(), []

    def make(placement: Placement) -> FakeEngine:
        tried.append(placement)
        return FakeEngine(clock, [ms / 1e3 for ms in times_ms[placement]])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dp_ros.inference.placement.confine", lambda cores: None)  # this machine may have fewer
        engine, placement, _ = fastest_engine(make, range(n_cores), wanted, clock)
    assert isinstance(engine, FakeEngine)
    return placement, tried


def test_one_core_is_left_to_others() -> None:
    assert [thread_counts(cores) for cores in (1, 2, 3, 4, 8, 16)] == [
        [1],
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 4, 7],
        [1, 2, 4, 8, 15],
    ]


NOT_PINNED = Wanted(cores=())


def test_more_threads_are_taken_while_they_are_clearly_faster() -> None:
    def count_of(times_ms: dict[int, float], n_cores: int) -> tuple[int, list[int]]:
        times = {Placement(count, (), spin): [ms] for count, ms in times_ms.items() for spin in (False, True)}
        chosen, tried = choose(times, n_cores, Wanted(cores=(), spin=True))
        return chosen.threads, [each.threads for each in tried]

    assert count_of({1: 8.0, 2: 4.5, 4: 3.0, 7: 2.9}, 8) == (4, [1, 2, 4, 7])
    assert count_of({1: 8.0, 2: 7.5, 4: 1.0, 7: 1.0}, 8) == (1, [1, 2])
    assert count_of({1: 8.0, 2: 9.0}, 3) == (1, [1, 2])


def test_the_first_call_and_one_that_was_held_up_do_not_count() -> None:
    one, two = Placement(1), Placement(2, (), True)
    times = {one: [50.0, 8.0, 8.0, 90.0, 8.0, 8.0, 8.0], two: [500.0, 4.0, 4.0, 70.0, 4.0]}
    chosen, tried = choose({**times, Placement(2): [8.0]}, 3, NOT_PINNED)
    assert (chosen, tried[:2]) == (two, [one, two])


def test_threads_spin_only_where_that_is_clearly_faster() -> None:
    times = {Placement(1): [8.0], Placement(2, (), True): [4.0]}
    assert choose({**times, Placement(2): [4.3]}, 3, NOT_PINNED)[0] == Placement(2)
    assert choose({**times, Placement(2): [5.0]}, 3, NOT_PINNED)[0] == Placement(2, (), True)
    assert choose({Placement(1): [8.0], Placement(2): [4.0]}, 3, Wanted(cores=(), spin=False))[
        0
    ] == Placement(2)


def test_threads_are_kept_on_the_last_cores_only_where_that_is_clearly_faster() -> None:
    times = {Placement(1): [8.0], Placement(2, (), True): [7.5]}
    assert choose({**times, Placement(1, (2,)): [5.0]}, 3)[0] == Placement(1, (2,))
    assert choose({**times, Placement(1, (2,)): [7.5]}, 3)[0] == Placement(1)


def test_what_is_asked_for_is_not_measured() -> None:
    wanted = Wanted(threads=2, cores=(0, 1), spin=False)
    assert choose({Placement(2, (0, 1)): [8.0]}, 8, wanted) == (Placement(2, (0, 1)), [Placement(2, (0, 1))])


def test_without_a_choice_nothing_is_measured() -> None:
    assert choose({Placement(1): [8.0]}, 2) == (Placement(1), [Placement(1)])


def test_words_for_a_placement() -> None:
    assert Wanted.of() == Wanted(None, None, None)
    assert Wanted.of(2, "any", "off") == Wanted(2, (), False)
    core = available_cores()[-1]
    assert Wanted.of(1, f"{core}", "on") == Wanted(1, (core,), True)
    for given, message in (
        ((-1,), "threads: got -1, expected 1 or more, or 0"),
        ((1, "some"), "affinity: got 'some', expected auto, any, or cores such as 2,3"),
        ((1, "4095"), "affinity: got '4095', but this process may use the cores 0"),
        ((1, "any", "maybe"), "spin: got 'maybe', expected one of auto, on, off"),
    ):
        with pytest.raises(UserError, match=message):
            Wanted.of(*given)


def test_an_inference_runs_where_it_is_told_to_and_nobody_else_does() -> None:
    anywhere = available_cores()
    core = anywhere[-1]
    engine = load_engine(share_dir() / "models" / "pusht_state", threads=2, affinity=str(core))
    assert engine.cores == (core,)
    assert available_cores() == anywhere
    assert isinstance(engine, NativeEngine)
    tasks = [int(each.name) for each in Path("/proc/self/task").iterdir()]
    assert [core] in [sorted(os.sched_getaffinity(task)) for task in tasks], "the threads that it made"
    seen: list[list[int]] = []

    class Looking(NativeEngine):
        def sample(self, *args: Any, **options: Any) -> Any:
            seen.append(available_cores())
            raise RuntimeError("that is all")

    engine.__class__ = Looking
    done = threading.Event()
    worker = InferenceWorker(engine, done.set)
    window = Window(1, {})
    worker.submit(InferenceRequest(1, window, 0, 0))
    assert done.wait(10) and worker.close()
    assert seen == [[core]]


@pytest.mark.parametrize(("cores", "said"), [(2, "of 2 core(s) one is left"), (3, "measured, 1 thread(s): ")])
def test_a_model_says_what_was_chosen(
    cores: int, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(load, "available_cores", lambda: list(range(cores)))
    monkeypatch.setattr(
        "dp_ros.inference.placement.confine", lambda cores: None
    )  # this machine may have fewer
    folder = share_dir() / "models" / "pusht_state"
    with caplog.at_level(logging.INFO):
        engine = load_engine(folder, threads=0)
    assert said in caplog.text
    task = engine.task
    draw = np.random.default_rng(0)
    observation = {
        k: draw.normal(size=(task.n_obs_steps, *s.shape)).astype(np.float32)
        for k, s in task.observations.items()
    }
    noise = draw.normal(size=(task.horizon, task.action.dim)).astype(np.float32)
    expected = load_engine(folder, threads=1).sample(observation, noise)
    np.testing.assert_array_equal(engine.sample(observation, noise), expected)


def test_a_negative_count_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="threads: got -1, expected 1 or more, or 0"):
        load_engine(tmp_path, threads=-1)


def test_what_is_measured_encodes_its_pictures_each_time() -> None:
    engine = load_engine(share_dir() / "models" / "pusht_image", "native", threads=1)
    assert isinstance(engine, CheckedEngine)
    for _ in range(3):
        before = engine.pictures_encoded
        engine.warm_up()
        assert engine.pictures_encoded - before == engine.task.n_obs_steps
