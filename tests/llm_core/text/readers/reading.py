"""Reads bytes as a source file would be read, and checks what holds for every content."""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import Any

from llm_core.config import Collect
from llm_core.text.content import Content, copy_range, open_content
from llm_core.text.document import Rejection, Tile
from llm_core.text.readers import read_tiles


def read(raw: bytes, name: str = "source", **keys: Any) -> list[Tile]:
    """The tiles of a file with these bytes; fails unless they cover it, each with the sha256 of its bytes."""
    cfg = Collect(**keys)
    with open_content(BytesIO(raw), name, cfg.max_expansion) as content:
        tiles = list(read_tiles(content, cfg))
    with open_content(BytesIO(raw), name, cfg.max_expansion) as content:
        check_cover(tiles, content)
    for tile in tiles:
        if tile.unit == "file":
            assert (tile.end, tile.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
    return tiles


def check_cover(tiles: list[Tile], content: Content) -> None:
    """Byte tiles are consecutive, begin at 0 and end with the content; every record's sha256 is that of its bytes."""
    byte_tiles = [tile for tile in tiles if tile.unit == "byte"]
    for tile in byte_tiles:
        assert tile.start == content.position
        piece = bytearray()
        copy_range(content, tile.start, tile.end, piece.extend)
        assert tile.sha256 == ("" if tile.found is None else hashlib.sha256(piece).hexdigest())
    if byte_tiles or not tiles:
        assert content.at_end
    for tile in tiles:
        if isinstance(tile.found, str):
            assert tile.found.strip()
            tile.found.encode()


def texts(tiles: list[Tile]) -> list[str]:
    """Texts of the records that have one."""
    return [tile.found for tile in tiles if isinstance(tile.found, str)]


def reasons(tiles: list[Tile]) -> list[str]:
    """Reasons of the records that have none."""
    return [tile.found.reason for tile in tiles if isinstance(tile.found, Rejection)]


def records(raw: bytes, tiles: list[Tile]) -> list[bytes]:
    """The original bytes of the records of an uncompressed content, rejected ones included."""
    return [raw[tile.start : tile.end] for tile in tiles if tile.found is not None and tile.unit == "byte"]
