"""Fetches the batches of the steps to come in a thread, while the step at hand is computed.

What is fetched for a step depends on the step alone, so it does not matter whether a thread was ahead, nor by how
much, nor where a run was resumed. Easy to get wrong: for batches of a few kilobytes the thread costs more than it
saves, because both take turns at the interpreter; then fetch in place, with `depth` 0.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Fetched = TypeVar("Fetched")


class Prefetch(Generic[Fetched]):
    """Gives `fetch(step)` for one step after the other; used in a `with` statement.

    Args:
        fetch: a pure function of the step; called by one thread at a time.
        depth: steps to be ahead; 0: fetch when asked.
        steps: number of steps there are, beyond which nothing is fetched ahead.
    """

    def __init__(self, fetch: Callable[[int], Fetched], depth: int, steps: int) -> None:
        self._fetch, self._depth, self._steps = fetch, depth, steps
        self._ahead: deque[tuple[int, Future[Fetched]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch") if depth else None

    def __enter__(self) -> Prefetch[Fetched]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def at(self, step: int) -> Fetched:
        """`fetch(step)`; raises what it raised."""
        if self._thread is None:
            return self._fetch(step)
        if self._ahead and self._ahead[0][0] != step:  # a jump: what is ahead is for other steps
            for _, future in self._ahead:
                future.cancel()
            self._ahead.clear()
        while len(self._ahead) <= self._depth:
            following = step + len(self._ahead)
            if self._ahead and following >= self._steps:
                break
            self._ahead.append((following, self._thread.submit(self._fetch, following)))
        return self._ahead.popleft()[1].result()
