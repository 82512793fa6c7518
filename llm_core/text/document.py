"""The one record that flows from the sources to the tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Origin:
    """Where a record comes from: a byte range of a source file."""

    source: str
    """Name of the source file in the inventory."""
    start: int
    """First byte of the record in the file."""
    end: int
    """Byte after its last one."""
    sha256: str
    """sha256 of these raw bytes: the record's identity in every later stage."""
    license: str
    """Licence of the source."""

    @property
    def place(self) -> str:
        """The byte range in one string, for messages."""
        return f"{self.source}[{self.start}:{self.end}]"


@dataclass(frozen=True)
class Document(Origin):
    """A record's text."""

    text: str


@dataclass(frozen=True)
class CleanDocument(Document):
    """A document that passed every rule, and the split it belongs to."""

    split: Split
    """What the document is for: training, the loss during training, or evaluation."""
    num_bytes: int
    """Size of the clean text in UTF-8."""


@dataclass(frozen=True)
class Rejection:
    """Why a record is not kept: `reason` is counted, `detail` explains this case and never quotes the text."""

    reason: str
    detail: str
