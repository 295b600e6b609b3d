"""The processes that train one policy together, and the device of this one.

    accelerate launch --multi_gpu --num_processes 2 -m dp_ros.cli.main train --task ... --data ...

One process alone needs nothing of this; several come from `accelerate launch` (or torchrun), on one machine or on more.
`--multi_gpu` belongs there also where training.device is cpu: with `--cpu` the launcher starts one process without a
word. Each takes its part of every batch and their gradients are averaged, so that all hold the same weights at every
step. Easy to get wrong: what one process decides alone (to stop, to refuse) leaves the others waiting for ever, so
decisions go through `any` and `on_main`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from dp_ros.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """This process among those that train together.

    Attributes:
        device: where this one computes.
        rank: which one it is, from 0.
        count: how many there are.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    def __str__(self) -> str:
        return str(self.device) if self.count == 1 else f"{self.count} processes ({self.device.type})"

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes, prints and evaluates."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; waits for all of them."""
        if self.count == 1:
            return flag
        total = torch.tensor(float(flag), device=self.device)
        torch.distributed.all_reduce(total)
        return total.item() > 0

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        flat /= self.count
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.detach().copy_(part.view_as(tensor))

    def on_main(self, action: Callable[[], T]) -> T:
        """Do something in the main process only; all get its result, or its UserError."""
        if self.count == 1:
            return action()
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = action()
            except UserError as error:
                outcome[1] = str(error)
        torch.distributed.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise UserError(outcome[1])
        return outcome[0]  # type: ignore[no-any-return]


@contextmanager
def join_workers(device: str) -> Iterator[Workers]:
    """Find out which process of how many this is, and take a device.

    Args:
        device: cpu, cuda, cuda:1 or mps. Of several processes on cuda each takes a GPU of its own.

    Raises:
        UserError: if there is no such device here.
    """
    _require_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Workers(torch.device(device))
        return
    if ":" in device or device == "mps":
        raise UserError(
            f"training.device={device}: several processes cannot share it; give cuda, of which each takes one, or cpu"
        )
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    try:
        yield Workers(state.device, state.process_index, state.num_processes)
    finally:
        state.destroy_process_group()


def _require_device(device: str) -> None:
    kind, _, index = device.partition(":")
    if kind == "cuda":
        count = torch.cuda.device_count()
        if count == 0:
            raise UserError(
                f"training.device={device}: this PyTorch ({torch.__version__}) finds no CUDA device here; "
                "give training.device=cpu, or install a CUDA build of PyTorch"
            )
        if index and int(index) >= count:
            raise UserError(
                f"training.device={device}: there are {count} CUDA devices, cuda:0 to cuda:{count - 1}"
            )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("training.device=mps: PyTorch finds no Apple GPU here; give training.device=cpu")
