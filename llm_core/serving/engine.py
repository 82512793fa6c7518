"""The engine: one thread decodes all requests, a token of each in turn, so that short answers never wait for long ones.

It knows models and jobs, no HTTP. Every job keeps the model that it was made for, so a new model can be put into
service while answers are still being written by the old one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from llm_core.generate import Sampling, Token, decode, room_for_answer
from llm_core.generate.stop import StopStrings
from llm_core.serving.loaded import LoadedModel
from llm_core.tokenizer import StreamDecoder

logger = logging.getLogger(__name__)

MAX_RUNNING = 32
MAX_WAITING = 256


class EngineUnavailable(RuntimeError):
    """The engine takes no request now; asking again later may help."""


class Draining(EngineUnavailable):
    """The server is about to end."""


class Busy(EngineUnavailable):
    """More requests wait than the queue holds."""


@dataclass(frozen=True)
class Job:
    """One answer to be written: a prompt in ids, and how to continue it."""

    model: LoadedModel
    ids: tuple[int, ...]
    max_tokens: int | None
    """None writes until the end of the context."""
    sampling: Sampling
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    num_top: int = 0
    """Likeliest alternatives to tell with each token."""


@dataclass(frozen=True)
class Piece:
    """Text that can be shown, and the tokens that it took."""

    text: str
    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class Finish:
    """The last event of an answer."""

    reason: Literal["stop", "length"]
    num_tokens: int


@dataclass(frozen=True)
class Failure:
    """The last event of an answer that could not be finished."""

    message: str
    is_shutdown: bool = False
    """Whether asking again later, or another server, will help."""


Event = Piece | Finish | Failure


class Answer:
    """An answer being written; `step` writes one token and reports it to `emit`."""

    def __init__(self, job: Job, emit: Callable[[Event], None]) -> None:
        self._job, self._emit = job, emit
        room = room_for_answer(job.model.network, job.ids)
        limit = room if job.max_tokens is None else job.max_tokens
        self._tokens = decode(job.model.network, job.ids, max_tokens=limit, sampling=job.sampling, num_top=job.num_top)
        self._text = StreamDecoder(job.model.tokenizer)
        self._stop = StopStrings(job.stop)
        self._unreported: list[Token] = []
        self._num_tokens = 0
        self.is_cancelled = False

    def step(self) -> bool:
        """Write one token; False when the answer is complete."""
        token = next(self._tokens, None)
        if token is None:
            return self._finish("length")
        if token.id in self._job.stop_ids:
            return self._finish("stop")
        self._num_tokens += 1
        self._unreported.append(token)
        self._report(self._stop.feed(self._text.push(token.id)))
        return not self._stop.is_hit or self._finish("stop")

    def fail(self, message: str, is_shutdown: bool = False) -> None:
        """End with an error."""
        self._emit(Failure(message, is_shutdown))

    def _report(self, text: str) -> None:
        if text:
            tokens, self._unreported = tuple(self._unreported), []
            self._emit(Piece(text, tokens))

    def _finish(self, reason: Literal["stop", "length"]) -> bool:
        self._report(self._stop.feed(self._text.finish()) + self._stop.flush())
        if self._unreported:  # tokens whose text a stop string cut off still count in the log-probabilities
            self._emit(Piece("", tuple(self._unreported)))
        self._emit(Finish("stop" if self._stop.is_hit else reason, self._num_tokens))
        return False


class Engine:
    """Writes answers in a thread of its own; use it as a context, or `start` and `close` it."""

    def __init__(self, max_running: int = MAX_RUNNING, max_waiting: int = MAX_WAITING) -> None:
        self._max_running, self._max_waiting = max_running, max_waiting
        self._running: list[Answer] = []
        self._waiting: deque[Answer] = deque()
        self._changed = threading.Condition()
        self._is_draining = self._is_closed = False
        self._current: LoadedModel | None = None
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def __enter__(self) -> Engine:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def current(self) -> LoadedModel | None:
        """The model that new requests get."""
        return self._current

    def install(self, model: LoadedModel) -> None:
        """Give new requests this model; running ones finish on theirs."""
        self._current = model

    @property
    def num_open(self) -> int:
        """Answers being written or waiting."""
        with self._changed:
            return len(self._running) + len(self._waiting)

    @property
    def is_draining(self) -> bool:
        """Whether new requests are refused because the server is about to end."""
        return self._is_draining

    def drain(self) -> None:
        """Take no new requests; those accepted go on. Safe to call from a signal handler: it takes no lock."""
        self._is_draining = True

    def submit(self, job: Job, emit: Callable[[Event], None]) -> Answer:
        """Queue a job; `emit` is called in the engine's thread, with Finish or Failure last.

        Raises ContextExceeded for a prompt that is too long, Busy or Draining when it cannot be taken now.
        """
        answer = Answer(job, emit)
        with self._changed:
            if self._is_draining or self._is_closed:
                raise Draining("the server is shutting down; ask again when it is back")
            if len(self._waiting) >= self._max_waiting:
                raise Busy(f"{self._max_waiting} requests are waiting already; ask again in a moment")
            self._waiting.append(answer)
            self._changed.notify()
        return answer

    def cancel(self, answer: Answer) -> None:
        """Stop an answer before its next token, without further events; cancelling a finished one changes nothing."""
        with self._changed:
            answer.is_cancelled = True
            if answer in self._waiting:
                self._waiting.remove(answer)

    def close(self) -> None:
        """End the thread; answers that are not complete fail."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while turn := self._next_turn():
            for answer in turn:
                if self._is_closed:
                    break
                if answer.is_cancelled or not self._advance(answer):
                    with self._changed:
                        self._running.remove(answer)
        for answer in (*self._running, *self._waiting):
            answer.fail("the server was shut down before the answer was complete", is_shutdown=True)

    def _next_turn(self) -> tuple[Answer, ...]:
        """The answers that get a token each, waiting until there are any; none when the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._running or self._waiting or self._is_closed)
            while self._waiting and len(self._running) < self._max_running:
                self._running.append(self._waiting.popleft())
            return () if self._is_closed else tuple(self._running)

    def _advance(self, answer: Answer) -> bool:
        try:
            return answer.step()
        except Exception as problem:  # the boundary between requests: one that fails must not end the others
            logger.exception("an answer failed")
            answer.fail(f"the answer could not be finished ({type(problem).__name__}: {problem})")
            return False


class Answers:
    """The answers to one request as an asynchronous stream of (number of the job, event), cancelled when left."""

    def __init__(self, engine: Engine, jobs: Sequence[Job]) -> None:
        self._engine = engine
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, Answer] = {}
        try:
            for number, job in enumerate(jobs):
                self._open[number] = engine.submit(job, self._reporter(number))
        except (ValueError, EngineUnavailable):
            self.cancel()
            raise

    async def events(self) -> AsyncGenerator[tuple[int, Event]]:
        """All events as they come, until every answer is complete."""
        try:
            while self._open:
                number, event = await self._events.get()
                if not isinstance(event, Piece):
                    del self._open[number]
                yield number, event
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Stop every answer that is not complete."""
        for answer in self._open.values():
            self._engine.cancel(answer)
        self._open.clear()

    def _reporter(self, number: int) -> Callable[[Event], None]:
        def report(event: Event) -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._events.put_nowait, (number, event))

        return report
