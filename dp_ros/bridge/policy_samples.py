"""What a policy was asked and what it answered, as a `PolicySample` message, and the question back from one.

With the samples that a recording holds of every stream, `window_of` and `request_of` give the same request again,
so that what a robot did can be computed once more, bit for bit. Easy to get wrong: which window an inference was
given depends on what had arrived by then, so the newest stamp of each stream belongs to the question.
"""

from __future__ import annotations

import array
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dp_ros.bridge.clock import to_ns, to_stamp
from dp_ros.errors import UserError
from dp_ros.msg import PolicySample
from dp_ros.runtime.execution import InferenceRequest
from dp_ros.runtime.observation import ObservationBuffer, Window
from dp_ros.runtime.prefix import Prefix
from dp_ros.task import TaskSpec

Actions = npt.NDArray[np.float32]
#: Samples of a stream in the order of arrival: header stamp and value.
Recorded = Mapping[str, Iterable[tuple[int, npt.NDArray[Any]]]]


def encode_sample(
    request: InferenceRequest, actions: npt.NDArray[np.floating], names: list[str], model_id: str
) -> PolicySample:
    """A request and the actions (horizon, dim) that it was answered with."""
    window = request.window
    message = PolicySample(
        model_id=model_id,
        seed=request.seed,
        step=request.step,
        streams=list(window.newest_ns),
        newest=[to_stamp(time_ns) for time_ns in window.newest_ns.values()],
        names=names,
        values=_floats(actions),
    )
    message.header.stamp = to_stamp(window.stamp_ns)
    if request.prefix is not None:
        message.prefix_actions = _floats(request.prefix.actions)
        message.prefix_weights = _floats(request.prefix.weights)
    return message


def actions_of(message: Any) -> Actions:
    """The actions (horizon, dim) that a message holds."""
    return np.array(message.values, np.float32).reshape(-1, len(message.names))


def window_of(message: Any, task: TaskSpec, recorded: Recorded) -> Window:
    """The window that an inference was given, from what had been recorded by then.

    Raises:
        UserError: if the recording gives another one, saying what is missing.
    """
    buffer = ObservationBuffer(task)
    newest = {key: to_ns(stamp) for key, stamp in zip(message.streams, message.newest, strict=True)}
    for key, samples in recorded.items():
        latency_ns = round(1e9 * task.observations[key].latency_s)
        for stamp_ns, value in samples:
            if stamp_ns - latency_ns <= newest.get(key, 0):
                buffer.add(key, stamp_ns, value)
    for key, time_ns in newest.items():
        if buffer.newest_ns(key) != time_ns:
            raise UserError(
                f"the recording lacks the sample of {key} captured at {time_ns / 1e9:.9f} s, the newest that the "
                "policy had; record the whole run"
            )
    window = buffer.window(max(newest.values()))
    if window.stamp_ns != to_ns(message.header.stamp):
        raise UserError(
            f"the recording gives a window that ends at {window.stamp_ns / 1e9:.9f} s, the policy was given one that "
            f"ended at {to_ns(message.header.stamp) / 1e9:.9f} s; record from a second before the run on"
        )
    return window


def request_of(message: Any, window: Window) -> InferenceRequest:
    """The request that a message tells of."""
    prefix = None
    if len(message.prefix_weights):
        actions = np.array(message.prefix_actions, np.float32).reshape(-1, len(message.names))
        prefix = Prefix(actions, np.array(message.prefix_weights, np.float32), warm=True)
    return InferenceRequest(0, window, message.seed, message.step, prefix)


def _floats(values: npt.NDArray[np.floating]) -> array.array[float]:
    return array.array("f", np.ascontiguousarray(values, np.float32).tobytes())
