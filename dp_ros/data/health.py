"""What is wrong with the episodes of a recording, each judged by itself and against the others.

    error      it should not be learnt from: not finite, time stands still or runs backwards, a gap, a camera or a state
               that froze
    warning    look at it: jumps, values at their limits, doubled pictures, a long lag, a length or a lag unlike the
               others', stamps out of order in the raw messages beside it

Thresholds that compare are robust: medians, and deviations as multiples of the median one, so that a few bad episodes
do not hide behind themselves. Easy to get wrong: a robot that stands still sends equal states, which is no fault; a
picture that stays the same to the last bit while the robot moves is one, and so is a state that does while it is
commanded elsewhere. A stream of things that are not commanded, such as an object, may rest while the robot moves: it is
held to the task's `freeze_after_s` where that says that it has to change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dp_ros.data.checks import check_chunks
from dp_ros.data.layout import ACTION, TIMESTAMP
from dp_ros.data.raw_stamps import stamps_backwards
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.takeovers import stretches
from dp_ros.task import TaskSpec

#: Steps may be so many periods apart before it is a gap.
GAP_PERIODS = 1.5
#: Equal pictures, or states of what is commanded elsewhere, in a row before they count as frozen, seconds.
FROZEN_S = 0.5
#: A command moves a joint if it changes by this share of its range in the recording.
MOVED = 0.1
#: A state follows its command within this time, seconds; slower is said, whatever the other episodes are like.
LAG_S = 0.5
#: Steps in a row at a limit before a command counts as clipped.
CLIPPED_STEPS = 5
#: Multiples of the median deviation from the median that set an episode apart from the others.
OUTLIER = 8.0
#: Multiples of a stream's usual change in a step (its 99th percentile) that make a jump.
JUMP = 6.0
#: Steps, and seconds, up to which a state is looked for behind the commands.
_MOST_LAG, _MOST_LAG_S = 10, 1.0
_FEWEST_TO_COMPARE = 5  # episodes

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: not_finite, time_order, gap, frozen, doubled, jump, clipped, length, lag, or raw.
        severity: see the module.
        message: what, where, how much.
    """

    kind: str
    severity: Severity
    message: str


@dataclass(frozen=True)
class EpisodeHealth:
    """The verdict on one episode.

    Attributes:
        index: of the episode.
        steps: rows.
        duration_s: from the first to the last timestamp; None where there are none.
        lag_steps: by which the state follows the commands best; None where that cannot be told.
        findings: worst first; none: it is well.
    """

    index: int
    steps: int
    duration_s: float | None
    lag_steps: int | None
    findings: list[Finding] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """error, warning or ok."""
        return min((finding.severity for finding in self.findings), default="ok")


def check_recording(buffer: ReplayBuffer, task: TaskSpec | None = None) -> list[EpisodeHealth]:
    """Judge every episode; `task` is by default the one that the recording names, without which less can be told."""
    task = task or buffer.task
    check_chunks(buffer)
    lossy = buffer.storage.kind == "video"
    ranges = (
        np.ptp(np.asarray(buffer[ACTION], np.float64), axis=0)
        if ACTION in buffer and buffer.n_steps
        else None
    )
    usual = {key: _usual_change(buffer, key) for key in buffer if _is_vector(buffer, key)}
    found = []
    for index in range(buffer.n_episodes):
        arrays = buffer.episode(index)
        times = arrays.get(TIMESTAMP)
        findings = [
            *_not_finite(arrays),
            *_time(times, task),
            *_pictures(arrays, task, lossy),
            *_frozen_states(arrays, task, ranges),
            *_unchanging(arrays, task),
            *_jumps(arrays, usual),
            *_clipped(arrays, task),
            *_raw_stamps(buffer, index),
        ]
        duration_s = float(times[-1] - times[0]) if times is not None and len(times) else None
        steps = len(next(iter(arrays.values())))
        lag = _lag(arrays, task)
        if task is not None and lag is not None and lag / task.rate_hz > LAG_S:
            message = f"the state follows the commands by {lag} steps, {lag / task.rate_hz:.2f} s (at most {LAG_S:g})"
            findings.append(Finding("lag", "warning", message))
        found.append(EpisodeHealth(index, steps, duration_s, lag, findings))
    _compare(found, "length", "steps", [episode.steps for episode in found])
    _compare(found, "lag", "steps between command and state", [episode.lag_steps for episode in found])
    for episode in found:
        episode.findings.sort(key=lambda finding: finding.severity)
    return found


def _is_vector(buffer: ReplayBuffer, key: str) -> bool:
    first = buffer.rows(key, 0, 1)
    return key != TIMESTAMP and first.ndim == 2 and first.dtype.kind == "f"


def _usual_change(buffer: ReplayBuffer, key: str) -> NDArray[np.float64]:
    """What a value changes by in a step at most, but for one step in a hundred, (n,)."""
    values = np.asarray(buffer[key], np.float64)
    within = np.ones(max(len(values) - 1, 0), bool)
    within[buffer.episode_ends[:-1] - 1] = False
    changes = np.abs(np.diff(values, axis=0))[within]
    changes = changes[np.isfinite(changes).all(axis=1)]
    return np.quantile(changes, 0.99, axis=0) if len(changes) else np.zeros(values.shape[1])


def _not_finite(arrays: dict[str, NDArray[Any]]) -> Iterator[Finding]:
    for key, values in arrays.items():
        if values.dtype.kind != "f":
            continue
        broken = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        if broken.size:
            yield Finding(
                "not_finite", "error", f"{key} is not finite in {broken.size} steps, first in {broken[0]}"
            )


def _time(times: NDArray[Any] | None, task: TaskSpec | None) -> Iterator[Finding]:
    if times is None or len(times) < 2 or not np.isfinite(times).all():
        return
    apart = np.diff(times)
    backwards = np.flatnonzero(apart <= 0)
    if backwards.size:
        k = int(backwards[0])
        yield Finding(
            "time_order",
            "error",
            f"time stands still or runs backwards {backwards.size} times, first after step {k} ({apart[k]:+.3f} s)",
        )
    period = 1.0 / task.rate_hz if task else float(np.median(apart))
    gaps = np.flatnonzero(apart > GAP_PERIODS * period)
    if gaps.size:
        yield Finding(
            "gap",
            "error",
            f"{gaps.size} gaps, the longest {apart[gaps].max():.3f} s (steps are {period:.3f} s apart), first after "
            f"step {gaps[0]}",
        )


def _pictures(arrays: dict[str, NDArray[Any]], task: TaskSpec | None, lossy: bool) -> Iterator[Finding]:
    """Of lossy video equal pictures are no proof: it makes equal what hardly differs."""
    period = 1.0 / task.rate_hz if task else 0.1
    moving = _moving(arrays)
    for key, values in arrays.items():
        if values.ndim < 3 or len(values) < 2:
            continue
        flat = values.reshape(len(values), -1)
        equal = np.array([np.array_equal(a, b) for a, b in zip(flat[:-1], flat[1:], strict=True)]) & moving
        if not equal.any():
            continue
        start, stop = max(stretches(equal), key=lambda stretch: stretch[1] - stretch[0])
        if (stop - start) * period >= FROZEN_S:
            yield Finding(
                "frozen",
                "warning" if lossy else "error",
                f"{key} shows the same picture for {(stop - start) * period:.1f} s from step {start} on while the "
                "robot moves" + (" (or the video makes them equal)" if lossy else ""),
            )
        else:
            yield Finding(
                "doubled", "warning", f"{key} has {int(equal.sum())} pictures that equal the one before"
            )


def _frozen_states(
    arrays: dict[str, NDArray[Any]], task: TaskSpec | None, ranges: NDArray[np.float64] | None
) -> Iterator[Finding]:
    """States that are the same to the last bit while their own commands move away from them."""
    action = arrays.get(ACTION)
    if task is None or action is None or action.ndim != 2 or ranges is None or len(action) < 2:
        return
    names = list(task.action.names)
    longest, late = max(2, round(FROZEN_S * task.rate_hz)), round(LAG_S * task.rate_hz)
    for key, spec in task.observations.items():
        values = arrays.get(key)
        if values is None or spec.is_image or values.ndim != 2:
            continue
        for name, dimension in spec.joint_positions.items():
            if name not in names:
                continue
            command = action[:, names.index(name)].astype(np.float64)
            moved = MOVED * float(ranges[names.index(name)])
            equal = values[1:, dimension] == values[:-1, dimension]
            for start, stop in stretches(equal):
                # The state may be late, so the last commands of the stretch say nothing.
                told = command[start : max(stop + 1 - late, start)]
                if stop - start >= longest and len(told) > 1 and moved > 0 and np.ptp(told) > moved:
                    yield Finding(
                        "frozen",
                        "error",
                        f"{key} says the same of {name} for {(stop - start) / task.rate_hz:.1f} s from step {start} on "
                        "while it is commanded elsewhere",
                    )
                    break


def _unchanging(arrays: dict[str, NDArray[Any]], task: TaskSpec | None) -> Iterator[Finding]:
    """Vectors that stay the same for longer than the task allows."""
    for key, spec in task.observations.items() if task is not None else ():
        values, limit_s = arrays.get(key), spec.freeze_after_s
        if values is None or values.ndim != 2 or limit_s is None or task is None:
            continue
        runs = stretches((values[1:] == values[:-1]).all(axis=1))
        start, stop = max(runs, key=lambda run: run[1] - run[0], default=(0, 0))
        if (stop - start) / task.rate_hz > limit_s:
            yield Finding(
                "frozen",
                "error",
                f"{key} stays the same for {(stop - start) / task.rate_hz:.1f} s from step {start} on, the task's "
                f"freeze_after_s is {limit_s:g}",
            )


def _raw_stamps(buffer: ReplayBuffer, index: int) -> Iterator[Finding]:
    """Stamps in the messages as they came, where they are kept beside the recording."""
    name = buffer.episode_info[index].get("raw", "")
    folder = buffer.path.resolve().parent
    file = (folder / name).resolve()
    if not name or not file.is_relative_to(folder) or not file.is_file():
        return
    try:
        backwards = stamps_backwards(file)
    except ValueError as error:
        yield Finding("raw", "warning", f"the raw messages in {name} cannot be read: {error}")
        return
    for topic, (times, worst_s) in backwards.items():
        yield Finding(
            "time_order",
            "warning",
            f"raw messages of {topic}: stamps stand still or run backwards {times} times ({worst_s:+.3f} s)",
        )


def _moving(arrays: dict[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Whether any vector but the time changed from each step to the next, (steps - 1,)."""
    vectors = [v for key, v in arrays.items() if key != TIMESTAMP and v.ndim == 2 and v.dtype.kind == "f"]
    steps = len(next(iter(arrays.values())))
    moved = np.zeros(max(steps - 1, 0), bool)
    for values in vectors:
        scale = np.maximum(np.ptp(values, axis=0), 1e-9)
        moved |= (np.abs(np.diff(values, axis=0)) > 1e-3 * scale).any(axis=1)
    return moved


def _jumps(arrays: dict[str, NDArray[Any]], usual: dict[str, NDArray[np.float64]]) -> Iterator[Finding]:
    for key, limit in usual.items():
        values = arrays[key].astype(np.float64)
        size = np.maximum(limit, 1e-6 * np.maximum(np.abs(values).max(axis=0, initial=0.0), 1e-9))
        share = np.abs(np.diff(values, axis=0)) / size
        if not share.size or not np.nanmax(share) > JUMP:
            continue
        step, dimension = np.unravel_index(int(np.nanargmax(share)), share.shape)
        yield Finding(
            "jump",
            "warning",
            f"{key}[{dimension}] jumps from {values[step, dimension]:.4g} to {values[step + 1, dimension]:.4g} after "
            f"step {step}, {share[step, dimension]:.0f} times what is usual",
        )


def _clipped(arrays: dict[str, NDArray[Any]], task: TaskSpec | None) -> Iterator[Finding]:
    limits = None if task is None or task.action.limits is None else task.action.limits.position
    if limits is None or ACTION not in arrays or arrays[ACTION].shape[1:] != (len(limits.min),):
        return
    low, high = np.asarray(limits.min), np.asarray(limits.max)
    near = 1e-4 * (high - low)
    at_limit = (arrays[ACTION] <= low + near) | (arrays[ACTION] >= high - near)
    for dimension in range(at_limit.shape[1]):
        longest = max((stop - start for start, stop in stretches(at_limit[:, dimension])), default=0)
        if longest >= CLIPPED_STEPS:
            name = task.action.names[dimension] if task and task.action.names else f"[{dimension}]"
            yield Finding("clipped", "warning", f"action {name} stays at its limit for {longest} steps")


def _lag(arrays: dict[str, NDArray[Any]], task: TaskSpec | None) -> int | None:
    """Steps by which the state of the same names follows the action best."""
    action = arrays.get(ACTION)
    if task is None or action is None or action.ndim != 2:
        return None
    most = max(_MOST_LAG, round(_MOST_LAG_S * task.rate_hz))
    if len(action) <= 2 * most:
        return None
    names = list(task.action.names)
    key = next((k for k, spec in task.observations.items() if names and list(spec.names) == names), None)
    if key is None or key not in arrays or arrays[key].shape != action.shape:
        return None
    state, command = arrays[key].astype(np.float64), action.astype(np.float64)
    if not np.isfinite(state).all() or not np.isfinite(command).all() or (np.ptp(command, axis=0) == 0).all():
        return None
    n = len(command) - most
    errors = [float(np.abs(command[:n] - state[lag : lag + n]).mean()) for lag in range(most + 1)]
    return int(np.argmin(errors))


def _compare(found: list[EpisodeHealth], kind: str, unit: str, values: list[int | None]) -> None:
    """Note episodes that are unlike the others."""
    known = np.array([value for value in values if value is not None], np.float64)
    if len(known) < _FEWEST_TO_COMPARE:
        return
    middle = float(np.median(known))
    spread = max(float(np.median(np.abs(known - middle))), 0.05 * middle, 1.0)
    for episode, value in zip(found, values, strict=True):
        if value is not None and abs(value - middle) > OUTLIER * spread:
            message = f"{kind} of {value} {unit}, the others' is {middle:.0f}"
            episode.findings.append(Finding(kind, "warning", message))
