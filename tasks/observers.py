"""Who watches a stage: the terminal, or several observers at once."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from llm_core.artifact import Observer

WORDS = {
    "train/loss": "loss {:.3f}",
    "validation/loss": "validation {:.3f}",
    "train/lr": "lr {:.2g}",
    "train/tokens_per_second": "{:,.0f} tokens/s",
    "train/mfu": "MFU {:.0%}",
}


class Facts:
    """What a line of progress says: the newest measurements, and the time that the rest will take."""

    def __init__(self) -> None:
        self._latest: dict[str, float] = {}
        self._first: tuple[int, float] | None = None

    def note(self, values: Mapping[str, float]) -> None:
        """Take over the newest measurements."""
        self._latest.update(values)

    def text(self) -> str:
        """The measurements in words."""
        return "  ".join(WORDS.get(name, name + " {:.4g}").format(value) for name, value in self._latest.items())

    def remaining(self, done: int, total: int) -> str:
        """The time that is left at the pace since the first call, ``ETA 0:12:30``; empty while there is no pace."""
        now = time.monotonic()
        self._first = self._first or (done, now)
        first, began = self._first
        if done <= first or now <= began:
            return ""
        return f"ETA {timedelta(seconds=round((total - done) * (now - began) / (done - first)))}"


class Terminal:
    """A progress bar on stderr; plain lines, at most one in ten seconds, where stderr is not a terminal."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._facts = Facts()
        self._last_line = time.monotonic()

    def __enter__(self) -> Terminal:
        if self._console.is_terminal:
            columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[facts]}"), console=self._console, transient=True)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def progress(self, done: int, total: int, unit: str) -> None:
        facts, remaining = f"{unit}  {self._facts.text()}", self._facts.remaining(done, total)
        if self._bar is not None:
            if self._task is None:  # what a resumed stage had done before says nothing about its pace
                self._task = self._bar.add_task(self.stage, total=total, completed=done, facts=facts)
            self._bar.update(self._task, completed=done, total=total, facts=facts)
        elif time.monotonic() - self._last_line > 10:
            self._last_line = time.monotonic()
            print(f"{self.stage}: {done}/{total} {facts}  {remaining}".rstrip(), file=sys.stderr, flush=True)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._facts.note(values)


class Together:
    """Several observers as one."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def progress(self, done: int, total: int, unit: str) -> None:
        for observer in self._observers:
            observer.progress(done, total, unit)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        for observer in self._observers:
            observer.metrics(step, values)
