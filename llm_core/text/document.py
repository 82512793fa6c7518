"""The one record that flows from the sources to the tokens, and the pieces that a source is read in."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from llm_core.text.measures import Measures

Split = Literal["train", "validation", "test"]
Unit = Literal["byte", "row", "file"]
"""What start and end count: bytes of the decompressed content, rows of a table, or nothing: the file as it is."""


@dataclass(frozen=True)
class Rejection:
    """Why a record is not kept: `reason` is counted, `detail` explains this case and never quotes the text."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Tile:
    """A piece of a source: the tiles of a source cover it from its first byte to its last, without gap or overlap."""

    start: int
    """First byte in the source's content, which is what is left once it is decompressed; or first row."""
    end: int
    """Byte or row after the last one."""
    sha256: str
    """sha256 of these bytes (of the text for rows, of the stored file for files); empty for structure."""
    found: str | Rejection | None
    """The text of a record, why it has none, or None for the source's own structure: headers, brackets, blank lines."""
    unit: Unit = "byte"


@dataclass(frozen=True)
class Origin:
    """Where a record comes from: a byte range of a source file."""

    source: str
    """Name of the source file in the inventory."""
    start: int
    """First byte of the record in the file's content, once decompressed; or its row."""
    end: int
    """Byte or row after its last one."""
    sha256: str
    """sha256 of these raw bytes: the record's identity in every later stage."""
    license: str
    """Licence of the source."""
    unit: Unit = field(default="byte", kw_only=True)

    @property
    def place(self) -> str:
        """The byte range in one string, for messages."""
        return f"{self.source}[{self.start}:{self.end}]"


@dataclass(frozen=True, kw_only=True)
class Document(Origin):
    """A record's text, and what the rules found out about it."""

    text: str
    language: str = ""
    """ISO 639-1 code of the language it is mainly in, once rule language has asked."""
    redactions: str = ""
    """Kinds and numbers of what rule pii replaced, as in ``email=2 phone=1``."""

    @cached_property
    def measures(self) -> Measures:
        """What the rules count: computed once for a text, however many rules ask."""
        return Measures(self.text)


@dataclass(frozen=True, kw_only=True)
class CleanDocument(Document):
    """A document that passed every rule, and the split it belongs to."""

    split: Split
    """What the document is for: training, the loss during training, or evaluation."""
    num_bytes: int
    """Size of the clean text in UTF-8."""
