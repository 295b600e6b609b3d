"""Quality of service of every topic, in one place.

Easy to get wrong: a reliable subscription does not match a camera driver that publishes best effort, and a
best-effort one may lose what lockstep simulation cannot go on without.
"""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def observation_qos(*, lockstep: bool, picture: bool = True) -> QoSProfile:
    """For subscriptions to sensors: best effort matches every driver; lockstep must not lose a sample.

    Args:
        lockstep: whether simulated time waits for this subscription.
        picture: whether samples are large. Of others a second at 500 Hz may wait while the node is busy.
    """
    reliability = ReliabilityPolicy.RELIABLE if lockstep else ReliabilityPolicy.BEST_EFFORT
    depth = 10 if picture else 500
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability)


def reliable_qos(depth: int = 10) -> QoSProfile:
    """For commands, status, the clock and the simulated robot's sensors."""
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=ReliabilityPolicy.RELIABLE)


def latched_qos() -> QoSProfile:
    """For status that somebody who joins late wants to see."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )
