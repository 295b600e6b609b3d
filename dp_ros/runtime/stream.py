"""One stream's samples, by capture time: what is kept, for how long, and which of them stands for a time.

Easy to get wrong: messages arrive late, twice or not at all. Whether a sample is younger than another is
decided by capture time alone, and a late one takes its place among those kept.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from dp_ros.runtime.alignment import Interpolation
from dp_ros.task import ObservationSpec

Array = npt.NDArray[np.generic]
#: Reason codes, as in action/RunPolicy.action.
STREAM_STALE = "STREAM_STALE"
STREAM_FROZEN = "STREAM_FROZEN"
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


class StreamRing:
    """The samples of one stream.

    Args:
        key: stream name.
        spec: age, latency, interpolation.
        keep_ns: how much older than the newest a sample may be and be kept.

    Attributes:
        stamps: capture times, rising.
        values: capture time to value.
        problem: why the newest sample was refused, None if it was not.
        counts: what became of the samples.
    """

    def __init__(self, key: str, spec: ObservationSpec, keep_ns: int) -> None:
        self._key, self.spec, self._keep_ns = key, spec, keep_ns
        self._interpolation = Interpolation(spec)
        self._changed_ns = 0  # capture time since which the newest value has been what it is
        self.latency_ns = round(spec.latency_s * 1e9)
        self.max_age_ns = round(spec.max_age_s * 1e9)
        self.stamps: list[int] = []
        self.values: dict[int, Array] = {}
        self.problem: BadObservation | None = None
        self.counts = StreamCounts()

    def clear(self) -> None:
        """Forget every sample; the counts stay."""
        self.stamps.clear()
        self.values.clear()
        self.problem = None

    def refuse(self, why: str) -> NoReturn:
        """Note why a sample cannot be used.

        Raises:
            BadObservation: always.
        """
        self.problem = BadObservation(self._key, f"{self._key}: {why}")
        raise self.problem

    def keep(self, stamp_ns: int, value: Array) -> None:
        """Take a usable sample, captured at `stamp_ns`, in whatever order."""
        self.problem = None
        stamps = self.stamps
        if stamp_ns in self.values:
            self.counts.duplicates += 1
            return
        if not stamps or stamp_ns > stamps[-1]:
            self._note_change(stamp_ns, value)
            stamps.append(stamp_ns)
        elif stamp_ns < stamps[-1] - self._keep_ns:
            self.counts.outdated += 1
            return
        else:
            self.counts.late += 1
            insort(stamps, stamp_ns)
        self.counts.kept += 1
        self.values[stamp_ns] = value
        while stamps[0] < stamps[-1] - self._keep_ns:
            del self.values[stamps.pop(0)]

    def _note_change(self, stamp_ns: int, value: Array) -> None:
        """Compare the newest value with the one before it: only whole equality counts, a sensor has noise."""
        if not self.stamps:
            self._changed_ns = stamp_ns
            return
        newest_ns = self.stamps[-1]
        gap = stamp_ns - newest_ns > self.max_age_ns
        self.counts.gaps += gap
        watched = self.spec.freeze_after_s is not None
        if gap or not watched or not np.array_equal(value, self.values[newest_ns]):
            self._changed_ns = stamp_ns

    def check_fresh(self, now_ns: int) -> None:
        """Refuse if the newest sample is missing or older than the maximum age at `now_ns`.

        Raises:
            StaleStream: naming the stream, how old it is and what is allowed.
        """
        self._require_samples()
        self._check_age(now_ns - self.stamps[-1])

    def check_changing(self) -> None:
        """Refuse if the task expects change and the samples show none.

        Raises:
            FrozenStream: naming the stream and for how long.
        """
        limit_s = self.spec.freeze_after_s
        if limit_s is None or not self.stamps:
            return
        still_s = (self.stamps[-1] - self._changed_ns) / 1e9
        if still_s > limit_s:
            raise FrozenStream(
                self._key,
                f"{self._key}: {self.spec.topic} has shown exactly the same for {still_s:.3f} s, "
                f"freeze_after_s is {limit_s:g}; is the sensor stuck?",
            )

    def sample(self, time_ns: int, alignment: str) -> Array:
        """The value that stands for a time; see `ObservationBuffer.sample`.

        Raises:
            StaleStream: if there is none within the maximum age.
        """
        stamp_ns = self.taken_ns(time_ns, alignment)
        if stamp_ns is not None:
            return self.values[stamp_ns]
        stamps, values = self.stamps, self.values
        after = bisect_left(stamps, time_ns)
        before_ns = stamps[after - 1]
        if after == len(stamps):
            raise StaleStream(
                self._key,
                f"{self._key}: nothing of {self.spec.topic} after the observation step yet, to interpolate to",
            )
        self._check_age(stamps[after] - time_ns)
        weight = (time_ns - before_ns) / (stamps[after] - before_ns)
        return self._interpolation.between(values[before_ns], values[stamps[after]], weight)

    def taken_ns(self, time_ns: int, alignment: str) -> int | None:
        """Capture time of the sample that stands for a time as it is; None where a value between two does.

        Raises:
            StaleStream: if there is none within the maximum age.
        """
        self._require_samples()
        stamps = self.stamps
        after = bisect_left(stamps, time_ns)
        if after < len(stamps) and stamps[after] == time_ns:
            return time_ns
        if alignment == "nearest":
            around = stamps[max(after - 1, 0) : after + 1]
            best = min(around, key=lambda stamp: abs(stamp - time_ns))
            self._check_age(abs(time_ns - best))
            return best
        if after == 0:
            raise StaleStream(
                self._key,
                f"{self._key}: the oldest sample of {self.spec.topic} is {(stamps[0] - time_ns) / 1e9:.3f} s "
                "younger than the observation step that needs it",
            )
        before_ns = stamps[after - 1]
        self._check_age(time_ns - before_ns)
        return before_ns if alignment == "asof" else None

    def _require_samples(self) -> None:
        if not self.stamps:
            if self.problem is not None:
                raise self.problem
            raise StaleStream(self._key, f"{self._key}: nothing received on {self.spec.topic} yet")

    def _check_age(self, age_ns: int) -> None:
        if age_ns > self.max_age_ns:
            if self.problem is not None:
                raise self.problem
            raise StaleStream(
                self._key,
                f"{self._key}: the newest usable sample of {self.spec.topic} is {age_ns / 1e9:.3f} s old, "
                f"max_age_s is {self.spec.max_age_s:g}",
            )
