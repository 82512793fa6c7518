"""Answers that another engine writes: its tokens go through the same hands as ours, in the engine's thread.

The supervisor's thread asks the program over HTTP and puts what comes beside the answer; a step takes it in.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass, field

import httpx

from llm_core.generate import Token
from llm_core.serving.backends.process import Supervisor
from llm_core.serving.backends.program import BackendError, Program, Request
from llm_core.serving.counts import Counts
from llm_core.serving.jobs import Answer


@dataclass(frozen=True)
class Prompt:
    """The prompt's log-probabilities."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class End:
    """The program wrote all it was asked for."""


@dataclass(frozen=True)
class Broken:
    """The answer cannot be finished."""

    message: str
    is_temporary: bool


News = Token | Prompt | End | Broken


@dataclass(frozen=True)
class Mailbox:
    """What has come for an answer: filled in one thread and emptied in another. It knows nothing of the answer."""

    wake: Callable[[], None]
    news: deque[News] = field(default_factory=deque)

    def tell(self, news: News) -> None:
        """Called in the supervisor's thread."""
        self.news.append(news)
        self.wake()


class Writing:
    """An answer that the program writes."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.mailbox = answer, Mailbox(answer.wake)
        self.asking: Future[None] | None = None

    def stop_asking(self) -> None:
        """Close the connection, by which the program learns that nobody reads on."""
        if self.asking is not None:
            self.asking.cancel()


class BackendRunner:
    """All answers of one model version, whose program ends when nobody holds this any more."""

    cache_usage = 0.0
    can_constrain = False
    num_bytes = 0
    """Of this process; the program has memory of its own."""

    def __init__(self, program: Program, start_seconds: float) -> None:
        """Start the program; raises BackendError where it does not get well."""
        self.counts = Counts(is_elsewhere=True)
        self._program, self._max_running = program, program.max_running
        self._supervisor = Supervisor(program, start_seconds)
        self._running: list[Writing] = []
        self._waiting: deque[Writing] = deque()
        # Only begun here: this may be any thread, and the end of a program takes seconds.
        weakref.finalize(self, self._supervisor.stop).atexit = False
        self._supervisor.start()

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def trouble(self) -> str | None:
        """Why nothing can be answered now."""
        return self._supervisor.trouble

    @property
    def is_idle(self) -> bool:
        """Whether a step would find nothing to do until something comes from the program."""
        can_begin = self._waiting and len(self._running) < self._max_running
        is_left = any(writing.answer.is_cancelled for writing in (*self._running, *self._waiting))
        return not (can_begin or is_left or any(writing.mailbox.news for writing in self._running))

    def add(self, answer: Answer) -> None:
        """Take an answer in; it runs as soon as there is room."""
        self._waiting.append(Writing(answer))

    def step(self) -> None:
        """Take in what has come, and ask for answers that there is room for; never waits."""
        for writing in list(self._running):
            if writing.answer.is_cancelled or not self._take(writing):
                self._running.remove(writing)
                writing.stop_asking()
        self._waiting = deque(writing for writing in self._waiting if not writing.answer.is_cancelled)
        while self._waiting and len(self._running) < self._max_running:
            self._begin(self._waiting.popleft())
        self.counts.steps += 1

    def fail_all(self, message: str, is_shutdown: bool = False) -> None:
        """End every answer with an error."""
        for writing in [*self._running, *self._waiting]:
            writing.answer.fail(message, is_shutdown)
            writing.stop_asking()
        self._running, self._waiting = [], deque()

    def close(self) -> None:
        """End the program, and wait for it."""
        self._supervisor.stop()
        self._supervisor.join()

    def _begin(self, writing: Writing) -> None:
        writing.answer.begin()
        self.counts.prompt_tokens += len(writing.answer.job.ids)
        self._running.append(writing)
        asking = _ask(self._program, self._supervisor, Request.of(writing.answer), writing.mailbox)
        writing.asking = self._supervisor.submit(asking)

    def _take(self, writing: Writing) -> bool:
        """Give the answer what has come; False when it is complete."""
        news = writing.mailbox.news
        while news:
            if not self._give(writing.answer, news.popleft()):
                return False
        return True

    def _give(self, answer: Answer, news: News) -> bool:
        match news:
            case Token():
                self.counts.written_tokens += 1
                return answer.take(news)
            case Prompt(tokens):
                answer.tell_prompt(tokens)
                return True
            case End():
                return answer.finish("length")
            case Broken(message, is_temporary):
                answer.fail(self._named(message), is_temporary=is_temporary)
                return False

    def _named(self, message: str) -> str:
        return f"the answer could not be finished ({self._program.name}: {message})"


async def _ask(program: Program, supervisor: Supervisor, request: Request, mailbox: Mailbox) -> None:
    """Have an answer written; whatever happens is news."""
    try:
        client = supervisor.client
        if request.tells_prompt:
            async with aclosing(program.read(client, request)) as tokens:
                mailbox.tell(Prompt(tuple([token async for token in tokens])))
        if request.limit:
            async with aclosing(program.write(client, request)) as tokens:
                async for token in tokens:
                    mailbox.tell(token)
        mailbox.tell(End())
    except httpx.HTTPError as problem:
        mailbox.tell(Broken(await supervisor.reason(problem, client), is_temporary=True))
    except BackendError as problem:
        mailbox.tell(Broken(str(problem), is_temporary=supervisor.trouble is not None))
    except Exception as problem:  # the boundary between the threads: nobody else would notice
        mailbox.tell(Broken(f"{type(problem).__name__}: {problem}", is_temporary=False))
