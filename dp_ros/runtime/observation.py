"""Observation buffers: samples with their capture times in, aligned windows out.

Each stream keeps its samples by capture time (header stamp minus the stream's latency), never by arrival.
A window is `n_obs_steps` samples of every stream on a grid that ends at the newest complete sample of the
anchor stream: the newest one at which every other stream can be aligned. What is missing or too old is named
and refused: never zero-filled, never held beyond its age. Easy to get wrong: when the clock is set back, as
by a bag that loops, everything kept lies in the future and is forgotten; `epoch` tells whoever keeps times.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from dp_ros.runtime.alignment import Interpolation
from dp_ros.task import ObservationSpec, TaskSpec

Array = npt.NDArray[np.generic]
#: Reason codes, as in action/RunPolicy.action.
STREAM_STALE = "STREAM_STALE"
STREAM_FROZEN = "STREAM_FROZEN"
BAD_OBSERVATION = "BAD_OBSERVATION"
#: How far ahead of the clock a stamp may be: clocks of two machines, and a `/clock` at 10 Hz, differ so much.
FUTURE_TOLERANCE_NS = 200_000_000
#: How far the clock may go back and be thought of as steered; further, and it was set back.
BACKWARD_TOLERANCE_NS = 100_000_000


class ObservationProblem(RuntimeError):
    """No window can be made; `reason` is a code of `RunPolicy`, `stream` the stream at fault."""

    def __init__(self, reason: str, stream: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.stream = reason, stream


class StaleStream(ObservationProblem):
    """A stream has no sample, or none young enough."""

    def __init__(self, stream: str, message: str) -> None:
        super().__init__(STREAM_STALE, stream, message)


class FrozenStream(ObservationProblem):
    """A stream goes on, but what it shows has not changed for longer than the task's `freeze_after_s`."""

    def __init__(self, stream: str, message: str) -> None:
        super().__init__(STREAM_FROZEN, stream, message)


class BadObservation(ObservationProblem):
    """A sample that cannot be used: wrong shape, not finite, no stamp or one from the future."""

    def __init__(self, stream: str, message: str) -> None:
        super().__init__(BAD_OBSERVATION, stream, message)


@dataclass
class StreamCounts:
    """What became of the samples of one stream: each is either kept or counted under one of the refusals.

    Attributes:
        kept: taken into the buffer.
        late: of those kept, how many came after a younger one.
        gaps: times at which the stream was silent for longer than its `max_age_s`, by its stamps.
        duplicates: ignored, because there was one with the same stamp.
        outdated: ignored, because they were older than everything kept.
        unstamped: refused, without a header stamp.
        future: refused, stamped more than 0.2 s ahead of the clock.
        malformed: refused for shape, values or an undecodable message.
    """

    kept: int = 0
    late: int = 0
    gaps: int = 0
    duplicates: int = 0
    outdated: int = 0
    unstamped: int = 0
    future: int = 0
    malformed: int = 0


@dataclass(frozen=True)
class Window:
    """Observations for one inference.

    Attributes:
        stamp_ns: capture time of the newest step, the time action 0 is meant for.
        observations: stream name to array (n_obs_steps, *shape), oldest first.
    """

    stamp_ns: int
    observations: Mapping[str, Array]


@dataclass
class _Stream:
    spec: ObservationSpec
    keep_ns: int
    interpolation: Interpolation
    stamps: list[int] = field(default_factory=list)
    values: dict[int, Array] = field(default_factory=dict)
    problem: BadObservation | None = None
    changed_ns: int = 0  # capture time since which the newest value has been what it is
    counts: StreamCounts = field(default_factory=StreamCounts)

    @property
    def max_age_ns(self) -> int:
        return round(self.spec.max_age_s * 1e9)

    def forget(self) -> None:
        self.stamps.clear()
        self.values.clear()
        self.problem = None


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
        self._streams = {
            key: _Stream(
                spec,
                # A window may end at an anchor sample of its maximum age, captured its latency ago.
                round(
                    1e9
                    * (
                        span_s
                        + spec.max_age_s
                        + max(spec.max_age_s, anchor.max_age_s)
                        + max(anchor.latency_s - spec.latency_s, 0.0)
                        + 2 / task.rate_hz
                        + history_s
                    )
                ),
                Interpolation(spec),
            )
            for key, spec in task.observations.items()
        }
        self.counts = {key: stream.counts for key, stream in self._streams.items()}
        self.epoch = 0
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
            stream.forget()

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
            self._refuse(
                key, f"{spec.topic} publishes without a header stamp; the driver must set header.stamp"
            )
        if now_ns is not None and header_stamp_ns > now_ns + FUTURE_TOLERANCE_NS:
            counts.future += 1
            ahead_s = (header_stamp_ns - now_ns) / 1e9
            self._refuse(
                key,
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
        stream.problem = None
        self._keep(stream, header_stamp_ns - _latency_ns(spec), value)

    def _keep(self, stream: _Stream, stamp_ns: int, value: Array) -> None:
        stamps, counts = stream.stamps, stream.counts
        if stamp_ns in stream.values:
            counts.duplicates += 1
            return
        if not stamps or stamp_ns > stamps[-1]:
            self._note_change(stream, stamp_ns, value)
            stamps.append(stamp_ns)
        elif stamp_ns < stamps[-1] - stream.keep_ns:
            counts.outdated += 1
            return
        else:
            counts.late += 1
            insort(stamps, stamp_ns)
        counts.kept += 1
        stream.values[stamp_ns] = value
        while stamps[0] < stamps[-1] - stream.keep_ns:
            del stream.values[stamps.pop(0)]

    def _note_change(self, stream: _Stream, stamp_ns: int, value: Array) -> None:
        """Compare the newest value with the one before it: only whole equality counts, a sensor has noise."""
        if not stream.stamps:
            stream.changed_ns = stamp_ns
            return
        newest_ns = stream.stamps[-1]
        gap = stamp_ns - newest_ns > stream.max_age_ns
        stream.counts.gaps += gap
        if gap or stream.spec.freeze_after_s is None or not np.array_equal(value, stream.values[newest_ns]):
            stream.changed_ns = stamp_ns

    def reject(self, key: str, why: str) -> NoReturn:
        """Note that a stream gave something unusable: once it is stale, that is the reason it is given.

        Raises:
            BadObservation: always.
        """
        self._streams[key].counts.malformed += 1
        self._refuse(key, why)

    def _refuse(self, key: str, why: str) -> NoReturn:
        problem = BadObservation(key, f"{key}: {why}")
        self._streams[key].problem = problem
        raise problem

    def newest_ns(self, key: str) -> int | None:
        """Capture time of the newest sample of a stream, None if there is none."""
        stamps = self._streams[key].stamps
        return stamps[-1] if stamps else None

    def complete_at(self, stamp_ns: int) -> bool:
        """Whether every stream has a sample whose header stamp is `stamp_ns` or later."""
        return not self.incomplete_at(stamp_ns)

    def incomplete_at(self, stamp_ns: int) -> list[str]:
        """Streams without a sample whose header stamp is `stamp_ns` or later."""
        return [
            key
            for key, stream in self._streams.items()
            if not stream.stamps or stream.stamps[-1] < stamp_ns - _latency_ns(stream.spec)
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
        for key, stream in self._streams.items():
            if not stream.stamps:
                self._nothing(key)
            self._check_age(key, now_ns - stream.stamps[-1])
        self.check_changing()

    def check_changing(self) -> None:
        """Refuse if a stream of which the task expects change shows none.

        Raises:
            FrozenStream: naming the stream and for how long.
        """
        for key, stream in self._streams.items():
            spec = stream.spec
            if spec.freeze_after_s is None or not stream.stamps:
                continue
            still_ns = stream.stamps[-1] - stream.changed_ns
            if still_ns > round(spec.freeze_after_s * 1e9):
                raise FrozenStream(
                    key,
                    f"{key}: {spec.topic} has shown exactly the same for {still_ns / 1e9:.3f} s, "
                    f"freeze_after_s is {spec.freeze_after_s:g}; is the sensor stuck?",
                )

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
        stream = self._streams[key]
        stamps, values = stream.stamps, stream.values
        if not stamps:
            self._nothing(key)
        after = bisect_left(stamps, time_ns)
        if after < len(stamps) and stamps[after] == time_ns:
            return values[time_ns]
        # The anchor's own earlier steps are taken by nearest: with asof, a camera whose period jitters by a
        # microsecond would now and then skip a whole frame.
        alignment = "nearest" if key == self._task.anchor else stream.spec.alignment
        if alignment == "nearest":
            around = stamps[max(after - 1, 0) : after + 1]
            best = min(around, key=lambda stamp: abs(stamp - time_ns))
            self._check_age(key, abs(time_ns - best))
            return values[best]
        if after == 0:
            raise StaleStream(
                key,
                f"{key}: the oldest sample of {stream.spec.topic} is {(stamps[0] - time_ns) / 1e9:.3f} s "
                "younger than the observation step that needs it",
            )
        before_ns = stamps[after - 1]
        self._check_age(key, time_ns - before_ns)
        if alignment == "asof":
            return values[before_ns]
        if after == len(stamps):
            raise StaleStream(
                key,
                f"{key}: nothing of {stream.spec.topic} after the observation step yet, to interpolate to",
            )
        self._check_age(key, stamps[after] - time_ns)
        weight = (time_ns - before_ns) / (stamps[after] - before_ns)
        return stream.interpolation.between(values[before_ns], values[stamps[after]], weight)

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
        self.check_fresh(now_ns)
        anchor = self._streams[self._task.anchor]
        first_problem: ObservationProblem | None = None
        for stamp_ns in reversed(anchor.stamps):
            if now_ns - stamp_ns > anchor.max_age_ns:
                break
            try:
                return self._window_at(stamp_ns)
            except ObservationProblem as problem:
                first_problem = first_problem or problem
        assert first_problem is not None  # check_fresh has passed the newest
        raise first_problem

    def newest_complete_ns(self, now_ns: int) -> int | None:
        """Capture time of the newest step of `window(now_ns)`, None if there is no window."""
        try:
            return self.window(now_ns).stamp_ns
        except ObservationProblem:
            return None

    def _window_at(self, anchor_ns: int) -> Window:
        steps = range(self._task.n_obs_steps - 1, -1, -1)
        grid = [anchor_ns - k * self._task.dt_ns for k in steps]
        return Window(
            anchor_ns,
            {key: np.stack([self.sample(key, time_ns) for time_ns in grid]) for key in self._streams},
        )

    def _nothing(self, key: str) -> NoReturn:
        stream = self._streams[key]
        if stream.problem is not None:
            raise stream.problem
        raise StaleStream(key, f"{key}: nothing received on {stream.spec.topic} yet")

    def _check_age(self, key: str, age_ns: int) -> None:
        stream = self._streams[key]
        spec = stream.spec
        if age_ns > stream.max_age_ns:
            if stream.problem is not None:
                raise stream.problem
            raise StaleStream(
                key,
                f"{key}: the newest usable sample of {spec.topic} is {age_ns / 1e9:.3f} s old, "
                f"max_age_s is {spec.max_age_s:g}",
            )


def _latency_ns(spec: ObservationSpec) -> int:
    return round(spec.latency_s * 1e9)
