"""Who does the parts of a data stage: this process, threads, processes of this machine, or a Dask cluster."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from llm_core.config import Workers

# Parts that wait for each worker: enough that none is idle, few enough that results do not pile up.
WAITING_PER_WORKER = 2
PARENT_SECONDS = 1.0
CLUSTER_SECONDS = 10.0

Work = TypeVar("Work")
Result = TypeVar("Result")


class ClusterError(ValueError):
    """A Dask cluster that cannot be used; the message names the address and what to do."""


class Pool(Protocol):
    """Applies a function to each piece of work and yields the results in order, with bounded look-ahead."""

    def map(self, function: Callable[[Work], Result], work: Sequence[Work]) -> Iterator[Result]:
        """Results in the order of `work`; the first error ends it."""


class Serial:
    """One piece after the other, in this process."""

    def map(self, function: Callable[[Work], Result], work: Sequence[Work]) -> Iterator[Result]:
        return map(function, work)


class Futures:
    """Pieces go to an executor whose ``submit`` gives futures: threads, processes, or a Dask client."""

    def __init__(self, executor: Any, count: int) -> None:
        self._executor, self._count = executor, count

    def map(self, function: Callable[[Work], Result], work: Sequence[Work]) -> Iterator[Result]:
        waiting: deque[Any] = deque()
        try:
            for piece in work:
                if len(waiting) >= self._count * WAITING_PER_WORKER:
                    yield waiting.popleft().result()
                waiting.append(self._executor.submit(function, piece))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@contextlib.contextmanager
def open_pool(cfg: Workers, num_parts: int) -> Iterator[Pool]:
    """The pool that the recipe asks for; never more workers than parts, and none besides this process for one part.

    Raises ClusterError when the Dask scheduler does not answer.
    """
    if cfg.kind == "dask":
        with _dask(cfg.address) as pool:
            yield pool
        return
    count = min(cfg.count or available_cores(), num_parts)
    if cfg.kind == "serial" or count <= 1:
        yield Serial()
        return
    executor: Executor
    if cfg.kind == "threads":
        executor = ThreadPoolExecutor(count)
    else:
        # A fork of a process with threads (Prefect's, MLflow's) may hang; a spawned one starts clean.
        context = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(count, context, initializer=_end_with, initargs=(os.getpid(),))
    try:
        yield Futures(executor, count)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _dask(address: str) -> Iterator[Pool]:
    try:
        from distributed import Client
    except ImportError:
        raise ClusterError("workers.kind dask needs Dask: pip install 'tidemill[dask]'") from None
    try:
        client = Client(address, timeout=CLUSTER_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as problem:
        raise ClusterError(f"workers.address {address}: no Dask scheduler answers ({problem}); start one") from None
    with client:
        count = sum(client.nthreads().values())
        if not count:
            raise ClusterError(f"workers.address {address}: the cluster has no workers; start some with: dask worker")
        yield Futures(_Impure(client), count)


class _Impure:
    """A Dask client that does each piece anew: finding done work again is the memo's task, not the cluster's."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def submit(self, function: Callable[[Work], Result], piece: Work) -> Any:
        return self._client.submit(function, piece, pure=False)


def _end_with(parent: int) -> None:
    """End this worker when its parent is gone: a killed parent cannot tell it to."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
