"""The engine: one thread in which all models write, each its answers of the moment at once.

It knows models and jobs, no HTTP. Every job keeps the model that it was made for, so a new model can be put into
service while answers are still being written by the old one.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType

from llm_core.serving.jobs import Answer, Event, Job, Writer

logger = logging.getLogger(__name__)

MAX_OPEN = 48
"""Answers that run or wait: half as many more than run together by default, so that waiting at most adds half of the
time that an answer takes. Whoever comes later is better served by another server, or a moment later."""


class EngineUnavailable(RuntimeError):
    """The engine takes no request now; asking again later may help."""


class Draining(EngineUnavailable):
    """The server is about to end."""


class Busy(EngineUnavailable):
    """More requests wait than the queue holds."""


class Engine:
    """Writes answers in a thread of its own; use it as a context."""

    def __init__(self, max_open: int = MAX_OPEN) -> None:
        self._max_open = max_open
        self._arrived: deque[Answer] = deque()
        self._busy: list[Writer] = []
        """The models with open answers."""
        self._num_open = self._num_waiting = 0
        self._spare: list[Answer] = []
        """Those of the open answers that nobody waits for."""
        self._leaving: list[Answer] = []
        """Those of them that were cancelled: the next step takes them out."""
        self._changed = threading.Condition()
        self._is_draining = self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def __enter__(self) -> Engine:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def num_open(self) -> int:
        """Answers being written or waiting, those in spare time aside."""
        return self._num_open

    @property
    def num_waiting(self) -> int:
        """Answers that have not begun."""
        return self._num_waiting

    @property
    def is_draining(self) -> bool:
        """Whether new requests are refused because the server is about to end."""
        return self._is_draining

    def drain(self) -> None:
        """Take no new requests; those accepted go on. Safe to call from a signal handler: it takes no lock."""
        self._is_draining = True

    @property
    def max_open(self) -> int:
        """Answers that may be open at once."""
        return self._max_open

    def check_room(self) -> None:
        """Raises Busy or Draining when no further job can be taken now."""
        if self._is_draining or self._is_closed:
            raise Draining("the server is shutting down; ask again when it is back")
        if self._num_open >= self._max_open:
            raise Busy(f"{self._num_open} answers are being written or wait already; ask again in a moment")

    def submit(self, job: Job, emit: Callable[[Event], None], in_spare_time: bool = False) -> Answer:
        """Queue a job; `emit` is called in the engine's thread, with Finish or Failure last.

        What is written in spare time takes nobody's place, and is cancelled as soon as somebody else asks; what is
        only read is over within a step or two, and stays.
        Raises ContextExceeded for a prompt that is too long, Busy or Draining when it cannot be taken now.
        """
        answer = Answer(job, emit, self._wake)
        with self._changed:
            self.check_room()
            self._arrived.append(answer)
            if in_spare_time:
                self._spare.append(answer)
            else:
                self._num_open += 1
                self._num_waiting += 1
                self._make_way()
            self._changed.notify()
        return answer

    def cancel(self, answer: Answer) -> None:
        """Stop an answer before its next token, without further events; cancelling a finished one changes nothing."""
        with self._changed:
            answer.is_cancelled = True
            self._changed.notify()

    def close(self) -> None:
        """End the thread; answers that are not complete fail."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _make_way(self) -> None:
        for answer in self._spare:
            answer.is_cancelled = answer.is_cancelled or answer.limit > 0

    def _work(self) -> None:
        while not self._is_closed:
            self._wait_for_work()
            self._step_all()
            self._count()
        self._admit()
        for model in self._busy:
            model.runner.fail_all("the server was shut down before the answer was complete", is_shutdown=True)
        self._count()

    def _wait_for_work(self) -> None:
        with self._changed:
            self._changed.wait_for(self._has_work)
            self._admit()

    def _has_work(self) -> bool:
        return self._is_closed or bool(self._arrived) or any(not model.runner.is_idle for model in self._busy)

    def _wake(self) -> None:
        """Look again whether there is work; called in any thread."""
        with self._changed:
            self._changed.notify()

    def _admit(self) -> None:
        """Give each new answer to its model."""
        while self._arrived:
            answer = self._arrived.popleft()
            model = answer.job.model
            if not any(model is busy for busy in self._busy):
                self._busy.append(model)
            model.runner.add(answer)

    def _step_all(self) -> None:
        # Of its own, so that no name in the loop holds a model that has been replaced.
        for model in self._busy:
            if not self._is_closed:
                self._step(model)

    def _step(self, model: Writer) -> None:
        try:
            with model.runner.counts.step():
                model.runner.step()
        except Exception as problem:  # the boundary between models: one that fails must not end the others
            logger.exception("%s: a step failed", model.name)
            model.runner.fail_all(f"the answer could not be finished ({type(problem).__name__}: {problem})")

    def _count(self) -> None:
        with self._changed:
            runners = [model.runner for model in self._busy]
            gone = [answer for answer in self._spare if answer.times.ended or answer in self._leaving]
            self._spare = [answer for answer in self._spare if answer not in gone]
            self._leaving = [answer for answer in self._spare if answer.is_cancelled]
            self._num_waiting = len(self._arrived) + sum(runner.num_waiting for runner in runners)
            num_running = sum(runner.num_running for runner in runners)
            self._num_open = max(self._num_waiting + num_running - len(self._spare), 0)
            self._busy = [model for model in self._busy if model.runner.num_running + model.runner.num_waiting]
            if not (self._busy or self._arrived):
                self._spare, self._leaving = [], []  # they would hold a model that has gone
