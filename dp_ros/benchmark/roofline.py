"""How fast a machine could run a network at best: its operations and bytes against the machine's measured limits.

The roofline model (Williams, Waterman and Patterson, Communications of the ACM 52(4), 2009): a computation takes at
least the longer of operations / peak rate and bytes / bandwidth. Peak rate is that of a large matrix product,
bandwidth that of reading a buffer as large as the network's weights, which a denoising step reads once; so a network
that stays in a cache is held against that cache. Easy to get wrong: with batch 1 the activations of a chunk are small
beside the weights, and are left out; the limit is then a little too good, and the share of it that is reached too low.
Bytes are those that an engine reads (`WEIGHT_BYTES`); the peak rate is that of float32 for all of them, so that one
which computes with narrower numbers may pass the limit where that is computing and not reading.
"""

from __future__ import annotations

import contextlib
import mmap
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dp_ros.inference.native.layout import BLOCK
from dp_ros.policies.diffusion import DiffusionPolicy

#: Bytes of a weight of a convolution, by engine where they are not those of float32.
WEIGHT_BYTES = {"native_int8": 1, "native_w8a8": 1, "native_bf16": 2}
_MATRIX = 1024
_SMALLEST_BUFFER = 1 << 16
_MEASURE_S = 0.5


@dataclass(frozen=True)
class Work:
    """What one call of a policy costs.

    Attributes:
        step_flops: floating-point operations of a denoising step, a product and a sum counted as two.
        step_bytes: weights that a denoising step reads.
        once_flops: operations that are made once a call: encoding what was observed, its share of the modulation.
        once_bytes: weights that these read.
        steps: denoising steps.
    """

    step_flops: float
    step_bytes: float
    once_flops: float
    once_bytes: float
    steps: int

    @property
    def flops(self) -> float:
        """Of the call."""
        return self.steps * self.step_flops + self.once_flops

    @property
    def bytes(self) -> float:
        """Of the call."""
        return self.steps * self.step_bytes + self.once_bytes


@dataclass(frozen=True)
class Limits:
    """What the machine can do with so many threads: operations and bytes a second."""

    flops_per_s: float
    bytes_per_s: float

    def seconds(self, work: Work) -> float:
        """Shortest time of a call."""

        def part(flops: float, size: float) -> float:
            return max(flops / self.flops_per_s, size / self.bytes_per_s)

        return work.steps * part(work.step_flops, work.step_bytes) + part(work.once_flops, work.once_bytes)


def work_of(policy: DiffusionPolicy, engine: str = "torch") -> Work:
    """Count what a call with batch 1 does and an engine reads meanwhile; the policy is run once on zeros."""
    task = policy.task
    observation = {
        key: torch.zeros(
            (1, task.n_obs_steps, *spec.shape), dtype=torch.uint8 if spec.is_image else torch.float32
        )
        for key, spec in task.observations.items()
    }
    actions = torch.zeros((1, *policy.trajectory_shape))
    level = torch.zeros(1, dtype=torch.int64)
    with torch.inference_mode():
        film = policy.unet.condition_of_step(level)

        def once() -> Any:
            return policy.unet.condition_of_observation(policy.encode(observation))

        film = film + once()
        touched: set[nn.Parameter] = set()
        hooks = [
            module.register_forward_hook(lambda m, *_: touched.update(m.parameters(recurse=False)))
            for module in policy.unet.modules()
        ]
        step_flops = _flops(lambda: policy.unet.denoise(actions, film))
        for hook in hooks:
            hook.remove()
        once_flops = _flops(once)
    step_bytes = sum(_bytes(p, engine) for p in touched)
    once_bytes = sum(_bytes(p, "torch") for p in set(policy.parameters()) - touched)
    return Work(step_flops, step_bytes, once_flops, once_bytes, policy.sampler.num_inference_steps)


def _bytes(parameter: nn.Parameter, engine: str) -> int:
    """Of a parameter as an engine keeps it; of rounded weights with a float32 scale for each output."""
    narrow = WEIGHT_BYTES.get(engine)
    if narrow is None or parameter.dim() != 3 or min(parameter.shape[:2]) < BLOCK:
        return parameter.numel() * parameter.element_size()
    return parameter.numel() * narrow + (4 * parameter.shape[0] if narrow == 1 else 0)


def limits_of_machine(buffer_bytes: float, threads: int) -> Limits:
    """Measure them with so many threads, the bandwidth on a buffer of this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b = torch.rand(_MATRIX, _MATRIX), torch.rand(_MATRIX, _MATRIX)
        c = torch.empty(_MATRIX, _MATRIX)
        flops_per_s = 2.0 * _MATRIX**3 / _shortest_s(lambda: torch.mm(a, b, out=c))
        columns = 1024
        rows = max(int(buffer_bytes), _SMALLEST_BUFFER) // (4 * columns)
        matrix, vector, out = _in_large_pages(rows, columns), torch.rand(columns), torch.empty(rows)
        # Of two ways to read it the faster one: the first from caches, the second from memory.
        ways = (lambda: torch.mv(matrix, vector, out=out), lambda: matrix.max())
        bytes_per_s = 4.0 * rows * columns / min(_shortest_s(way) for way in ways)
    finally:
        torch.set_num_threads(before)
    return Limits(flops_per_s, bytes_per_s)


def _in_large_pages(rows: int, columns: int) -> torch.Tensor:
    """Memory as fast as it gets: looking up pages of 4 KB costs up to half of the bandwidth."""
    memory = mmap.mmap(-1, 4 * rows * columns)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a wish
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).view(rows, columns).uniform_()


def _flops(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def _shortest_s(run: Callable[[], object]) -> float:
    """Shortest time of several runs: a limit is what the machine can do, not what it does on average."""
    run()
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < _MEASURE_S:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best
