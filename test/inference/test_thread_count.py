from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from dp_ros.errors import UserError
from dp_ros.inference import load
from dp_ros.inference.engine import CheckedEngine
from dp_ros.inference.load import load_engine
from dp_ros.inference.thread_count import fastest_engine, thread_counts
from dp_ros.paths import share_dir


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


def choose(times_ms: dict[int, list[float]], cores: int) -> tuple[int, list[int]]:
    """The count that is chosen, and those that were tried."""
    clock, tried = Clock(), []

    def make(count: int) -> FakeEngine:
        tried.append(count)
        return FakeEngine(clock, [ms / 1e3 for ms in times_ms[count]])

    engine, count, _ = fastest_engine(make, cores, clock)
    assert isinstance(engine, FakeEngine)
    return count, tried


def test_one_core_is_left_to_others() -> None:
    assert [thread_counts(cores) for cores in (1, 2, 3, 4, 8, 16)] == [
        [1],
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 4, 7],
        [1, 2, 4, 8, 15],
    ]


def test_more_threads_are_taken_while_they_are_clearly_faster() -> None:
    assert choose({1: [8.0], 2: [4.5], 4: [3.0], 7: [2.9]}, 8) == (4, [1, 2, 4, 7])
    assert choose({1: [8.0], 2: [7.5], 4: [1.0], 7: [1.0]}, 8) == (1, [1, 2])
    assert choose({1: [8.0], 2: [9.0]}, 3) == (1, [1, 2])


def test_the_first_call_and_one_that_was_held_up_do_not_count() -> None:
    assert choose({1: [50.0, 8.0, 8.0, 90.0, 8.0, 8.0, 8.0], 2: [500.0, 4.0, 4.0, 70.0, 4.0]}, 3) == (
        2,
        [1, 2],
    )


def test_without_a_choice_nothing_is_measured() -> None:
    assert choose({1: [8.0]}, 2) == (1, [1])


@pytest.mark.parametrize(("cores", "said"), [(2, "of 2 core(s) one is left"), (3, "measured, 1: ")])
def test_a_model_says_what_was_chosen(
    cores: int, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(load, "available_cores", lambda: cores)
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
