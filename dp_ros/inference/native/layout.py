"""The U-Net as a list of convolutions, with its weights in the order in which `unet1d.cpp` reads them.

    level 0   x ── block ── block ─┐                               ┌─ block ── block ── double ── head
    level 1              halve ────┴── block ── block ─┐ ┌─[x|skip]┘
    level 2                                   halve ───┴─┴─ ... middle ...

A skip is written straight into the half of the rows from which the way up reads it, so nothing is ever copied beside
anything. Every buffer has rows of zeros before and behind its own. Easy to get wrong: what a transposed convolution
with kernel 4 and stride 2 gives are two convolutions with two taps each, one for the even rows and one for the odd.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dp_ros.inference.native.library import BLOCK, Floats, Parameters, in_blocks

KERNEL_SIZES = (3, 5, 7)
#: Of weights, `DpKind` in `unet1d.cpp`: what they are, and what the inputs are that they meet.
FLOATS, BYTES_SHORTS, BYTES_BYTES, BFLOATS = range(4)
#: Inputs whose narrow weights lie side by side.
_AT_ONCE = {BYTES_SHORTS: 2, BYTES_BYTES: 4, BFLOATS: 2}


class Convolution(ctypes.Structure):
    """`DpConvolution` of `unet1d.cpp`, which says what the fields are."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("input", "input_stride", "output", "output_stride")),
        *((name, ctypes.c_int64) for name in ("weights", "bias", "gamma", "beta", "film")),
        *((name, ctypes.c_int64) for name in ("added", "added_stride", "added_weights", "added_bias")),
        *((name, ctypes.c_int32) for name in ("cin", "cout", "taps", "step", "rows", "groups")),
        *((name, ctypes.c_int32) for name in ("added_cin", "borders", "joins")),
        *((name, ctypes.c_int64) for name in ("scales", "added_scales")),
        *((name, ctypes.c_int32) for name in ("kind", "added_kind")),
    ]


@dataclass(frozen=True)
class Packed:
    """Weights in memory: their kind, their place among those of that kind, and that of their scales, -1 for none."""

    kind: int
    at: int
    scales: int = -1


@dataclass(frozen=True)
class View:
    """Channels of rows in a sample's memory: place of the first row, floats from row to row."""

    at: int
    stride: int
    rows: int
    channels: int

    def half(self, second: bool) -> View:
        """The first or the second half of the channels."""
        n = self.channels // 2
        return replace(self, at=self.at + second * n, channels=n)


class UnetLayout:
    """Convolutions, parameters and memory of a U-Net with global conditioning.

    Args:
        weights: of the U-Net, by the names of `ConditionalUnet1d.state_dict()`, and nothing else.
        rows: horizon.
        action_dim: values of an action.
        kernel_size: of the convolutions over time; one of KERNEL_SIZES.
        groups: of the group norms.
        kind: of the weights; those of the first and the last convolution stay FLOATS. Weights of 8 bits have a scale
            for each output.
        mask: whether the input has the channel that says which actions are known.

    Raises:
        KeyError, ValueError: if these are not the weights of such a network.

    Attributes:
        widths: channels of the levels.
        operations: what is to be done for one noise level.
        parameters: of all of them, float32.
        bytes: those that are not FLOATS.
        sample_floats: memory that a sample needs.
        film: values of a condition.
        input: rows of actions, and of the mask.
        output: rows of predictions.
    """

    def __init__(
        self,
        weights: Mapping[str, Floats],
        *,
        rows: int,
        action_dim: int,
        kernel_size: int,
        groups: int,
        mask: bool,
        kind: int = FLOATS,
    ) -> None:
        self._weights, self._kernel_size, self._groups = weights, kernel_size, groups
        self._pad = kernel_size // 2
        self._kind = kind
        self._parameters = Parameters()
        self._bytes: list[NDArray[np.int8]] = []
        self._n_bytes = 0
        self.sample_floats = self.film = 0
        self.operations: list[Convolution] = []
        levels = sum(name.endswith("first.first.0.weight") and name.startswith("down.") for name in weights)
        self.widths = tuple(len(weights[f"down.{level}.first.first.0.bias"]) for level in range(levels))
        widths = self.widths

        self.input = x = self._buffer(rows, action_dim + mask)
        beside: dict[int, View] = {}  # level: what the way up reads there, [x | skip]
        for level, width in enumerate(widths):
            n = rows >> level
            last = level == levels - 1
            if level:
                beside[level] = self._buffer(n, 2 * width)
            skip = beside[level].half(True) if level else self._buffer(n, width)
            x = self._block(f"down.{level}.first", x, self._buffer(n, width))
            x = self._block(f"down.{level}.second", x, skip)
            if not last:
                halved = self._buffer(n // 2, width)
                self._convolution(f"down.{level}.resample", x, halved, step=2, before=1)
                x = halved
        n = rows >> (levels - 1)
        x = self._block("middle.0", x, self._buffer(n, widths[-1]))
        end = beside[levels - 1].half(False) if levels > 1 else self._buffer(n, widths[-1])
        x = self._block("middle.1", x, end)
        for i, level in enumerate(range(levels - 1, 0, -1)):
            n, width = rows >> level, widths[level - 1]
            x = self._block(f"up.{i}.first", beside[level], self._buffer(n, width))
            x = self._block(f"up.{i}.second", x, self._buffer(n, width))
            doubled = beside[level - 1].half(False) if level > 1 else self._buffer(2 * n, width)
            self._double(f"up.{i}.resample", x, doubled)
            x = doubled
        hidden = self._buffer(rows, widths[0])
        self._norm_convolution("head.0", x, hidden)
        self.output = self._buffer(rows, action_dim)
        self._convolution("head.1", hidden, self.output)
        self.parameters = self._parameters.joined()
        self.bytes: NDArray[np.int8] = np.concatenate([np.zeros(0, np.int8), *self._bytes])

    # --- blocks -----------------------------------------------------------------------------------------

    def _block(self, name: str, x: View, out: View) -> View:
        """A `FilmResidualBlock`."""
        hidden = self._buffer(x.rows, out.channels)
        self._norm_convolution(f"{name}.first", x, hidden, film=self.film)
        self.film += 2 * out.channels
        self._norm_convolution(f"{name}.second", hidden, out)
        operation = self.operations[-1]
        operation.added, operation.added_stride = x.at, x.stride
        if f"{name}.shortcut.weight" in self._weights:
            operation.added_cin = x.channels
            packed = self._packed(self._weights[f"{name}.shortcut.weight"])
            operation.added_weights, operation.added_scales = packed.at, packed.scales
            operation.added_kind = packed.kind
            operation.added_bias = self._padded(self._weights[f"{name}.shortcut.bias"])
        return out

    def _norm_convolution(self, name: str, x: View, out: View, film: int = -1) -> None:
        """A `ConvNormMish`, modulated where `film` is given."""
        self._convolution(f"{name}.0", x, out, before=self._kernel_size // 2)
        operation = self.operations[-1]
        operation.groups, operation.film, operation.borders = self._groups, film, 1
        operation.gamma = self._padded(self._weights[f"{name}.1.weight"])
        operation.beta = self._padded(self._weights[f"{name}.1.bias"])

    def _convolution(self, name: str, x: View, out: View, *, step: int = 1, before: int = 0) -> None:
        """Taps from `before` rows before the one that belongs to an output."""
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        self._append(weight, bias, x, out, first=-before, step=step)

    def _double(self, name: str, x: View, out: View) -> None:
        """`ConvTranspose1d` with kernel 4, stride 2, padding 1: row 2t sees t - 1 and t, the next t and t + 1."""
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        taps = weight.transpose(1, 0, 2)  # (cout, cin, 4)
        even = replace(out, stride=2 * out.stride, rows=x.rows)
        self._append(taps[..., [3, 1]], bias, x, even, first=-1, step=1)
        self.operations[-1].joins = 1
        self._append(taps[..., [2, 0]], bias, x, replace(even, at=out.at + out.stride), first=0, step=1)

    def _append(self, weight: Floats, bias: Floats, x: View, out: View, *, first: int, step: int) -> None:
        cout, cin, taps = weight.shape
        if (cin, cout) != (x.channels, out.channels):
            raise ValueError(
                f"a convolution from {cin} to {cout} channels where {x.channels} to {out.channels} fit"
            )
        packed = self._packed(weight)
        self.operations.append(
            Convolution(
                input=x.at + first * x.stride,
                input_stride=x.stride,
                output=out.at,
                output_stride=out.stride,
                weights=packed.at,
                scales=packed.scales,
                kind=packed.kind,
                added_scales=-1,
                added_kind=FLOATS,
                bias=self._padded(bias),
                gamma=-1,
                beta=-1,
                film=-1,
                added=-1,
                added_weights=-1,
                added_bias=-1,
                cin=cin,
                cout=cout,
                taps=taps,
                step=step,
                rows=out.rows,
            )
        )

    # --- memory -----------------------------------------------------------------------------------------

    def _buffer(self, rows: int, channels: int) -> View:
        view = View(self.sample_floats + self._pad * channels, channels, rows, channels)
        self.sample_floats += (rows + 2 * self._pad) * channels
        return view

    def _packed(self, weight: Floats) -> Packed:
        """Weights (cout, cin, taps) in blocks of outputs: (cin, taps, BLOCK), narrow ones (cin / n, taps, BLOCK, n)."""
        if self._kind != FLOATS and min(weight.shape[:2]) >= BLOCK:
            return self._narrow(weight)
        _, cin, taps = weight.shape
        blocks = in_blocks(weight).reshape(-1, BLOCK, cin, taps)
        return Packed(FLOATS, self._parameters.store(blocks.transpose(0, 2, 3, 1)))

    def _narrow(self, weight: Floats) -> Packed:
        cout, cin, taps = weight.shape
        scales = np.maximum(np.abs(weight).max(axis=(1, 2)), 1e-20) / 127
        if self._kind == BFLOATS:
            values: NDArray[np.int8] | NDArray[np.uint16] = bfloat16(weight)
        else:
            values = np.rint(weight / scales[:, None, None]).astype(np.int8)
        n = _AT_ONCE[self._kind]
        padded = np.zeros((-(-cout // BLOCK) * BLOCK, -(-cin // n) * n, taps), values.dtype)
        padded[:cout, :cin] = values
        packed = np.ascontiguousarray(
            padded.reshape(-1, BLOCK, padded.shape[1] // n, n, taps).transpose(0, 2, 4, 1, 3)
        )
        at = self._n_bytes
        self._bytes.append(packed.view(np.int8).reshape(-1))
        self._n_bytes += packed.nbytes
        if self._kind == BFLOATS:
            return Packed(self._kind, at)
        place = self._padded(scales)
        if self._kind == BYTES_BYTES:
            self._padded(scales * values.sum(axis=(1, 2), dtype=np.int64))
        return Packed(self._kind, at, place)

    def _padded(self, values: Floats) -> int:
        """Place of a value for each output, zeros behind them up to whole blocks."""
        return self._parameters.store(in_blocks(values))


def bfloat16(values: Floats) -> NDArray[np.uint16]:
    """The upper halves of float32, to the nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(
        np.uint16
    )
