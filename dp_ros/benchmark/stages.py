"""Where the time goes from the capture of an observation to the robot's having its action.

Times are taken inside the real policy node and the real simulated robot while they run in real time over DDS
(`probe`); here they are put together. All processes run on one machine and read the same clock.

    capture ─► received ─► inference begins ─► ends ─► published ─► taken by the robot

`received` is the moment at which the sample is in the observation buffer, decoded; `published` the return of the
middleware's publish call, after splice and gate; `taken` the moment at which the robot's controller gets the
trajectory. Easy to get wrong: not every inference leads to a trajectory (all of its actions may be late), so such
an inference counts up to its end only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dp_ros.benchmark.report import Quantiles

STAGES = (
    "capture_to_received",
    "received_to_inference",
    "inference",
    "splice_and_gate",
    "publish_to_robot",
    "total",
)


@dataclass(frozen=True)
class Inference:
    """One inference: capture time of its newest observation, begin and end, ns of the wall clock."""

    capture_ns: int
    begin_ns: int
    end_ns: int


@dataclass
class StageTimes:
    """What the probes wrote down.

    Attributes:
        received: capture time of a sample of the anchor stream to the time at which it was in the buffer.
        inferences: in their order.
        published: time of publication and header stamp of each trajectory, in their order.
        taken: header stamp of a trajectory to the time at which the robot took it.
    """

    received: Mapping[int, int] = field(default_factory=dict)
    inferences: Sequence[Inference] = field(default_factory=list)
    published: Sequence[tuple[int, int]] = field(default_factory=list)
    taken: Mapping[int, int] = field(default_factory=dict)


def stage_quantiles(times: StageTimes) -> dict[str, Quantiles]:
    """Quantiles of each stage in ms, in the order of STAGES; a stage that never happened is left out."""
    found: dict[str, list[float]] = {stage: [] for stage in STAGES}
    published_ns = [published for published, _ in times.published]
    for index, inference in enumerate(times.inferences):
        received_ns = times.received.get(inference.capture_ns)
        if received_ns is None:
            continue
        found["capture_to_received"].append((received_ns - inference.capture_ns) / 1e6)
        found["received_to_inference"].append((inference.begin_ns - received_ns) / 1e6)
        found["inference"].append((inference.end_ns - inference.begin_ns) / 1e6)
        place = bisect_left(published_ns, inference.end_ns)
        following = times.inferences[index + 1 :]
        if place == len(published_ns) or (following and published_ns[place] > following[0].end_ns):
            continue
        out_ns, stamp_ns = times.published[place]
        found["splice_and_gate"].append((out_ns - inference.end_ns) / 1e6)
        taken_ns = times.taken.get(stamp_ns)
        if taken_ns is not None:
            found["publish_to_robot"].append((taken_ns - out_ns) / 1e6)
            found["total"].append((taken_ns - inference.capture_ns) / 1e6)
    return {stage: Quantiles.of(values) for stage, values in found.items() if values}
