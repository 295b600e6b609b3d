"""Work in several processes, each of which loads once what all its items need.

The processes are begun afresh (spawn), for a fork of one that has threads of torch or ROS may hang. Easy to get wrong:
Ctrl-C at a terminal reaches every process there; these ignore it, and end when the one that started them stops taking
results, or is gone: a killed one cannot tell them, so each of them watches it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, TypeVar

Loaded = TypeVar("Loaded")
Item = TypeVar("Item")
Result = TypeVar("Result")

_loaded: Any = None


def follow_parent() -> None:
    """In a process of a pool: ignore Ctrl-C, which is for the process that started it, and end when that is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def map_in_processes(
    load: Callable[[], Loaded], work: Callable[[Loaded, Item], Result], items: Iterable[Item], processes: int
) -> Generator[Result, None, None]:
    """Results of `work` on the items, in their order, as they come; closed early, it gives up what is left.

    Args:
        load: called once in each process.
        work: gets what was loaded, and an item. Like `load`, items and results, it travels between processes.
        items: one at a time for each process.
        processes: how many.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _begin, (load,)) as pool:
        try:
            yield from pool.map(partial(_run, work), items)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def map_loaded(
    load: Callable[[], Loaded], work: Callable[[Loaded, Item], Result], items: Iterable[Item], processes: int
) -> Generator[Result, None, None]:
    """`map_in_processes`, but with 1 no process is started: this one loads and works."""
    if processes > 1:
        yield from map_in_processes(load, work, items, processes)
        return
    loaded = load()
    for item in items:
        yield work(loaded, item)


def _begin(load: Callable[[], Any]) -> None:
    global _loaded
    follow_parent()
    _loaded = load()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(work: Callable[[Any, Item], Result], item: Item) -> Result:
    return work(_loaded, item)
