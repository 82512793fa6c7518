"""Requests to stop that wait until the work can be left."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from llm_core.artifact import Interrupted


class DeferredSignals:
    """Holds back the first SIGTERM or SIGINT until `deliver`; a second one goes through at once.

    `at_first`, if given, is called when the first one comes. Python runs handlers in the main thread only, so elsewhere
    this does nothing.
    """

    def __init__(self, at_first: Callable[[], None] | None = None) -> None:
        self.received: int | None = None
        self._at_first = at_first
        self._before: dict[int, Any] = {}

    def __enter__(self) -> DeferredSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):  # ignored stays ignored; None was not set from Python
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            before = self._before[number]
            if callable(before):
                before(number, frame)
            else:  # the system's own: it ends the process here
                signal.signal(number, before)
                signal.raise_signal(number)
        elif self._at_first is not None:
            self._at_first()
        self.received = number

    def deliver(self, step: int, resumable: bool) -> None:
        """Give a held back signal to its former handler; if that was the system's, raise Interrupted."""
        if self.received is None:
            return
        before = self._before.get(self.received)
        if callable(before):
            before(self.received, sys._getframe())
        kept = "run it again to go on from there" if resumable else "nothing was kept, since the run has no checkpoints"
        raise Interrupted(f"{signal.Signals(self.received).name} after step {step}; {kept}")
