"""What is wrong with the episodes of a recording, each judged by itself and against the others.

    error      it should not be learnt from: not finite, time stands still or runs backwards, a gap, a camera that froze
    warning    look at it: jumps, values at their limits, doubled pictures, a length or a lag unlike the others'

Thresholds that compare are robust: medians, and deviations as multiples of the median one, so that a few bad episodes
do not hide behind themselves. Easy to get wrong: a robot that stands still sends equal states, which is no fault; a
picture that stays the same to the last bit while the robot moves is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dp_ros.data.checks import check_chunks
from dp_ros.data.layout import ACTION, TIMESTAMP
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.takeovers import stretches
from dp_ros.task import TaskSpec

#: Steps may be so many periods apart before it is a gap.
GAP_PERIODS = 1.5
#: Equal pictures in a row, while the robot moves, before its camera counts as frozen, seconds.
FROZEN_S = 0.5
#: Steps in a row at a limit before a command counts as clipped.
CLIPPED_STEPS = 5
#: Multiples of the median deviation from the median that set an episode apart from the others.
OUTLIER = 8.0
#: Multiples of a stream's usual change in a step (its 99th percentile) that make a jump.
JUMP = 6.0
#: Steps by which a state may follow the commands.
_MOST_LAG = 10
_FEWEST_TO_COMPARE = 5  # episodes

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: not_finite, time_order, gap, frozen, doubled, jump, clipped, length, or lag.
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
    usual = {key: _usual_change(buffer, key) for key in buffer if _is_vector(buffer, key)}
    found = []
    for index in range(buffer.n_episodes):
        arrays = buffer.episode(index)
        times = arrays.get(TIMESTAMP)
        findings = [
            *_not_finite(arrays),
            *_time(times, task),
            *_pictures(arrays, task),
            *_jumps(arrays, usual),
            *_clipped(arrays, task),
        ]
        duration_s = float(times[-1] - times[0]) if times is not None and len(times) else None
        steps = len(next(iter(arrays.values())))
        found.append(EpisodeHealth(index, steps, duration_s, _lag(arrays, task), findings))
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


def _pictures(arrays: dict[str, NDArray[Any]], task: TaskSpec | None) -> Iterator[Finding]:
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
                "error",
                f"{key} shows the same picture for {(stop - start) * period:.1f} s from step {start} on while the "
                "robot moves",
            )
        else:
            yield Finding(
                "doubled", "warning", f"{key} has {int(equal.sum())} pictures that equal the one before"
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
    if task is None or action is None or action.ndim != 2 or len(action) <= 2 * _MOST_LAG:
        return None
    names = list(task.action.names)
    key = next((k for k, spec in task.observations.items() if names and list(spec.names) == names), None)
    if key is None or key not in arrays or arrays[key].shape != action.shape:
        return None
    state, command = arrays[key].astype(np.float64), action.astype(np.float64)
    if not np.isfinite(state).all() or not np.isfinite(command).all() or (np.ptp(command, axis=0) == 0).all():
        return None
    n = len(command) - _MOST_LAG
    errors = [float(np.abs(command[:n] - state[lag : lag + n]).mean()) for lag in range(_MOST_LAG + 1)]
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
