"""The engine's events in an asyncio server: one wake-up of its loop for all that happened meanwhile."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from weakref import WeakKeyDictionary

from llm_core.serving.engine import Engine, EngineUnavailable
from llm_core.serving.jobs import Answer, Event, Failure, Finish, Job


class Outbox:
    """Hands events from the engine's thread to a loop; while the loop is busy they gather."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._gathered: deque[tuple[asyncio.Queue[tuple[int, Event]], int, Event]] = deque()
        self._is_woken = False

    def put(self, to: asyncio.Queue[tuple[int, Event]], number: int, event: Event) -> None:
        """Called in the engine's thread."""
        self._gathered.append((to, number, event))
        if not self._is_woken and not self._loop.is_closed():
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_woken = False  # before the last look: what comes from now on wakes the loop again
        while self._gathered:
            to, number, event = self._gathered.popleft()
            to.put_nowait((number, event))


Ended = Callable[[Answer, str], None]
"""Told of each answer that ended, and why: stop, length, abort (its client left) or error."""

_outboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, Outbox] = WeakKeyDictionary()


def outbox() -> Outbox:
    """The running loop's own."""
    loop = asyncio.get_running_loop()
    return _outboxes.setdefault(loop, Outbox(loop))


class Answers:
    """The answers to one request as an asynchronous stream of (number of the job, event), cancelled when left."""

    def __init__(
        self,
        engine: Engine,
        jobs: Sequence[Job],
        ended: Ended = lambda answer, reason: None,
        most_seconds: float | None = None,
    ) -> None:
        self._engine, self._ended = engine, ended
        self._most_seconds = most_seconds
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._outbox = outbox()
        self._open: dict[int, Answer] = {}
        self._alarm: asyncio.TimerHandle | None = None
        try:
            for number, job in enumerate(jobs):
                self._open[number] = engine.submit(job, self._reporter(number))
        except (ValueError, EngineUnavailable):
            self.cancel()
            raise
        if most_seconds is not None:
            self._alarm = asyncio.get_running_loop().call_later(most_seconds, self._expire)

    async def events(self) -> AsyncGenerator[tuple[int, Event]]:
        """All events as they come, until every answer is complete."""
        try:
            while self._open:
                number, event = await self._events.get()
                if isinstance(event, Finish | Failure):
                    self._ended(self._open.pop(number), event.reason if isinstance(event, Finish) else "error")
                yield number, event
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Stop every answer that is not complete."""
        if self._alarm is not None:
            self._alarm.cancel()
        for answer in self._open.values():
            self._engine.cancel(answer)
            self._ended(answer, "abort")
        self._open.clear()

    def _expire(self) -> None:
        """End answers that take longer than a request may."""
        late = Failure(f"the answer took longer than {self._most_seconds:g} s, the most here; ask for less", "timeout")
        for number, answer in self._open.items():
            self._engine.cancel(answer)
            self._events.put_nowait((number, late))

    def _reporter(self, number: int) -> Callable[[Event], None]:
        return lambda event: self._outbox.put(self._events, number, event)
