"""Observations from topics into a buffer: subscribe, decode, refuse or add; the one way in for every node.

```python
self._intake = ObservationIntake(
    self, task, controller.buffer, lockstep=lockstep, now_ns=self._now, on_sample=self._sampled
)
# def _sampled(self, key: str, problem: BadObservation | None): called on the executor's thread, always
self._intake.counts["image"].received, .decoded, .dropped, .refused; .off_thread("image")
self._intake.close()  # bounded time; before the node is destroyed or the lifecycle node is cleaned up
```

Small messages are decoded in their callback. A stream whose messages take longer than 1 ms to decode and
resize gets a thread of its own; what comes out is added on the executor's thread, in the order of arrival.
A thread that cannot keep up drops the oldest pictures that wait. In lockstep simulation time waits for
everybody, so everything is decoded in place and nothing is dropped. Easy to get wrong: `buffer` is touched by
the executor's thread only.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dp_ros.bridge.clock import to_ns
from dp_ros.bridge.codecs import CodecProblem, decode, message_class
from dp_ros.bridge.qos import observation_qos
from dp_ros.runtime.observation import BadObservation, ObservationBuffer
from dp_ros.task import ObservationSpec, TaskSpec

Array = npt.NDArray[np.generic]
#: Called with a stream's name, and why its sample was refused; None if it was added.
OnSample = Callable[[str, BadObservation | None], None]

#: Processor time of one message above which its stream is decoded in a thread.
INLINE_LIMIT_NS = 1_000_000
#: So many messages in a row must take longer, because the first pays for imports and caches.
_SLOW_IN_A_ROW = 3
#: Pictures that wait for a decoding thread, at most: half a second of a 30 Hz camera.
WAITING = 15

#: Messages of one stream taken in a row, at most; then others have their turn.
CAUGHT_UP = 500


@dataclass
class IntakeCounts:
    """Messages of one stream since the intake was made: every one received ends up in one of the others.

    Attributes:
        received: by this process.
        added: to the buffer.
        refused: by decoding or by the buffer.
        dropped: because decoding could not keep up.
    """

    received: int = 0
    added: int = 0
    refused: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class _Decoded:
    stamp_ns: int
    value: Array | None
    problem: str


def _decode(message: Any, spec: ObservationSpec) -> _Decoded:
    stamp_ns = to_ns(message.header.stamp)
    try:
        return _Decoded(stamp_ns, decode(message, spec), "")
    except CodecProblem as problem:
        return _Decoded(stamp_ns, None, str(problem))
    except Exception as error:  # whatever a malformed message makes a library raise must not end the thread
        return _Decoded(stamp_ns, None, f"{spec.topic}: {type(error).__name__}: {error}")


class DecodingThread:
    """Decodes the messages of one stream in order; of those that wait, the newest win.

    Args:
        key: stream name. spec: what to decode. wake: called from the thread when something can be taken.
    """

    def __init__(self, key: str, spec: ObservationSpec, wake: Callable[[], None]) -> None:
        self._spec, self._wake = spec, wake
        self._waiting: deque[Any] = deque()
        self._decoded: deque[_Decoded] = deque()
        self._changed = threading.Condition()
        self._under_way = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"decode {key}", daemon=True)
        self._thread.start()

    def put(self, message: Any) -> bool:
        """Hand over a message, never waiting; False if an older one had to be dropped for it."""
        with self._changed:
            full = len(self._waiting) >= WAITING
            if full:
                self._waiting.popleft()
            self._waiting.append(message)
            self._changed.notify()
        return not full

    def take(self) -> _Decoded | None:
        """The next decoded message, in order of arrival; None if there is none."""
        with self._changed:
            return self._decoded.popleft() if self._decoded else None

    @property
    def backlog(self) -> int:
        """Messages handed over and not taken back yet."""
        with self._changed:
            return len(self._waiting) + self._under_way + len(self._decoded)

    def ask_to_close(self) -> None:
        """Have the thread end after the message under way."""
        with self._changed:
            self._closing = True
            self._waiting.clear()
            self._changed.notify()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; False if it did not come in time."""
        self._thread.join(max(timeout_s, 0.0))
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                message = self._waiting.popleft()
                self._under_way = 1
            decoded = _decode(message, self._spec)
            del message  # or the last picture would be held until the next one
            with self._changed:
                self._under_way = 0
                if self._closing:  # whoever would be woken may be gone
                    return
                self._decoded.append(decoded)
                self._wake()


class ObservationIntake:
    """Subscriptions for every stream of a task, and the threads that decode pictures.

    Args:
        node: an rclpy node.
        task: streams.
        buffer: takes the samples.
        lockstep: decode everything in place, lose nothing.
        now_ns: present time, against which stamps are checked; not asked in lockstep, where samples may
            arrive before the clock that belongs to them.
        on_sample: called after each sample, on the executor's thread.
    """

    def __init__(
        self,
        node: Any,
        task: TaskSpec,
        buffer: ObservationBuffer,
        *,
        lockstep: bool,
        now_ns: Callable[[], int],
        on_sample: OnSample,
    ) -> None:
        cv2.setNumThreads(1)  # streams have threads of their own; OpenCV's would take cores from inference
        self._node, self._task, self._buffer = node, task, buffer
        self._lockstep, self._now_ns, self._on_sample = lockstep, now_ns, on_sample
        self.counts = {key: IntakeCounts() for key in task.observations}
        self._slow = dict.fromkeys(task.observations, 0)
        self._threads: dict[str, DecodingThread] = {}
        self._closed = False
        self._guard = node.create_guard_condition(self._deliver)
        self._subscriptions = {
            key: node.create_subscription(
                message_class(spec.type),
                spec.topic,
                lambda message, key=key: self._receive(key, message),
                observation_qos(lockstep=lockstep, picture=spec.is_image),
            )
            for key, spec in task.observations.items()
        }

    def connected(self, key: str) -> bool:
        """Whether a publisher is matched with a stream's subscription: what it sends now will arrive."""
        return bool(self._subscriptions[key].get_publisher_count())

    def off_thread(self, key: str) -> bool:
        """Whether a stream is decoded in a thread of its own."""
        return key in self._threads

    def backlog(self, key: str) -> int:
        """Messages of a stream that are received and not in the buffer yet."""
        return self._threads[key].backlog if key in self._threads else 0

    def close(self, timeout_s: float = 2.0) -> bool:
        """End subscriptions and threads; nothing is called afterwards.

        Returns:
            False if a thread was still decoding after `timeout_s`; it ends by itself, and what it gives is lost.
        """
        if self._closed:
            return True
        self._closed = True
        for subscription in self._subscriptions.values():
            self._node.destroy_subscription(subscription)
        for thread in self._threads.values():
            thread.ask_to_close()
        end_s = time.monotonic() + timeout_s
        ended = all([thread.join(end_s - time.monotonic()) for thread in self._threads.values()])
        self._node.destroy_guard_condition(self._guard)
        return ended

    def _receive(self, key: str, message: Any) -> None:
        """Handle a message and, in real time, all that wait behind it.

        The executor takes one message of a subscription each time it looks at all of them, and a node that is
        short of processor time would never catch up with joint states at 500 Hz, but act on old ones.
        """
        if self._closed:
            return
        self._handle(key, message)
        subscription = self._subscriptions[key]
        for _ in range(0 if self._lockstep else CAUGHT_UP):
            if self._closed:
                return
            with subscription.handle:
                taken = subscription.handle.take_message(subscription.msg_type, False)
            if taken is None:
                return
            self._handle(key, taken[0])

    def _handle(self, key: str, message: Any) -> None:
        self.counts[key].received += 1
        if key in self._threads:
            if not self._threads[key].put(message):
                self.counts[key].dropped += 1
            return
        begin_ns = time.thread_time_ns()
        decoded = _decode(message, self._task.observations[key])
        slow = time.thread_time_ns() - begin_ns > INLINE_LIMIT_NS
        self._slow[key] = self._slow[key] + 1 if slow else 0
        if self._slow[key] >= _SLOW_IN_A_ROW and not self._lockstep:
            self._threads[key] = DecodingThread(key, self._task.observations[key], self._guard.trigger)
        self._add(key, decoded)

    def _deliver(self) -> None:
        """Add what the threads have decoded."""
        for key, thread in list(self._threads.items()):
            while not self._closed and (decoded := thread.take()) is not None:
                self._add(key, decoded)

    def _add(self, key: str, decoded: _Decoded) -> None:
        refusal = None
        try:
            if decoded.value is None:
                self._buffer.reject(key, decoded.problem)
            now_ns = None if self._lockstep else self._now_ns()
            self._buffer.add(key, decoded.stamp_ns, decoded.value, now_ns=now_ns)
            self.counts[key].added += 1
        except BadObservation as problem:
            refusal = problem
            self.counts[key].refused += 1
            self._node.get_logger().warning(f"sample refused: {problem}", throttle_duration_sec=2.0)
        self._on_sample(key, refusal)
