"""The latency between two signals of one motion: the lag at which the later is best explained by the earlier.

For each lag d the later signal y(t) is regressed on the earlier one x(t - d), after a straight line was taken
out of every block of a few seconds, which removes offsets and drift. The share of y's variance so explained,
R^2(d), is the squared correlation where one column meets one, and has its peak at the latency whatever the
scale and sign; with white noise on y that is the maximum-likelihood delay (Knapp and Carter, "The generalized
correlation method for estimation of time delay", 1976). The interval is a bootstrap over the blocks. Easy to
get wrong: a motion that repeats itself has a peak at each period, and a motion that hardly moves has one
anywhere; both are refused here, because a wrong latency is worse than none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dp_ros.calibration.signals import GRID_S, CalibrationError, Floats, Signal

#: Share of the variance that must be explained at the peak.
LEAST_EXPLAINED = 0.25
#: A second peak that explains this much of what the highest does makes the answer ambiguous.
RIVAL = 0.95
#: A hill counts as one of its own if the valley before it is so deep.
VALLEY = 0.02
#: Widest accepted half of the 95 % interval.
WIDEST_S = 0.02
#: How far below zero the search reaches: a reference that is later than the stream should be seen as such.
SEARCH_BEFORE_S = 0.15
#: Least number of blocks, and their length.
LEAST_BLOCKS = 5
BLOCK_S = (1.5, 5.0)
DRAWS = 400
_COMPONENTS = 4


@dataclass(frozen=True)
class Latency:
    """An estimated latency.

    Attributes:
        value_s: the lag of the peak, seconds.
        interval_s: 95 % interval (expanded percentile bootstrap over blocks of motion).
        lags_s: (n_lags,) lags that were tried.
        explained: (n_lags,) share of the variance explained at each.
        band: (2, n_lags) 95 % of what the bootstrap draws explained.
        channels: columns of the later signal that the motion reached, and so took part.
        n_blocks: blocks of motion.
        duration_s: motion used.
        gain: of each of `channels` on the column of the same place, where columns are paired; else empty.
    """

    value_s: float
    interval_s: tuple[float, float]
    lags_s: Floats
    explained: Floats
    band: Floats
    channels: tuple[str, ...]
    n_blocks: int
    duration_s: float
    gain: tuple[float, ...] = ()

    @property
    def half_width_s(self) -> float:
        """Half of the interval's width."""
        return (self.interval_s[1] - self.interval_s[0]) / 2

    @property
    def peak(self) -> float:
        """Share of the variance explained at the peak."""
        return float(self.explained.max())


def estimate_latency(
    pairs: Sequence[tuple[Signal, Signal]],
    *,
    paired: bool,
    longest_s: float = 0.5,
    draws: int = DRAWS,
    seed: int = 0,
) -> Latency:
    """How much later the second signal of each pair shows the motion of the first.

    Args:
        pairs: (earlier, later) of one or several recordings of the same columns.
        paired: column j of the later answers to column j of the earlier, as a joint to its command; otherwise
            every column may answer to every one, as a picture to the joints.
        longest_s: longest latency looked for.
        draws: bootstrap draws.
        seed: of the draws.

    Raises:
        CalibrationError: if the motion does not determine it, saying why and which motion would.
    """
    pieces = [piece for earlier, later in pairs for piece in _overlaps(earlier, later)]
    if not pieces:
        raise CalibrationError("the two signals have no time in common; were both being published?")
    earlier, later = pieces[0]
    if not paired:
        pieces = _principal(pieces)
    names = later.names if paired else pieces[0][1].names
    lags: Floats = GRID_S * np.arange(
        -round(SEARCH_BEFORE_S / GRID_S), round(longest_s / GRID_S) + 1, dtype=np.float64
    )
    length_s = float(np.clip(sum(x.duration_s for x, _ in pieces) / 12, *BLOCK_S))
    moments = [m for x, y in pieces for m in _moments(x, y, lags, length_s, paired)]
    if len(moments) < LEAST_BLOCKS:
        raise CalibrationError(
            f"{len(moments)} block(s) of {length_s:.1f} s of motion are left after {lags[-1] - lags[0]:.2f} s were "
            f"set aside for the search; at least {LEAST_BLOCKS} are needed: record 20 s or more"
        )
    xx, xy, yy = (np.stack([getattr(m, part) for m in moments]) for part in ("xx", "xy", "yy"))
    share = _explained(xx.sum(0), xy.sum(0), yy.sum(0), paired)  # (n_lags, columns)
    moved = share.max(axis=0) >= LEAST_EXPLAINED
    if not moved.any():
        raise CalibrationError(_no_motion(share, names))
    combined = _combine(share[:, moved])
    _refuse_edges(combined, lags, longest_s)
    value_s = _peak(combined, lags)
    rng = np.random.default_rng(seed)
    peaks, curves = np.empty(draws), np.empty((draws, len(lags)))
    for i in range(draws):
        weight = np.bincount(rng.integers(len(moments), size=len(moments)), minlength=len(moments))
        sums = [np.tensordot(weight, part, axes=1) for part in (xx, xy, yy)]
        curves[i] = _combine(_explained(sums[0], sums[1], sums[2], paired)[:, moved])
        peaks[i] = _peak(curves[i], lags)
    interval = _expanded_interval(peaks, value_s, len(moments))
    _refuse_rivals(combined, lags, peaks, value_s)
    half_s = (interval[1] - interval[0]) / 2
    if half_s > WIDEST_S:
        raise CalibrationError(
            f"latency {value_s * 1e3:.0f} ms, but the 95 % interval is {interval[0] * 1e3:.0f} to "
            f"{interval[1] * 1e3:.0f} ms, wider than +-{WIDEST_S * 1e3:.0f} ms: move faster, change direction more "
            "often, or record for longer"
        )
    band = np.quantile(curves, [0.025, 0.975], axis=0)
    best = int(np.argmax(combined))
    gain = tuple((xy.sum(0)[best] / xx.sum(0)[best])[moved].tolist()) if paired else ()
    channels = tuple(name for name, used in zip(names, moved, strict=True) if used)
    duration_s = length_s * len(moments)
    return Latency(value_s, interval, lags, combined, band, channels, len(moments), duration_s, gain)


@dataclass(frozen=True)
class _Moments:
    """Second moments of one block at each lag, after its straight line was taken out.

    Paired columns: xx, xy, yy (n_lags, dim). Otherwise xx (n_lags, p, p), xy (n_lags, p, q), yy (n_lags, q).
    """

    xx: Floats
    xy: Floats
    yy: Floats


def _overlaps(earlier: Signal, later: Signal) -> list[tuple[Signal, Signal]]:
    """Stretches in which neither signal has a gap, longer than a second."""
    found = []
    for x in earlier.pieces():
        for y in later.pieces():
            start, end = max(x.times_s[0], y.times_s[0]), min(x.times_s[-1], y.times_s[-1])
            if end - start > 1.0:
                found.append((x.between(start, end), y.between(start, end)))
    return [(x, y) for x, y in found if len(x.times_s) > 5 and len(y.times_s) > 5]


def _principal(pieces: list[tuple[Signal, Signal]]) -> list[tuple[Signal, Signal]]:
    """Both sides reduced to their few principal components, so that noise finds no columns to fit itself with."""

    def reduced(signals: list[Signal]) -> list[Signal]:
        centred = [s.values - _line(s.times_s) @ (_line(s.times_s).T @ s.values) for s in signals]
        covariance = sum(c.T @ c for c in centred) / sum(len(c) for c in centred)
        power, axes = np.linalg.eigh(covariance)
        order = np.argsort(power)[::-1][:_COMPONENTS]
        kept = [i for i in order if power[i] > 0.02 * power[order[0]]] or [int(order[0])]
        if len(signals[0].names) == 1:
            return signals
        names = tuple(f"motion component {i + 1}" for i in range(len(kept)))
        return [Signal(s.times_s, c @ axes[:, kept], names) for s, c in zip(signals, centred, strict=True)]

    return list(zip(reduced([x for x, _ in pieces]), reduced([y for _, y in pieces]), strict=True))


def _line(times_s: Floats) -> Floats:
    """Orthonormal basis (n, 2) of constants and slopes at these times."""
    slope = times_s - times_s.mean()
    spread = np.linalg.norm(slope)
    return np.stack([np.full(len(slope), len(slope) ** -0.5), slope / (spread or 1.0)], axis=1)


def _moments(x: Signal, y: Signal, lags: Floats, length_s: float, paired: bool) -> list[_Moments]:
    """Moments of the blocks of one piece: the slower signal at its own stamps, the faster one on a fine grid."""
    y_is_slower = y.period_s >= x.period_s
    slow, fast = (y, x) if y_is_slower else (x, y)
    grid = fast.on_grid()
    steps = np.rint(lags / GRID_S).astype(np.int64) * (-1 if y_is_slower else 1)  # of the faster signal
    place = (slow.times_s - grid.times_s[0]) / GRID_S
    inside = (place + steps.min() >= 0) & (place + steps.max() + 1 <= len(grid.times_s) - 1)
    times, values, place = slow.times_s[inside], slow.values[inside], place[inside]
    if not len(times):
        return []
    n_blocks = max(int((times[-1] - times[0]) / length_s), 1)
    edges = np.linspace(times[0], times[-1] + 1e-9, n_blocks + 1)
    moments = []
    for start, end in zip(edges, edges[1:], strict=False):
        chosen = (times >= start) & (times < end)
        if chosen.sum() < 6 or end - start < 0.9 * length_s:
            continue
        line = _line(times[chosen])
        before = np.floor(place[chosen]).astype(np.int64)
        part = (place[chosen] - before)[:, None]
        at = before + steps[:, None]  # (n_lags, n)
        moving = (1 - part) * grid.values[at] + part * grid.values[at + 1]  # (n_lags, n, dim)
        moving = moving - line @ (line.T @ moving)
        still = values[chosen] - line @ (line.T @ values[chosen])
        still = np.broadcast_to(still, (len(lags), *still.shape))
        a, b = (moving, still) if y_is_slower else (still, moving)
        if paired:
            moments.append(_Moments((a * a).sum(1), (a * b).sum(1), (b * b).sum(1)))
        else:
            moments.append(_Moments(a.mT @ a, a.mT @ b, (b * b).sum(1)))
    return moments


def _explained(xx: Floats, xy: Floats, yy: Floats, paired: bool) -> Floats:
    """Share of each column of y explained at each lag, (n_lags, columns)."""
    total = np.maximum(yy, 1e-300)
    if paired:
        share = xy**2 / np.maximum(xx * total, 1e-300)
    else:
        size = np.trace(xx, axis1=1, axis2=2)[:, None, None]
        ridge = (1e-9 * size + 1e-300) * np.eye(xx.shape[1])
        share = (xy * np.linalg.solve(xx + ridge, xy)).sum(1) / total
    return np.clip(share, 0.0, 1.0)


def _combine(share: Floats) -> Floats:
    """One curve of several columns: what the geometric mean of their residuals leaves, as likelihood weighs them."""
    result: Floats = 1.0 - np.exp(np.log(np.maximum(1.0 - share, 1e-9)).mean(axis=1))
    return result


def _peak(curve: Floats, lags: Floats) -> float:
    """Lag of the highest point, by the parabola through it and its neighbours."""
    i = int(np.clip(np.argmax(curve), 1, len(curve) - 2))
    before, top, after = curve[i - 1 : i + 2]
    bend = before - 2 * top + after
    offset = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return float(lags[i] + GRID_S * np.clip(offset, -1.0, 1.0))


def _expanded_interval(peaks: Floats, value_s: float, n: int) -> tuple[float, float]:
    """95 % percentile interval, widened for few blocks.

    A percentile interval of n independent values is too narrow by sqrt((n - 1) / n) and by the normal quantile
    in the place of Student's (Hesterberg, "What teachers should know about the bootstrap", 2015, section 5.3).
    """
    z, dof = 1.959964, n - 1
    student = z + (z**3 + z) / (4 * dof) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * dof**2)
    wider = student / z * np.sqrt(n / dof)
    low, high = np.quantile(peaks, [0.025, 0.975])
    below = max(wider * (value_s - low), GRID_S / 2)  # no finer than the grid
    above = max(wider * (high - value_s), GRID_S / 2)
    return float(value_s - below), float(value_s + above)


def _no_motion(share: Floats, names: Sequence[str]) -> str:
    best = int(share.max(axis=0).argmax())
    return (
        f"too little motion in common: at the best lag, {share[:, best].max():.0%} of {names[best]} is explained, "
        f"{LEAST_EXPLAINED:.0%} is needed. Move back and forth through a good part of the range, unevenly, for 20 s, "
        "in view of the sensor"
    )


def _refuse_edges(curve: Floats, lags: Floats, longest_s: float) -> None:
    best = int(np.argmax(curve))
    if best >= len(lags) - 2:
        raise CalibrationError(
            f"the correlation still rises at {longest_s * 1e3:g} ms, the longest latency looked for: raise it, or "
            "move faster if the latency cannot be so long"
        )
    if best <= 1:
        raise CalibrationError(
            f"the correlation still rises at {lags[0] * 1e3:.0f} ms: the reference is later than what is to be "
            "calibrated; calibrate the reference first, or exchange the two"
        )


def _refuse_rivals(curve: Floats, lags: Floats, peaks: Floats, value_s: float) -> None:
    """Refuse a second hill that is as high as the highest, or that the bootstrap draws often prefer."""
    hills = np.flatnonzero((curve[1:-1] > curve[:-2]) & (curve[1:-1] >= curve[2:])) + 1
    top = int(np.argmax(curve))
    for rival in (int(hill) for hill in hills if hill != top):
        low, high = min(top, rival), max(top, rival)
        valley = low + int(np.argmin(curve[low : high + 1]))
        preferred = np.mean(peaks < lags[valley] if rival < top else peaks > lags[valley])
        as_high = curve[rival] > RIVAL * curve[top] and curve[rival] - curve[valley] > VALLEY
        if as_high or preferred > 0.025:
            raise CalibrationError(
                f"ambiguous: a latency of {lags[rival] * 1e3:.0f} ms explains the motion about as well as "
                f"{value_s * 1e3:.0f} ms ({curve[rival]:.0%} and {curve[top]:.0%}). A motion that repeats itself "
                "has a peak at each period: move unevenly, with pauses and different speeds"
            )
