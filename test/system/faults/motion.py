"""What a robot's controller would have done with the trajectories of a test, and whether that was allowed.

Computed after the event, from the times at which the policy sent its messages, so that a stall of the test itself
changes nothing. Easy to get wrong: a trajectory that was held up on its way is not the policy's fault, which is
why times of sending count and not those of arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dp_ros.bridge.clock import to_ns
from dp_ros.bridge.codecs import decode_trajectory
from dp_ros.sim.trajectory_controller import TrajectoryController

from .model import JOINTS, TASK

Floats = npt.NDArray[np.float64]
STEP_NS = 10_000_000
#: On its way from the policy to the controller.
TRANSPORT_NS = 2_000_000
#: By how many steps a robot is behind its controller, where the measured state counts: 100 ms.
LAG_STEPS = 10
#: Slower than this is standing still, rad/s.
STILL = 2e-3
#: Faster than this is moving, rad/s: on the circle the faster joint has 0.44 or more.
FAST = 0.2
_LIMITS = TASK["action"]["limits"]  # type: ignore[index]
LOW, HIGH = np.array(_LIMITS["position"]["min"]), np.array(_LIMITS["position"]["max"])
VELOCITY, ACCELERATION = np.array(_LIMITS["velocity"]), np.array(_LIMITS["acceleration"])
#: Points are at the limits exactly, what lies between two of them nearly so.
TOLERANCE = 1.02


@dataclass(frozen=True)
class Sent:
    """A message and when it was sent, wall time."""

    sent_ns: int
    message: Any


@dataclass(frozen=True)
class Motion:
    """Sampled motion: wall times (n,), positions (n, 2), and why trajectories were rejected."""

    times_ns: npt.NDArray[np.int64]
    positions: Floats
    rejected: list[str]

    def moving_until_ns(self) -> int:
        """Wall time since which it stands still; 0 if it never moved."""
        moving = np.flatnonzero(self._speeds() > STILL)
        return int(self.times_ns[moving[-1] + 1]) if len(moving) else 0

    def moves(self) -> bool:
        """Whether it moves at the end."""
        return bool((self._speeds()[-5:] > FAST).any())

    def _speeds(self) -> Floats:
        """The largest of each step, (n - 1,) rad/s: where the clock stands still nothing moves."""
        if len(self.times_ns) < 2:
            return np.zeros(0)
        return np.abs(np.diff(self.positions, axis=0)).max(axis=1) / (STEP_NS / 1e9)

    def jump(self) -> float:
        """The largest step between two samples beyond what the velocity limit allows, rad; 0 if there is none."""
        if len(self.times_ns) < 2:
            return 0.0
        allowed = VELOCITY * TOLERANCE * STEP_NS / 1e9
        return float((np.abs(np.diff(self.positions, axis=0)) - allowed).max(initial=0.0))


def lateness_s(one: Sent, ros_ns: Callable[[int], int]) -> float:
    """How long after the time of its first point a trajectory reaches the controller, s; 0 if before."""
    begin_ns = to_ns(one.message.header.stamp) + to_ns(one.message.points[0].time_from_start)
    return max(ros_ns(one.sent_ns + TRANSPORT_NS) - begin_ns, 0) / 1e9


def explained_jump(late_s: float) -> float:
    """How far two motions may be apart, rad, that agreed this long ago and keep to the acceleration limit."""
    return float(ACCELERATION.max()) * late_s**2


def replay(
    sent: Iterable[Sent],
    start: Floats,
    from_ns: int,
    to_ns: int,
    ros_ns: Callable[[int], int],
    *,
    from_measured: bool = False,
) -> Motion:
    """The motion between two wall times of a controller that stands at `start`, (2,), and takes what is sent.

    With `from_measured` it goes to a trajectory that begins later from where a robot is that lags behind.
    """
    controller = TrajectoryController(JOINTS, interpolate_from_desired_state=not from_measured)
    controller.hold(start)
    waiting = sorted(sent, key=lambda s: s.sent_ns)
    rejected: list[str] = []
    times = np.arange(from_ns, max(to_ns, from_ns + 1), STEP_NS)
    positions = np.empty((len(times), 2))
    for row, time_ns in enumerate(times.tolist()):
        while waiting and waiting[0].sent_ns + TRANSPORT_NS <= time_ns:
            arrival_ns = ros_ns(waiting[0].sent_ns + TRANSPORT_NS)
            controller.measure(positions[max(row - LAG_STEPS, 0)] if row else start)
            controller.sample(arrival_ns)  # as it runs much faster than these steps
            problem = controller.accept(decode_trajectory(waiting.pop(0).message), arrival_ns)
            controller.sample(arrival_ns)
            rejected += [problem] if problem else []
        positions[row] = controller.sample(ros_ns(time_ns))
    return Motion(times, positions, rejected)


def excesses(message: Any) -> list[str]:
    """What in a trajectory lies beyond the limits of the task, in its points and between them."""
    controller = TrajectoryController(JOINTS)
    controller.hold(message.points[0].positions)
    trajectory = decode_trajectory(message)
    begin_ns, end_ns = trajectory.stamp_ns, trajectory.stamp_ns + trajectory.times_ns[-1]
    controller.accept(trajectory, begin_ns)
    found = []
    for time_ns in [*range(begin_ns, end_ns, STEP_NS), end_ns]:
        state = controller.sample_state(time_ns)
        at = f"{(time_ns - begin_ns) / 1e9:.3f} s after its stamp {to_ns(message.header.stamp)}"
        if (state.position < LOW - 1e-6).any() or (state.position > HIGH + 1e-6).any():
            found.append(f"position {state.position} {at}")
        if (np.abs(state.velocity) > VELOCITY * TOLERANCE).any():
            found.append(f"velocity {state.velocity} {at}")
        if (np.abs(state.acceleration) > ACCELERATION * TOLERANCE).any():
            found.append(f"acceleration {state.acceleration} {at}")
    return found
