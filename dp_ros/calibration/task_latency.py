"""The latency of one stream or of the action of a task, from recorded motion.

A stream is compared with another that shows the same motion, by default the one that measures what is
commanded; the action with the stream that measures its effect. Easy to get wrong: only differences can be seen.
A stream's latency is counted from the reference's capture times, so the reference's own latency in the task
must be right, or zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dp_ros.calibration.latency import Latency, estimate_latency
from dp_ros.calibration.motion_recording import MotionRecording, Samples
from dp_ros.calibration.pictures import motion_energy, picture_shift, target_position
from dp_ros.calibration.signals import CalibrationError, Signal
from dp_ros.data.layout import ACTION
from dp_ros.errors import UserError
from dp_ros.task import TaskSpec
from dp_ros.task.action import TWIST

_CARTESIAN = {"x": "position.x", "y": "position.y", "z": "position.z"}
_TWIST = {
    f"{kind[0] if kind == 'v' else 'w'}{a}": f"{field}.{a}"
    for kind, field in (("v", "linear"), ("w", "angular"))
    for a in "xyz"
}


#: What is measured in pictures, and what of a motion explains it.
_PICTURE_METHODS: dict[str, tuple[Callable[[Signal], Signal], Callable[..., Signal]]] = {
    "position of what moves in the picture": (lambda signal: signal, target_position),
    "shift of the whole picture": (Signal.velocity, picture_shift),
    "change from picture to picture": (Signal.speed, motion_energy),
}


@dataclass(frozen=True)
class TaskLatency:
    """Result of a calibration.

    Attributes:
        key: stream of the task, or `action`.
        against: stream it was compared with.
        latency: the estimate.
        pairs: the signals that were compared, (earlier, later).
        paired: whether column j of one answers to column j of the other.
        method: what was compared, for a person.
    """

    key: str
    against: str
    latency: Latency
    pairs: Sequence[tuple[Signal, Signal]]
    paired: bool
    method: str

    @property
    def seconds(self) -> float:
        """What belongs into the task: whole milliseconds, and never below 0."""
        return max(round(self.latency.value_s, 3), 0.0)


def calibrate(
    task: TaskSpec,
    motion: Sequence[MotionRecording],
    key: str,
    *,
    against: str = "",
    longest_s: float = 0.5,
) -> TaskLatency:
    """Estimate the latency of a stream, or of the action.

    Args:
        task: streams, their latencies so far, and what measures the action.
        motion: recordings of the task.
        key: stream name or `action`.
        against: stream to compare with; chosen by the task if empty.
        longest_s: longest latency looked for.

    Raises:
        UserError: if the task has no such stream, or none to compare it with.
        CalibrationError: if the motion does not determine the latency.
    """
    if key != ACTION and key not in task.observations:
        raise UserError(
            f"there is no stream {key!r} in task {task.name}: {', '.join(task.observations)} or action"
        )
    against = against or _reference(task, key)
    if against not in task.observations or against == key:
        raise UserError(f"cannot compare {key} with {against!r}; expected another stream of task {task.name}")
    if task.observations[against].is_image:
        raise UserError(f"cannot compare {key} with the pictures of {against}; expected a vector stream")
    try:
        result = _of_action(task, motion, against, longest_s) if key == ACTION else None
        result = result or _of_stream(task, motion, key, against, longest_s)
    except CalibrationError as error:
        raise CalibrationError(f"{key} against {against}: {error}") from None
    if result.latency.interval_s[1] < 0:
        raise CalibrationError(
            f"{key} against {against}: {key} is {-result.latency.value_s * 1e3:.0f} ms earlier than {against}, and "
            f"no latency is below 0. The latency of {against} must be at least that: calibrate {against} first, or "
            "check its header stamps"
        )
    return result


def _reference(task: TaskSpec, key: str) -> str:
    """The stream that a task offers for comparison."""
    vectors = [name for name, spec in task.observations.items() if not spec.is_image and name != key]
    if task.action.state in vectors:
        return str(task.action.state)
    commanded = set(task.action.names)
    measuring = [name for name in vectors if commanded & set(task.observations[name].joint_positions)]
    joints = [name for name in vectors if task.observations[name].joint_positions]
    chosen = measuring or ([] if key == ACTION else joints or vectors)
    if not chosen:
        raise UserError(
            f"task {task.name} has no stream that measures what {key} shows; say which one with --against, or set "
            "action.state"
        )
    return chosen[0]


def _of_action(
    task: TaskSpec, motion: Sequence[MotionRecording], against: str, longest_s: float
) -> TaskLatency:
    action, spec = task.action, task.observations[against]
    grippers = {action.names[i] for i in range(action.dim)} & {gripper.name for gripper in action.grippers}
    pairs = []
    for recording in motion:
        commanded, measured = _samples(recording, ACTION), _samples(recording, against)
        columns = []
        for i, name in enumerate(commanded.names):
            field = _CARTESIAN.get(name) or _TWIST.get(name) or f"position {name}"
            same = [field, f"position {name}", name]
            found = [measured.names.index(label) for label in same if label in measured.names]
            if found and name not in grippers:
                columns.append((i, found[0]))
        if not columns:
            raise UserError(
                f"{against} measures {', '.join(measured.names)}, none of the commanded {', '.join(commanded.names)}; "
                "say with --against which stream does"
            )
        origin = _origin(recording)
        earlier = _signal(commanded, origin).columns([i for i, _ in columns])
        later = _positions(task, against, measured, origin, [j for _, j in columns])
        if action.is_velocity and action.type != TWIST:  # a twist is compared with a measured twist
            earlier = earlier.integral()
        names = tuple(commanded.names[i] for i, _ in columns)
        pairs.append((_named(earlier, names), _named(later.shifted(-spec.latency_s), names)))
    _require_change(pairs, 0, f"the commands on {action.topic}")
    _require_change(pairs, 1, f"{against} ({spec.topic})")
    latency = estimate_latency(pairs, paired=True, longest_s=longest_s)
    method = f"commands on {action.topic} and what {against} measured: {', '.join(latency.channels)}"
    return TaskLatency(ACTION, against, latency, pairs, True, method)


def _of_stream(
    task: TaskSpec, motion: Sequence[MotionRecording], key: str, against: str, longest_s: float
) -> TaskLatency:
    spec, reference = task.observations[key], task.observations[against]
    earlier, later = [], []
    for recording in motion:
        origin = _origin(recording)
        measured = _positions(task, against, _samples(recording, against), origin)
        earlier.append(measured.shifted(-reference.latency_s))
        later.append((_samples(recording, key), origin))
    _require_change([(x, x) for x in earlier], 0, f"{against} ({reference.topic})")
    if not spec.is_image:
        pairs = [(x, _positions(task, key, y, origin)) for x, (y, origin) in zip(earlier, later, strict=True)]
        _require_change(pairs, 1, f"{key} ({spec.topic})")
        latency = estimate_latency(pairs, paired=False, longest_s=longest_s)
        return TaskLatency(key, against, latency, pairs, False, f"{key} and {against}")
    found, refusals = [], []
    for method, (explaining, measure) in _PICTURE_METHODS.items():
        try:
            pairs = []
            for x, (samples, origin) in zip(earlier, later, strict=True):
                pairs.append((explaining(x), measure(*_frames(samples, origin))))
            latency = estimate_latency(pairs, paired=False, longest_s=longest_s)
            found.append(TaskLatency(key, against, latency, pairs, False, f"{method}, and {against}"))
        except CalibrationError as error:
            refusals.append(f"by the {method}: {error}")
    if not found:
        raise CalibrationError("; ".join(refusals))
    return min(found, key=lambda result: result.latency.half_width_s)


def _samples(recording: MotionRecording, key: str) -> Samples:
    samples = recording.streams.get(key)
    if samples is None or len(samples.stamps_ns) < 10:
        count = 0 if samples is None else len(samples.stamps_ns)
        raise CalibrationError(f"the recording has {count} sample(s) of {key}; is its topic published?")
    return samples


def _origin(recording: MotionRecording) -> int:
    return min(int(s.stamps_ns.min()) for s in recording.streams.values() if len(s.stamps_ns))


def _signal(samples: Samples, origin_ns: int) -> Signal:
    return Signal.of(samples.stamps_ns, samples.values, samples.names, origin_ns=origin_ns)


def _named(signal: Signal, names: tuple[str, ...]) -> Signal:
    return Signal(signal.times_s, signal.values, names)


def _positions(
    task: TaskSpec, key: str, samples: Samples, origin_ns: int, columns: Sequence[int] = ()
) -> Signal:
    """Columns of a vector stream, by default its positions where it has such; angles without their jumps."""
    signal = _signal(samples, origin_ns)
    where = [i for i, name in enumerate(signal.names) if name.startswith("position")]
    signal = signal.columns(list(columns) or where or list(range(len(signal.names))))
    angles = {f"position {name}" for name in task.observations[key].angles} | set(
        task.observations[key].angles
    )
    values = signal.values.copy()
    for i, name in enumerate(signal.names):
        if name in angles:
            values[:, i] = np.unwrap(values[:, i])
    return Signal(signal.times_s, values, signal.names)


def _frames(
    samples: Samples, origin_ns: int
) -> tuple[
    np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]
]:
    stamps, first = np.unique(samples.stamps_ns, return_index=True)
    return (stamps - origin_ns) / 1e9, samples.values[first]


def _require_change(pairs: Sequence[tuple[Signal, Signal]], side: int, what: str) -> None:
    signals = [pair[side] for pair in pairs]
    if not any(len(s.times_s) and np.ptp(s.values, axis=0).max() > 0 for s in signals):
        raise CalibrationError(f"{what} did not change during the recording: move the robot while recording")
