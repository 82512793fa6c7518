"""JSON Lines: a record a line; a bad line is lost alone."""

from __future__ import annotations

from collections.abc import Iterator

from llm_core.config import Collect
from llm_core.text.content import Content
from llm_core.text.document import Tile
from llm_core.text.readers.json_record import json_text
from llm_core.text.readers.records import lines, record


def read_lines(content: Content, cfg: Collect) -> Iterator[Tile]:
    """The lines of a JSON Lines file, of which blank ones are structure."""
    for piece in lines(content, cfg):
        if isinstance(piece, Tile):
            yield piece
        else:
            start, raw = piece
            yield record(start, raw, json_text(raw, cfg, start))
