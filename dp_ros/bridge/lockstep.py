"""Lockstep on `/clock`: simulated time moves on when everybody has finished with the present one.

The simulated robot publishes its samples for time t and `/clock` t, and waits on a `LockstepBarrier` until
each participant it was told of has published `LockstepDone` for t. Messages on different topics overtake one
another, so a participant also says which command it published for t, and the barrier waits for that command
too. While it waits, the robot repeats the clock and its samples, so that a node which joins late finds them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from rosgraph_msgs.msg import Clock

from dp_ros.bridge.clock import to_ns, to_stamp
from dp_ros.bridge.qos import reliable_qos
from dp_ros.msg import LockstepDone

DONE_TOPIC = "/lockstep/done"
CLOCK_TOPIC = "/clock"


class LockstepParticipant:
    """A node's side of lockstep.

    Args:
        node: an rclpy node.
        name: as the simulated robot's `lockstep_participants` has it.
        on_tick: called with each new clock time, nanoseconds; the node answers with `done`, then or later.
    """

    def __init__(self, node: Any, name: str, on_tick: Callable[[int], None]) -> None:
        self._node, self._name, self._on_tick = node, name, on_tick
        self._answer: LockstepDone | None = None
        self.now_ns = 0
        self._publisher = node.create_publisher(LockstepDone, DONE_TOPIC, reliable_qos())
        self._subscription = node.create_subscription(Clock, CLOCK_TOPIC, self._clock, reliable_qos())

    def done(self, time_ns: int, last_command_ns: int = 0) -> None:
        """Say that everything for `time_ns` is published, the command stamped `last_command_ns` included."""
        self._answer = LockstepDone(
            participant=self._name, stamp=to_stamp(time_ns), last_command=to_stamp(last_command_ns)
        )
        self._publisher.publish(self._answer)

    def destroy(self) -> None:
        """Take part no longer."""
        self._node.destroy_subscription(self._subscription)
        self._node.destroy_publisher(self._publisher)

    def _clock(self, message: Any) -> None:
        time_ns = to_ns(message.clock)
        if time_ns != self.now_ns:
            self.now_ns = time_ns
            self._on_tick(time_ns)
        elif self._answer is not None and to_ns(self._answer.stamp) == time_ns:
            self._publisher.publish(self._answer)


class LockstepBarrier:
    """The simulated robot's side: who has finished with which time, and whether their commands are here.

    Args:
        participants: names to wait for.
    """

    def __init__(self, participants: Sequence[str]) -> None:
        self._done: dict[str, tuple[int, int]] = {name: (0, 0) for name in participants}
        self._commands: deque[int] = deque(maxlen=64)

    def command_received(self, stamp_ns: int) -> None:
        """Note a command, accepted or not."""
        self._commands.append(stamp_ns)

    def done_received(self, message: Any) -> None:
        """Note a `LockstepDone`."""
        if message.participant in self._done:
            self._done[message.participant] = (to_ns(message.stamp), to_ns(message.last_command))

    def waiting_for(self, time_ns: int) -> list[str]:
        """Participants that have not finished with `time_ns`, or whose command for it is not here yet."""
        return [
            name
            for name, (done_ns, command_ns) in self._done.items()
            if done_ns != time_ns or (command_ns and command_ns not in self._commands)
        ]
