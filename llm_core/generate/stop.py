"""Stop strings in a stream of text: nothing of a stop string is ever shown, not even its beginning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class TextStream(Protocol):
    """Turns ids into text as they come, as the tokenizer's StreamDecoder does."""

    def push(self, token_id: int) -> str:
        """The text that this id completes, often empty."""

    def finish(self) -> str:
        """What is left at the end."""


class StopStrings:
    """Passes text on piece by piece and ends before the first stop string, or behind it where that is to be kept."""

    def __init__(self, stops: Sequence[str], keep: bool = False) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._keeps = keep
        self._held = ""
        self.is_hit = False
        """Whether a stop string was found; later text is dropped."""

    def feed(self, text: str) -> str:
        """The text that can be shown now; an ending that may still become a stop string is held back."""
        if self.is_hit:
            return ""
        text = self._held + text
        found = [(place, stop) for place, stop in ((text.find(stop), stop) for stop in self._stops) if place >= 0]
        if found:
            self.is_hit, self._held = True, ""
            place, stop = min(found)
            return text[: place + len(stop) * self._keeps]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, once it is known that nothing follows."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest ending of `text` that `stop` begins with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
