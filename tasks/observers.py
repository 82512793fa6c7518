"""Who watches a stage: the terminal, or several observers at once."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from llm_core.artifact import Observer


class Terminal:
    """A progress bar on stderr; plain lines, at most one in ten seconds, where stderr is not a terminal."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._latest: dict[str, float] = {}
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
        facts = f"{unit}  " + "  ".join(f"{name} {value:.4g}" for name, value in self._latest.items())
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(self.stage, total=total, facts=facts)
            self._bar.update(self._task, completed=done, total=total, facts=facts)
        elif time.monotonic() - self._last_line > 10:
            self._last_line = time.monotonic()
            print(f"{self.stage}: {done}/{total} {facts}", file=sys.stderr, flush=True)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._latest.update(values)


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
