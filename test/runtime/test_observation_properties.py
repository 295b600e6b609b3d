"""Whatever arrives in whatever order: a window equals what a slow and obvious search over all samples gives.

Every sample's value is its own capture time in ms, so that a value tells which samples it was made of.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_ros.runtime.observation import BadObservation, ObservationBuffer, ObservationProblem
from dp_ros.task import TaskSpec
from test.runtime.test_observation import make_task, vector

MS = 1_000_000
S = 1000 * MS
START = 100 * S

#: Capture times in ms of the accepted samples of each stream.
Samples = dict[str, set[int]]


class Oracle:
    """Keeps every sample for ever and searches them all."""

    def __init__(self, task: TaskSpec) -> None:
        self.task = task
        self.samples: Samples = {key: set() for key in task.observations}

    def age_ms(self, key: str) -> float:
        return self.task.observations[key].max_age_s * 1000

    def value(self, key: str, time_ms: int) -> float | None:
        """What stands for a time; None if nothing may."""
        near = sorted(s for s in self.samples[key] if abs(s - time_ms) <= self.age_ms(key))
        before, after = [s for s in near if s <= time_ms], [s for s in near if s >= time_ms]
        alignment = "nearest" if key == self.task.anchor else self.task.observations[key].alignment
        if alignment == "nearest":
            return min(near, key=lambda s: (abs(s - time_ms), s), default=None)
        if alignment == "asof" or (before and before[-1] == time_ms):
            return before[-1] if before else None
        # Linear between two samples whose values are their times: the time itself.
        return float(time_ms) if before and after else None

    def window(self, now_ms: int) -> tuple[int, dict[str, list[float]]] | None:
        for key, stamps in self.samples.items():
            if not stamps or now_ms - max(stamps) > self.age_ms(key):
                return None
        dt_ms = self.task.dt_ns // MS
        for anchor_ms in sorted(self.samples[self.task.anchor], reverse=True):
            if now_ms - anchor_ms > self.age_ms(self.task.anchor):
                break
            grid = [anchor_ms - k * dt_ms for k in range(self.task.n_obs_steps - 1, -1, -1)]
            rows = {key: [self.value(key, ms) for ms in grid] for key in self.samples}
            if all(value is not None for row in rows.values() for value in row):
                return anchor_ms, rows  # type: ignore[return-value]
        return None


def task_of(alignment: str, latency_s: float, n_obs_steps: int, rate_hz: float) -> TaskSpec:
    """Two vector streams, so that a value can tell its time: the first, `anchor`, plays the camera."""
    data = make_task(alignment, latency_s, n_obs_steps).model_dump(mode="json")
    joints = data["observations"].pop("joints")
    data["observations"] = {
        "anchor": {**joints, "topic": "/anchor", "latency_s": 0.03, "max_age_s": 0.15, "alignment": "asof"},
        "joints": joints,
    }
    data["rate_hz"] = rate_hz
    return TaskSpec.from_dict(data)


samples = st.tuples(
    st.just("sample"),
    st.sampled_from(["anchor", "joints"]),
    st.integers(-700, 300),
    st.sampled_from([*["good"] * 8, "nan", "unstamped"]),
)
clock = st.tuples(
    st.just("clock"), st.just(""), st.one_of(st.integers(0, 120), st.integers(-400, 0)), st.just("")
)
#: Streams that mostly do what they should, so that windows exist, and the clock between them.
regular = st.integers(1, 60).map(lambda ms: ("regular", "", ms, ""))


@settings(max_examples=150, deadline=None)
@given(
    events=st.lists(st.one_of(regular, regular, samples, clock), min_size=5, max_size=60),
    alignment=st.sampled_from(["asof", "nearest", "interpolate"]),
    latency_s=st.sampled_from([0.0, 0.05]),
    n_obs_steps=st.integers(1, 3),
    rate_hz=st.sampled_from([10.0, 50.0]),
)
def test_a_window_is_what_an_exhaustive_search_finds(
    events: list[tuple[str, str, int, str]],
    alignment: str,
    latency_s: float,
    n_obs_steps: int,
    rate_hz: float,
) -> None:
    task = task_of(alignment, latency_s, n_obs_steps, rate_hz)
    buffer, oracle = ObservationBuffer(task), Oracle(task)
    now_ms = latest_ms = START // MS
    set_back = 0
    buffer.see_clock(now_ms * MS)
    for kind, key, ms, fault in events:
        if kind in ("clock", "regular"):
            now_ms += ms
            if now_ms < latest_ms - 100:
                oracle, latest_ms, set_back = Oracle(task), now_ms, set_back + 1
            latest_ms = max(latest_ms, now_ms)
        arriving = [(key, ms, fault)] if kind == "sample" else []
        if kind == "regular":
            arriving = [("anchor", 0, "good"), ("joints", -1, "good"), ("joints", 2, "good")]
        for stream, offset_ms, what in arriving:
            capture_ms = now_ms + offset_ms - round(task.observations[stream].latency_s * 1000)
            stamp_ns = 0 if what == "unstamped" else (now_ms + offset_ms) * MS
            value = float("nan") if what == "nan" else float(capture_ms)
            try:
                buffer.add(stream, stamp_ns, vector(value), now_ns=now_ms * MS)
            except BadObservation:
                assert what != "good" or offset_ms > 200
                continue
            assert what == "good" and offset_ms <= 200
            oracle.samples[stream].add(capture_ms)
        expected = oracle.window(now_ms)
        assert buffer.newest_complete_ns(now_ms * MS) == (None if expected is None else expected[0] * MS)
        if expected is None:
            with pytest.raises(ObservationProblem):
                buffer.window(now_ms * MS)
            continue
        window = buffer.window(now_ms * MS)
        assert window.stamp_ns == expected[0] * MS
        for stream, row in expected[1].items():
            assert window.observations[stream][:, 0].tolist() == pytest.approx(row, abs=0.02)
    assert buffer.epoch == set_back


@settings(max_examples=60, deadline=None)
@given(
    stamps=st.lists(st.integers(0, 3000), min_size=1, max_size=80),
    order=st.randoms(use_true_random=False),
)
def test_the_order_of_arrival_makes_no_difference(stamps: list[int], order: object) -> None:
    shuffled = list(stamps)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    sorted_buffer, shuffled_buffer = ObservationBuffer(make_task()), ObservationBuffer(make_task())
    for buffer, arrivals in ((sorted_buffer, sorted(stamps)), (shuffled_buffer, shuffled)):
        for ms in arrivals:
            buffer.add("joints", START + ms * MS, vector(ms))
    newest_ms = max(stamps)
    for back_ms in range(0, 500, 7):
        results = []
        for buffer in (sorted_buffer, shuffled_buffer):
            try:
                results.append(buffer.sample("joints", START + (newest_ms - back_ms) * MS).tolist())
            except ObservationProblem:
                results.append(None)
        assert results[0] == results[1]
    counts = shuffled_buffer.counts["joints"]
    assert counts.kept + counts.duplicates + counts.outdated == len(stamps)
