"""A thread for the work of requests that the engine does not do, such as embeddings: bounded, and in turns.

All of it together takes one core beside the engine's, however many ask. Use it from one asyncio loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from llm_core.serving.engine import Busy, Draining

MAX_OPEN = 48
"""As many as the engine takes; whoever comes later is better served by another server, or a moment later."""

T = TypeVar("T")
Work = Generator[None, None, T]
"""Work that yields wherever others may take a turn, and returns its result. No torch mode may be held over a yield."""


class _Done(NamedTuple, Generic[T]):
    result: T


class Workers:
    """Does each request's work a step at a time, the steps of all in the order in which they were asked for."""

    def __init__(self, num_threads: int = 1, max_open: int = MAX_OPEN) -> None:
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="worker")
        self._max_open = max_open
        self._num_open = 0
        self._is_closed = False

    @property
    def num_open(self) -> int:
        """Requests that are worked on or wait."""
        return self._num_open

    async def run(self, work: Work[T]) -> T:
        """The work's result; cancelled, it ends behind the step under way.

        Raises Busy where too many are open, Draining where the server ends before it is done.
        """
        if self._num_open >= self._max_open:
            raise Busy(f"{self._num_open} requests are open already; ask again in a moment")
        self._num_open += 1
        try:
            while not self._is_closed:
                done = await asyncio.get_running_loop().run_in_executor(self._pool, _step, work)
                if done is not None:
                    return done.result
            raise Draining("the server was shut down before the answer was complete")
        finally:
            self._num_open -= 1

    def close(self) -> None:
        """Begin no further step; requests that are open fail."""
        self._is_closed = True


def _step(work: Work[T]) -> _Done[T] | None:
    try:
        next(work)
    except StopIteration as end:
        return _Done(end.value)
    return None
