"""Observation buffers: samples with their capture times in, aligned windows out.

Each stream keeps its samples by capture time (header stamp minus the stream's latency), never by arrival.
A window is `n_obs_steps` samples of every stream on a grid that ends at the newest sample of the anchor
stream. What is missing or too old is named and refused: never zero-filled, never held beyond its age.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from dp_ros.task import ObservationSpec, TaskSpec

Array = npt.NDArray[np.generic]
#: Reason codes, as in action/RunPolicy.action.
STREAM_STALE = "STREAM_STALE"
BAD_OBSERVATION = "BAD_OBSERVATION"


class ObservationProblem(RuntimeError):
    """No window can be made; `reason` is a code of `RunPolicy`, `stream` the stream at fault."""

    def __init__(self, reason: str, stream: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.stream = reason, stream


class StaleStream(ObservationProblem):
    """A stream has no sample, or none young enough."""

    def __init__(self, stream: str, message: str) -> None:
        super().__init__(STREAM_STALE, stream, message)


class BadObservation(ObservationProblem):
    """A sample that cannot be used: wrong shape, not finite, no stamp."""

    def __init__(self, stream: str, message: str) -> None:
        super().__init__(BAD_OBSERVATION, stream, message)


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
    stamps: list[int] = field(default_factory=list)
    values: dict[int, Array] = field(default_factory=dict)
    problem: BadObservation | None = None


class ObservationBuffer:
    """Rings of stamped samples, one for each stream of a task.

    Args:
        task: names the streams, their shapes, latencies, ages and alignment.

    Attributes:
        duplicates: samples ignored because the stream had one with the same stamp.
        outdated: samples ignored because they were older than everything kept.
    """

    def __init__(self, task: TaskSpec) -> None:
        self._task = task
        self._streams = {key: _Stream(spec) for key, spec in task.observations.items()}
        span_s = task.n_obs_steps / task.rate_hz
        self._keep_ns = {
            key: round(1e9 * (span_s + 2 * spec.max_age_s + 2 / task.rate_hz))
            for key, spec in task.observations.items()
        }
        self.duplicates = 0
        self.outdated = 0

    def clear(self) -> None:
        """Forget every sample, as after a jump of the clock."""
        for stream in self._streams.values():
            stream.stamps.clear()
            stream.values.clear()
            stream.problem = None

    def add(self, key: str, header_stamp_ns: int, value: Array) -> None:
        """Take a sample.

        Args:
            key: stream name.
            header_stamp_ns: stamp of the message; the stream's latency is subtracted here.
            value: array of the stream's shape; kept, not copied.

        Raises:
            BadObservation: if the shape is wrong, a value is not finite or the stamp is zero.
        """
        stream = self._streams[key]
        spec = stream.spec
        if header_stamp_ns <= 0:
            self.reject(
                key, f"{spec.topic} publishes without a header stamp; the driver must set header.stamp"
            )
        if value.shape != spec.shape:
            self.reject(
                key, f"{spec.topic} gives shape {list(value.shape)}, the task says {list(spec.shape)}"
            )
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            where = [int(i) for i in np.argwhere(~np.isfinite(value))[0]]
            self.reject(key, f"{spec.topic} has {value[tuple(where)]} at {where}; values must be finite")
        stream.problem = None
        stamp_ns = header_stamp_ns - _latency_ns(spec)
        if stamp_ns in stream.values:
            self.duplicates += 1
            return
        if stream.stamps and stamp_ns < stream.stamps[-1] - self._keep_ns[key]:
            self.outdated += 1
            return
        insort(stream.stamps, stamp_ns)
        stream.values[stamp_ns] = value
        while stream.stamps[0] < stream.stamps[-1] - self._keep_ns[key]:
            del stream.values[stream.stamps.pop(0)]

    def reject(self, key: str, why: str) -> NoReturn:
        """Note that a stream gave something unusable: once it is stale, that is the reason it is given.

        Raises:
            BadObservation: always.
        """
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
        """Refuse if any stream's newest sample is missing or older than its maximum age at `now_ns`.

        Raises:
            StaleStream: naming the stream, how old it is and what is allowed.
        """
        for key, stream in self._streams.items():
            if not stream.stamps:
                self._nothing(key)
            self._check_age(key, now_ns - stream.stamps[-1])

    def sample(self, key: str, time_ns: int) -> Array:
        """One stream's value at a grid time, by the stream's alignment.

        Args:
            key: stream name.
            time_ns: grid time. `asof` takes the last sample at or before it, `nearest` the closest one,
                `interpolate` lies linearly between the two around it.

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
        if alignment == "asof" or after == len(stamps):
            return values[before_ns]
        weight = (time_ns - before_ns) / (stamps[after] - before_ns)
        low = values[before_ns]
        return (low + weight * (values[stamps[after]] - low)).astype(low.dtype)  # type: ignore[operator]

    def window(self, now_ns: int) -> Window:
        """The newest `n_obs_steps` aligned observations.

        Args:
            now_ns: present time, by which the newest samples are judged fresh or stale.

        Raises:
            StaleStream: if a stream is missing, too old now, or too old at one of the grid times.
        """
        self.check_fresh(now_ns)
        anchor_ns = self._streams[self._task.anchor].stamps[-1]
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
        if age_ns > round(spec.max_age_s * 1e9):
            if stream.problem is not None:
                raise stream.problem
            raise StaleStream(
                key,
                f"{key}: the newest usable sample of {spec.topic} is {age_ns / 1e9:.3f} s old, "
                f"max_age_s is {spec.max_age_s:g}",
            )


def _latency_ns(spec: ObservationSpec) -> int:
    return round(spec.latency_s * 1e9)
