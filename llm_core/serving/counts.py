"""What happened in an engine since its start."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Counts:
    """Sums over one model version's answers; only its runner's thread writes them."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompts' tokens, those that were in memory already."""
    written_tokens: int = 0
    preemptions: int = 0
    """Times that an answer had to give its blocks back."""
    steps: int = 0
    step_seconds: float = 0.0
    """Time of the steps that are over."""
    step_began: float = 0.0
    """When the present one began, on the monotonic clock; 0 between steps."""
    is_elsewhere: bool = False
    """Whether another process does the work, so that a step only takes in what has come."""

    @property
    def worked(self) -> float:
        """Seconds spent in steps until now: a clock that stands still while other models have their turn.

        Work elsewhere takes no turns: its clock is the one on the wall.
        """
        if self.is_elsewhere:
            return time.monotonic()
        began = self.step_began
        return self.step_seconds + (time.monotonic() - began if began else 0.0)

    @contextmanager
    def step(self) -> Iterator[None]:
        """One step, in the runner's thread."""
        self.step_began = time.monotonic()
        try:
            yield
        finally:
            seconds, self.step_began = time.monotonic() - self.step_began, 0.0
            self.step_seconds += seconds
