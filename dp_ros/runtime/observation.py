"""Observation buffers: samples with their capture times in, aligned windows out.

Each stream keeps its samples by capture time (header stamp minus the stream's latency), never by arrival.
A window is `n_obs_steps` samples of every stream on a grid that ends at the newest complete sample of the
anchor stream: the newest one at which every other stream can be aligned. What is missing or too old is named
and refused: never zero-filled, never held beyond its age. Easy to get wrong: when the clock is set back, as
by a bag that loops, everything kept lies in the future and is forgotten; `epoch` tells whoever keeps times.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

import numpy as np

from dp_ros.runtime.stream import (
    BAD_OBSERVATION,
    STREAM_FROZEN,
    STREAM_STALE,
    Array,
    BadObservation,
    FrozenStream,
    ObservationProblem,
    StaleStream,
    StreamCounts,
    StreamRing,
)
from dp_ros.task import TaskSpec

__all__ = [
    "BAD_OBSERVATION",
    "STREAM_FROZEN",
    "STREAM_STALE",
    "BadObservation",
    "FrameStamp",
    "FrozenStream",
    "ObservationBuffer",
    "ObservationProblem",
    "StaleStream",
    "StreamCounts",
    "Window",
]

#: How far ahead of the clock a stamp may be: clocks of two machines, and a `/clock` at 10 Hz, differ so much.
FUTURE_TOLERANCE_NS = 200_000_000
#: How far the clock may go back and be thought of as steered; further, and it was set back.
BACKWARD_TOLERANCE_NS = 100_000_000
_recollections = itertools.count()


class FrameStamp(NamedTuple):
    """What a picture is known by: no other one in this process has the same.

    Attributes:
        recollection: number of what a buffer has kept between two times that it forgot everything; capture times of
            another one, such as of a bag that begins anew, mean other pictures.
        stamp_ns: capture time.
    """

    recollection: int
    stamp_ns: int


@dataclass(frozen=True)
class Window:
    """Observations for one inference.

    Attributes:
        stamp_ns: capture time of the newest step, the time action 0 is meant for.
        observations: stream name to array (n_obs_steps, *shape), oldest first.
        newest_ns: capture time of the newest sample that each stream had given by then, used or not: what has to
            be there for the same window to come out again.
        frames: what the pictures of each camera are known by, oldest first.
    """

    stamp_ns: int
    observations: Mapping[str, Array]
    newest_ns: Mapping[str, int] = field(default_factory=dict)
    frames: Mapping[str, tuple[FrameStamp, ...]] = field(default_factory=dict)


class ObservationBuffer:
    """Rings of stamped samples, one for each stream of a task.

    Args:
        task: names the streams, their shapes, latencies, ages and alignment.
        history_s: how much longer samples are kept than windows need, for those who look further back.

    Attributes:
        counts: stream name to what became of its samples.
        epoch: how often everything was forgotten because the clock was set back. Times of an earlier epoch
            mean nothing any more: a controller whose epoch differs starts its grid anew.
    """

    def __init__(self, task: TaskSpec, history_s: float = 0.0) -> None:
        self._task = task
        anchor = task.observations[task.anchor]
        span_s = task.n_obs_steps / task.rate_hz
        self._streams = {}
        for key, spec in task.observations.items():
            # A window may end at an anchor sample of its maximum age, captured its latency ago, while the
            # newest sample of this stream is stamped a little ahead of the clock.
            reach_s = span_s + spec.max_age_s + max(spec.max_age_s, anchor.max_age_s) + 2 / task.rate_hz
            reach_s += max(anchor.latency_s - spec.latency_s, 0.0) + FUTURE_TOLERANCE_NS / 1e9 + history_s
            self._streams[key] = StreamRing(key, spec, round(1e9 * reach_s))
        self.counts = {key: stream.counts for key, stream in self._streams.items()}
        self.epoch = 0
        self._recollection = next(_recollections)
        self._now_ns: int | None = None

    @property
    def duplicates(self) -> int:
        """Samples ignored because the stream had one with the same stamp."""
        return sum(counts.duplicates for counts in self.counts.values())

    @property
    def outdated(self) -> int:
        """Samples ignored because they were older than everything kept."""
        return sum(counts.outdated for counts in self.counts.values())

    def clear(self) -> None:
        """Forget every sample."""
        for stream in self._streams.values():
            stream.clear()
        self._recollection = next(_recollections)

    def see_clock(self, now_ns: int) -> bool:
        """Take notice of the present time; True if the clock was set back, and all was forgotten for it.

        `add`, `check_fresh` and `window` do this with the time they are given.
        """
        set_back = self._now_ns is not None and now_ns < self._now_ns - BACKWARD_TOLERANCE_NS
        if set_back:
            self.clear()
            self.epoch += 1
        self._now_ns = now_ns if set_back else max(now_ns, self._now_ns or now_ns)
        return set_back

    def add(self, key: str, header_stamp_ns: int, value: Array, *, now_ns: int | None = None) -> None:
        """Take a sample.

        Args:
            key: stream name.
            header_stamp_ns: stamp of the message; the stream's latency is subtracted here.
            value: array of the stream's shape; kept, not copied.
            now_ns: present time, by which stamps from the future are refused; None where samples may come
                before their clock (lockstep).

        Raises:
            BadObservation: if the shape is wrong, a value is not finite, the stamp is zero or from the future.
        """
        stream = self._streams[key]
        spec, counts = stream.spec, stream.counts
        if now_ns is not None:
            self.see_clock(now_ns)
        if header_stamp_ns <= 0:
            counts.unstamped += 1
            stream.refuse(f"{spec.topic} publishes without a header stamp; the driver must set header.stamp")
        if now_ns is not None and header_stamp_ns > now_ns + FUTURE_TOLERANCE_NS:
            counts.future += 1
            ahead_s = (header_stamp_ns - now_ns) / 1e9
            stream.refuse(
                f"{spec.topic} is stamped {ahead_s:.3f} s ahead of this node's clock; synchronise the clocks, "
                "or set use_sim_time for both or for neither",
            )
        if value.shape != spec.shape:
            self.reject(
                key, f"{spec.topic} gives shape {list(value.shape)}, the task says {list(spec.shape)}"
            )
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            where = [int(i) for i in np.argwhere(~np.isfinite(value))[0]]
            self.reject(key, f"{spec.topic} has {value[tuple(where)]} at {where}; values must be finite")
        stream.keep(header_stamp_ns - stream.latency_ns, value)

    def reject(self, key: str, why: str) -> NoReturn:
        """Note that a stream gave something unusable: once it is stale, that is the reason it is given.

        Raises:
            BadObservation: always.
        """
        self._streams[key].counts.malformed += 1
        self._streams[key].refuse(why)

    def newest_ns(self, key: str) -> int | None:
        """Capture time of the newest sample of a stream, None if there is none."""
        stamps = self._streams[key].stamps
        return stamps[-1] if stamps else None

    def newest_frame(self, key: str) -> tuple[FrameStamp, Array] | None:
        """The newest sample of a stream and what it is known by, None if there is none."""
        stamp_ns = self.newest_ns(key)
        if stamp_ns is None:
            return None
        return FrameStamp(self._recollection, stamp_ns), self._streams[key].values[stamp_ns]

    def period_ns(self, key: str) -> int | None:
        """Time between the newest two samples of a stream, None if there are no two."""
        stamps = self._streams[key].stamps
        return stamps[-1] - stamps[-2] if len(stamps) > 1 else None

    def alignment_of(self, key: str) -> str:
        """How a stream is sampled at the steps of a window, see `sample`."""
        # The anchor's own earlier steps are taken by nearest: with asof, a camera whose period jitters by a
        # microsecond would now and then skip a whole frame.
        return "nearest" if key == self._task.anchor else self._streams[key].spec.alignment

    def complete_at(self, stamp_ns: int) -> bool:
        """Whether every stream has a sample whose header stamp is `stamp_ns` or later."""
        return not self.incomplete_at(stamp_ns)

    def incomplete_at(self, stamp_ns: int) -> list[str]:
        """Streams without a sample whose header stamp is `stamp_ns` or later."""
        return [
            key
            for key, stream in self._streams.items()
            if not stream.stamps or stream.stamps[-1] < stamp_ns - stream.latency_ns
        ]

    def problem_of(self, keys: Iterable[str]) -> BadObservation | None:
        """Why the newest sample of one of these streams was refused, None if none was."""
        return next((self._streams[k].problem for k in keys if self._streams[k].problem is not None), None)

    def check_fresh(self, now_ns: int) -> None:
        """Refuse if any stream's newest sample is missing, older than its maximum age at `now_ns`, or frozen.

        Raises:
            StaleStream: naming the stream, how old it is and what is allowed.
            FrozenStream: if its value has not changed for longer than its `freeze_after_s`.
        """
        self.see_clock(now_ns)
        for stream in self._streams.values():
            stream.check_fresh(now_ns)
        self.check_changing()

    def problems(self, now_ns: int) -> dict[str, str]:
        """What is wrong with each stream that is missing, too old or frozen at `now_ns`, for a person."""
        found = {}
        for key, stream in self._streams.items():
            try:
                stream.check_fresh(now_ns)
                stream.check_changing()
            except ObservationProblem as problem:
                found[key] = str(problem)
        return found

    def check_changing(self) -> None:
        """Refuse if a stream of which the task expects change shows none.

        Raises:
            FrozenStream: naming the stream and for how long.
        """
        for stream in self._streams.values():
            stream.check_changing()

    def sample(self, key: str, time_ns: int) -> Array:
        """One stream's value at a grid time, by the stream's alignment.

        Args:
            key: stream name.
            time_ns: grid time. `asof` takes the last sample at or before it, `nearest` the closest one,
                `interpolate` lies between the two around it: linearly, on the sphere for orientations, the
                short way for angles. Both of them must be there and within the maximum age.

        Returns:
            Array of the stream's shape.

        Raises:
            StaleStream: if no sample is within the stream's maximum age.
        """
        return self._streams[key].sample(time_ns, self.alignment_of(key))

    def window(self, now_ns: int) -> Window:
        """The newest `n_obs_steps` aligned observations.

        The grid ends at the newest complete anchor sample: of those that are not too old now, the newest at
        which every stream can be aligned at every step. So one camera that lags behind another holds the
        window back by a frame rather than stopping it.

        Args:
            now_ns: present time, by which the newest samples are judged fresh or stale.

        Raises:
            StaleStream: if a stream is missing, too old now, or too old at one of the grid times.
            FrozenStream: see `check_fresh`.
        """
        stamp_ns, aligned = self._newest_aligned(now_ns)
        newest_ns = {key: stream.stamps[-1] for key, stream in self._streams.items()}
        frames = {
            key: self._frames(key, stamp_ns) for key, spec in self._task.observations.items() if spec.is_image
        }
        return Window(stamp_ns, {key: np.stack(values) for key, values in aligned.items()}, newest_ns, frames)

    def newest_complete_ns(self, now_ns: int) -> int | None:
        """Capture time of the newest step of `window(now_ns)`, None if there is no window."""
        try:
            return self._newest_aligned(now_ns)[0]
        except ObservationProblem:
            return None

    def _newest_aligned(self, now_ns: int) -> tuple[int, dict[str, list[Array]]]:
        self.check_fresh(now_ns)
        anchor = self._streams[self._task.anchor]
        problems: list[ObservationProblem] = []
        for stamp_ns in reversed(anchor.stamps):
            if now_ns - stamp_ns > anchor.max_age_ns:
                break
            try:
                return stamp_ns, self._aligned(stamp_ns)
            except ObservationProblem as problem:
                problems.append(problem)
        raise problems[0]  # there is one: check_fresh has found the newest young enough

    def _aligned(self, anchor_ns: int) -> dict[str, list[Array]]:
        """The values of every stream on the grid that ends at a sample of the anchor, oldest first."""
        grid = self._grid(anchor_ns)
        return {key: [self.sample(key, time_ns) for time_ns in grid] for key in self._streams}

    def _frames(self, key: str, anchor_ns: int) -> tuple[FrameStamp, ...]:
        stream, alignment = self._streams[key], self.alignment_of(key)
        taken = [stream.taken_ns(time_ns, alignment) for time_ns in self._grid(anchor_ns)]
        stamps = [stamp_ns for stamp_ns in taken if stamp_ns is not None]
        assert len(stamps) == len(taken), "pictures are not interpolated"
        return tuple(FrameStamp(self._recollection, stamp_ns) for stamp_ns in stamps)

    def _grid(self, anchor_ns: int) -> list[int]:
        return [anchor_ns - k * self._task.dt_ns for k in range(self._task.n_obs_steps - 1, -1, -1)]
