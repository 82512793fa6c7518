"""What the engine is asked for, what it tells while it writes, and an answer in the middle of being written."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import nn

from llm_core.generate import Sampling, Token, room_for_answer
from llm_core.generate.stop import StopStrings, TextStream
from llm_core.serving.constraint import Constraint
from llm_core.serving.counts import Counts
from llm_core.serving.registry import RegisteredVersion


class Runner(Protocol):
    """Writes the answers of one model version, a step at a time, in the engine's thread."""

    counts: Counts
    can_constrain: bool
    """Whether answers can be held to a form."""

    @property
    def num_running(self) -> int: ...

    @property
    def num_waiting(self) -> int: ...

    @property
    def cache_usage(self) -> float:
        """Share of the key/value blocks in use, from 0 to 1."""

    @property
    def num_bytes(self) -> int:
        """Memory beside the network's own weights."""

    @property
    def is_idle(self) -> bool:
        """Whether a step would find nothing to do, as the open answers are written elsewhere; they wake the engine."""

    @property
    def trouble(self) -> str | None:
        """Why nothing can be answered now."""

    def add(self, answer: Answer) -> None:
        """Take an answer in; it runs as soon as there is room."""

    def step(self) -> None:
        """A token of each answer that runs, or a chunk of its prompt."""

    def fail_all(self, message: str, is_shutdown: bool = False) -> None:
        """End every answer with an error."""

    def close(self) -> None:
        """Let go of what the model holds outside of this process; nothing is asked of it any more."""


class Writer(Protocol):
    """What a job needs of its model."""

    @property
    def name(self) -> str:
        """LINE@VERSION."""

    @property
    def version(self) -> RegisteredVersion: ...

    @property
    def network(self) -> nn.Module: ...

    @property
    def runner(self) -> Runner: ...

    def new_text(self) -> TextStream:
        """What turns the ids of one answer into text."""


@dataclass(frozen=True)
class Job:
    """One answer to be written: a prompt in ids, and how to continue it."""

    model: Writer
    ids: tuple[int, ...]
    """Jobs of one request that share this very object wait for the first of them to read it."""
    max_tokens: int | None
    """None writes until the end of the context; 0 only reads."""
    sampling: Sampling
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    num_top: int = 0
    """Likeliest alternatives to tell with each token."""
    tells_logprobs: bool = True
    """Whether the tokens' log-probabilities are asked for; our own engine knows them anyway."""
    tells_prompt: bool = False
    """Whether the prompt's own log-probabilities are asked for."""
    keeps_stop: bool = False
    """Whether the stop string that ends the answer belongs to it."""
    constraint: Constraint | None = None
    """The form that the answer must have."""


@dataclass(frozen=True)
class Read:
    """The prompt with its log-probabilities, where they were asked for; the first token has none."""

    tokens: tuple[Token, ...]


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
    num_cached: int = 0
    """Tokens of the prompt that were in memory already."""


@dataclass(frozen=True)
class Failure:
    """The last event of an answer that could not be finished."""

    message: str
    kind: Literal["error", "shutdown", "timeout", "restart"] = "error"
    """After a shutdown, or while the engine's program is started again, asking later or another server will help."""


Event = Read | Piece | Finish | Failure


@dataclass
class Times:
    """When things happened to an answer, in seconds of the monotonic clock; 0 for not yet."""

    asked: float = 0.0
    begun: float = 0.0
    first_token: float = 0.0
    ended: float = 0.0
    worked_before: float = 0.0
    """Seconds that its model had worked in all when it was asked, and so on: other models' turns do not count."""
    worked_first_token: float = 0.0
    worked_ended: float = 0.0


class Answer:
    """An answer being written: takes tokens, gives text, knows when it is complete."""

    def __init__(self, job: Job, emit: Callable[[Event], None], wake: Callable[[], None] = lambda: None) -> None:
        """`wake` is what a runner that writes elsewhere calls, in any thread, when a step will find something."""
        self.job, self._emit, self.wake = job, emit, wake
        room = _room(job)
        self.limit = room if job.max_tokens is None else min(job.max_tokens, room)
        self._counts = job.model.runner.counts
        self.times = Times(asked=time.monotonic(), worked_before=self._counts.worked)
        self.num_tokens = self.num_cached = self.num_preempted = 0
        self.is_cancelled = False
        self._text = job.model.new_text()
        self._stop = StopStrings(job.stop, keep=job.keeps_stop)
        self._unreported: list[Token] = []

    def begin(self, num_cached: int = 0) -> None:
        """Note that the engine has begun with it, and how much of the prompt it remembered."""
        if not self.times.begun:
            self.times.begun, self.num_cached = time.monotonic(), num_cached

    def tell_prompt(self, tokens: tuple[Token, ...]) -> None:
        """Report the prompt's log-probabilities."""
        self._emit(Read(tokens))

    def take(self, token: Token) -> bool:
        """Add the next token; False when the answer is complete."""
        if not self.times.first_token:
            self.times.first_token, self.times.worked_first_token = time.monotonic(), self._counts.worked
        if token.id in self.job.stop_ids:
            return self.finish("stop")
        self.num_tokens += 1
        self._unreported.append(token)
        self._report(self._stop.feed(self._text.push(token.id)))
        if self._stop.is_hit:
            return self.finish("stop")
        return self.num_tokens < self.limit or self.finish("length")

    def finish(self, reason: Literal["stop", "length"]) -> bool:
        """Report what is left, and the end."""
        self._report(self._stop.feed(self._text.finish()) + self._stop.flush())
        if self._unreported:  # tokens whose text a stop string cut off still count in the log-probabilities
            self._emit(Piece("", tuple(self._unreported)))
        self.times.ended, self.times.worked_ended = time.monotonic(), self._counts.worked
        self._emit(Finish("stop" if self._stop.is_hit else reason, self.num_tokens, self.num_cached))
        return False

    def fail(self, message: str, is_shutdown: bool = False, is_temporary: bool = False) -> None:
        """End with an error."""
        self.times.ended = time.monotonic()
        self._emit(Failure(message, "shutdown" if is_shutdown else "restart" if is_temporary else "error"))

    def _report(self, text: str) -> None:
        if text:
            tokens, self._unreported = tuple(self._unreported), []
            self._emit(Piece(text, tokens))


def _room(job: Job) -> int:
    """Tokens that fit behind the prompt; a prompt that is only read may fill the context."""
    config: Any = job.model.network.config
    if job.max_tokens == 0 and len(job.ids) == config.context:
        return 0
    return room_for_answer(job.model.network, job.ids)
