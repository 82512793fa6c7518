"""What holds for all readers: damage ends a content with a tile of the file, and every byte has its tile."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from io import BytesIO

import pytest

from llm_core.config import Collect
from llm_core.text.content import Content, open_content
from llm_core.text.document import Tile
from llm_core.text.readers import READERS, read_tiles
from tests.llm_core.text.readers.reading import read, reasons, texts

LINES = b"".join(b'{"text": "line %d"}\n' % number for number in range(5000))


def test_records_before_the_damage_of_an_archive_stay() -> None:
    tiles = read(gzip.compress(LINES)[:-5000])
    count = len(texts(tiles))
    assert texts(tiles) == [f"line {number}" for number in range(count)]
    assert 100 < count < 5000
    assert reasons(tiles)[-1] == "damaged_archive"
    assert set(reasons(tiles)) == {"damaged_archive"}
    assert tiles[-1].unit == "file"


def test_the_last_record_of_a_damaged_archive_is_not_trusted() -> None:
    tiles = read(gzip.compress(b'{"text": "a"}\n{"text": "b"}')[:-4])
    assert (texts(tiles), reasons(tiles)) == (["a"], ["damaged_archive", "damaged_archive"])
    assert reasons(read(gzip.compress(b"whole text")[:-1])) == ["damaged_archive", "damaged_archive"]


def test_a_bomb_ends_with_a_tile_of_the_file() -> None:
    tiles = read(gzip.compress(b"a line\n" * 5_000_000), max_expansion=20, max_document_bytes=1_000_000)
    assert (tiles[-1].unit, reasons(tiles)) == ("file", ["bomb", "bomb"])
    assert len(texts(tiles)) >= 15


def test_binary_content_is_one_record() -> None:
    tiles = read(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9)
    assert [tile.start for tile in tiles] == [0]
    assert reasons(tiles) == ["binary"]


def test_the_recipe_may_name_the_format() -> None:
    assert texts(read(b"<p>x</p>", format="text")) == ["<p>x</p>"]


def test_a_reader_that_leaves_a_byte_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(content: Content, cfg: Collect) -> Iterator[Tile]:
        content.read(3)
        yield Tile(0, 2, "", None)

    monkeypatch.setitem(READERS, "text", careless)
    with (
        open_content(BytesIO(b"abc"), "a", 200) as content,
        pytest.raises(AssertionError, match="covered up to byte 2"),
    ):
        list(read_tiles(content, Collect(format="text")))
