"""Whether a motion can be stopped at any time on its way: where the fastest stop from many states leads.

The same stop as `AxisLimiter.stopping_range`, for arrays: what is checked here is thousands of states of one path. Easy
to get wrong: a motion within its limits and its range need not be one that can be stopped there, because a stop also
has to let go of its acceleration at the end, which the motion itself may do later, on its way back.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dp_ros.runtime.motion.limits import MotionLimits

Floats = npt.NDArray[np.float64]


def stopping_ranges(p: Floats, v: Floats, a: Floats, limits: MotionLimits) -> tuple[Floats, Floats]:
    """Lowest and highest position of the fastest stop from each state, that state's included.

    Jerk, hold, jerk back (Biagiotti and Melchiorri, "Trajectory Planning for Automatic Machines and Robots", 2008,
    section 3.4).

    Args:
        p: positions, (n, dim).
        v: velocities.
        a: accelerations.
        limits: of each dimension.

    Returns:
        (n, dim) each.
    """
    jerk, least = limits.jerk, limits.acceleration
    ahead = v + a * np.abs(a) / (2 * jerk)
    side = np.where(ahead >= 0, 1.0, -1.0)
    w, b = side * v, side * a
    most = np.maximum(least, -b)
    peak = np.maximum(np.sqrt(np.maximum(jerk * w + 0.5 * b * b, 0.0)), -b)
    held = peak > most
    peak = np.minimum(peak, most)
    hold = np.where(held, (w + b * b / (2 * jerk) - most * most / jerk) / most, 0.0)
    way, speed = np.zeros_like(p), w
    for j, span, at in ((-jerk, (b + peak) / jerk, b), (0.0, hold, -peak), (jerk, peak / jerk, -peak)):
        way = way + span * (speed + span * (0.5 * at + span * j / 6))
        speed = speed + span * (at + 0.5 * span * j)
    end = p + side * way
    low, high = np.minimum(p, end), np.maximum(p, end)
    # Where it turns round first.
    outward = np.where(v > 0, 1.0, -1.0)
    speed, pull = outward * v, -outward * a
    time_s = (pull - np.sqrt(np.maximum(pull * pull - 2 * jerk * speed, 0.0))) / jerk
    turn = p + outward * time_s * (speed + time_s * (-0.5 * pull + time_s * jerk / 6))
    turn = np.where(v * ahead < 0, turn, p)
    return np.minimum(low, turn), np.maximum(high, turn)
