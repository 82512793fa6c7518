"""What two versions are compared by besides users' requests: texts that both read, copies that both answer.

It happens in spare time: texts are read while few answers are open, copies are written while none is, and give way
as soon as somebody asks. What is read or written stays here; only numbers are kept.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from llm_core.generate import ContextExceeded
from llm_core.generate.reading import reads_a_source
from llm_core.generate.sampling import Sampling
from llm_core.serving.canary import Trial
from llm_core.serving.engine import Engine, EngineUnavailable
from llm_core.serving.errors import ApiError
from llm_core.serving.evidence import Pair
from llm_core.serving.jobs import Answer, Event, Failure, Finish, Job, Read
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.paged import PagedRunner
from llm_core.tokenizer import TokenizerError

logger = logging.getLogger(__name__)

MOST_WAITING = 64
"""Texts and copies that wait for spare time; the oldest are given up."""
FEWEST_TOKENS, MOST_TOKENS = 8, 256
"""Of a text that is judged: shorter ones say little, longer ones would hold up a step."""
MOST_CHARACTERS = 1000
BUSY_SHARE = 0.25
"""Texts are read while at most this share of the answers that may be open are."""
TRIES = 10
"""How often a copy begins again after it gave way."""
LOOK_SECONDS = 0.02
PATIENCE_SECONDS = 60.0

Build = Callable[[LoadedModel], Sequence[Job]]
"""Makes a request's jobs for a version; raises ApiError where it cannot take it."""


class Judge:
    """One thread that compares in spare time, as long as there is something to compare."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tasks: deque[Callable[[], None]] = deque(maxlen=MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def read(self, trial: Trial, champion: LoadedModel, asker: str, text: str) -> None:
        """Have both versions read a text."""
        text = text[:MOST_CHARACTERS]
        if text and trial.wants(text):
            self._offer(lambda: self._read(trial, champion, asker, text))

    def copy(self, trial: Trial, champion: LoadedModel, asker: str, build: Build) -> None:
        """Have both versions answer a request for nobody, so that they do it under equal conditions."""
        self._offer(lambda: self._copy(trial, champion, asker, build))

    def _offer(self, task: Callable[[], None]) -> None:
        with self._lock:
            self._tasks.append(task)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="judge", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while (task := self._next()) is not None:
            try:
                task()
            except Exception:  # a comparison that fails must not end the others
                logger.exception("a comparison failed")

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            if self._tasks:
                return self._tasks.popleft()
            self._thread = None
            return None

    def _read(self, trial: Trial, champion: LoadedModel, asker: str, text: str) -> None:
        challenger = trial.model
        if challenger is None or reads_a_source(champion.network) or reads_a_source(challenger.network):
            return
        if not (text := _cut(text, (champion, challenger))):
            return
        most_open = int(self._engine.max_open * BUSY_SHARE)
        found = []
        for model in (champion, challenger):
            job = Job(model, model.encode_prompt(text), 0, Sampling(temperature=0.0), tells_prompt=True)
            found.append(_bits_per_byte(self._written(job, most_open)[1], text))
        if None not in found:
            trial.read(Pair(asker, *found))  # type: ignore[arg-type]  # None was looked for

    def _copy(self, trial: Trial, champion: LoadedModel, asker: str, build: Build) -> None:
        challenger = trial.model
        if challenger is None:
            return
        answered, reason = self._answered(_read_anew(build(champion)[0]))
        if answered is None:
            return
        try:
            copied, copied_reason = self._answered(_read_anew(build(challenger)[0]))
        except (ApiError, ContextExceeded):  # what the champion took
            trial.record("champion", asker, answered, reason)
            trial.fail("challenger", asker)
            return
        if copied is not None:
            trial.record("champion", asker, answered, reason)
            trial.record("challenger", asker, copied, copied_reason)

    def _answered(self, job: Job) -> tuple[Answer | None, str]:
        """An answer that was written without a pause, and why it ended; None where there was no time for one."""
        for _ in range(TRIES):
            answer, events = self._written(job, most_open=0)
            if events:
                end = events[-1]
                return answer, end.reason if isinstance(end, Finish) else "error"
            if answer is None:
                break
        return None, ""

    def _written(self, job: Job, most_open: int) -> tuple[Answer | None, list[Event]]:
        """An answer with its events; none where it gave way, no answer either where there was no spare time."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        if not self._has_time(most_open):
            return None, []
        try:
            answer = self._engine.submit(job, events.put, in_spare_time=True)
        except EngineUnavailable:
            return None, []
        found: list[Event] = []
        while not (found and isinstance(found[-1], Finish | Failure)):
            try:
                found.append(events.get(timeout=LOOK_SECONDS))
            except queue.Empty:
                if answer.is_cancelled:
                    return answer, []
        return (None, []) if isinstance(found[-1], Failure) and found[-1].kind == "shutdown" else (answer, found)

    def _has_time(self, most_open: int) -> bool:
        until = time.monotonic() + PATIENCE_SECONDS
        while self._engine.num_open > most_open:
            if self._engine.is_draining or time.monotonic() > until:
                return False
            time.sleep(LOOK_SECONDS)
        return True


def _read_anew(job: Job) -> Job:
    """The job without what its model remembers of the prompt: the champion has just answered it."""
    return replace(job, tells_prompt=True) if isinstance(job.model.runner, PagedRunner) else job


def _cut(text: str, models: Sequence[LoadedModel]) -> str:
    """The beginning of a text that all models can read at once; nothing where it says too little."""
    try:
        while max(_room_over(model, text) for model in models) > 0:
            text = text[: len(text) * 3 // 4]
        fewest = min(len(model.encode_prompt(text)) - 1 for model in models)
    except TokenizerError:
        return ""
    return text if fewest >= FEWEST_TOKENS else ""


def _room_over(model: LoadedModel, text: str) -> int:
    """Tokens that are too many."""
    return len(model.encode_prompt(text)) - min(model.context, MOST_TOKENS)


def _bits_per_byte(events: Sequence[Event], text: str) -> float | None:
    """What a model makes of a text that it has read; None where it has not."""
    tokens = next((event.tokens for event in events if isinstance(event, Read)), ())
    nats = -sum(token.logprob for token in tokens)
    return nats / math.log(2) / len(text.encode()) if tokens and math.isfinite(nats) else None
