"""Which pictures the next inference will need: those can be encoded before it is due.

    pictures            p0  p1  p2  p3  p4            an inference every 4 steps, from 2 observations
    windows             [p-1 p0]       [p3  p4]
    worth encoding early                p3

A picture that no inference looks at is not worth encoding, and a camera gives more of those than of others: of a node
that infers every four steps, half of a 10 Hz camera's pictures, of a 30 Hz camera five in six. Easy to get wrong: where
the next window ends is a guess, by when cameras have sent pictures so far; a wrong one costs one encoding, no result.
"""

from __future__ import annotations

from dp_ros.runtime.observation import FrameStamp, ObservationBuffer
from dp_ros.runtime.stream import Array
from dp_ros.task import TaskSpec


def frame_ahead(
    task: TaskSpec, buffer: ObservationBuffer, key: str, due_ns: int
) -> tuple[FrameStamp, Array] | None:
    """The newest picture of a camera and what it is known by, if the next inference is expected to look at it.

    Args:
        task: how many observations a window has, and how far apart they are.
        buffer: what has come.
        key: the camera.
        due_ns: the next window ends at the first sample of the anchor that is captured after this time.
    """
    found, anchor_ns = buffer.newest_frame(key), buffer.newest_ns(task.anchor)
    if found is None or anchor_ns is None:
        return None
    anchor_period_ns = buffer.period_ns(task.anchor) or task.dt_ns
    end_ns = anchor_ns + max((due_ns - anchor_ns) // anchor_period_ns + 1, 0) * anchor_period_ns
    period_ns = buffer.period_ns(key) or task.dt_ns
    # A picture stands for the times from `early` before it to `late` after it.
    early_ns = period_ns // 2 if buffer.alignment_of(key) == "nearest" else 0
    for k in range(task.n_obs_steps):
        after_ns = end_ns - k * task.dt_ns - found[0].stamp_ns
        if -early_ns <= after_ns < period_ns - early_ns:
            return found
    return None
