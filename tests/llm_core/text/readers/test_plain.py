"""Plain text is one document, or pieces of it that are not larger than a document may be."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.llm_core.text.readers.reading import read, reasons, records, texts

LIMIT = 40


def test_a_file_is_one_document_with_all_its_bytes() -> None:
    raw = "\ufeffGrüße\n\n".encode()
    tiles = read(raw)
    assert (texts(tiles), records(raw, tiles)) == (["Grüße\n\n"], [raw])


@pytest.mark.parametrize("raw", [b"", b" \n\t\r\n", b"\xef\xbb\xbf", "\u2003".encode()])
def test_a_file_without_text_is_rejected_as_empty(raw: bytes) -> None:
    assert reasons(read(raw)) == ["empty"]


@given(raw=st.text(alphabet="ab \n\r", max_size=300).map(str.encode))
def test_a_large_file_is_cut_into_whole_lines(raw: bytes) -> None:
    tiles = read(raw, format="text", max_document_bytes=LIMIT)
    for tile in tiles[:-1]:
        assert raw[tile.end - 1 : tile.end] == b"\n"
    for tile in tiles:
        is_long_line = raw[tile.start : tile.end].count(b"\n") <= 1
        assert tile.end - tile.start <= LIMIT or (is_long_line and reasons([tile]) == ["too_large"])


def test_a_large_file_is_cut_at_blank_lines_where_there_are_any() -> None:
    raw = b"one\none\n\ntwo\n\r\nthree\nthree\nthree\nthree\nthree"
    assert texts(read(raw, max_document_bytes=LIMIT)) == ["one\none\n\ntwo\n\r\n", "three\nthree\nthree\nthree\nthree"]


def test_a_line_that_is_too_long_is_lost_alone() -> None:
    raw = b"before\n" + b"x" * 1000 + b"\nbehind\n"
    tiles = read(raw, max_document_bytes=LIMIT)
    assert (texts(tiles), reasons(tiles)) == (["before\n", "behind\n"], ["too_large"])


def test_paragraphs_end_at_blank_lines() -> None:
    raw = b"\n\none\nmore\n\n \t\r\ntwo\r\n\r\n  three\n"
    tiles = read(raw, text_unit="paragraph")
    assert texts(tiles) == ["one\nmore", "two", "  three\n"]


def test_lines_are_records_without_their_ends() -> None:
    raw = b"one\r\n\n  \ntwo\nthree"
    tiles = read(raw, text_unit="line")
    assert (texts(tiles), records(raw, tiles)) == (["one", "two", "three"], [b"one", b"two", b"three"])


def test_a_bad_line_is_lost_alone() -> None:
    tiles = read(b"one\n\xff\xfe\xfd\nthree", text_unit="line", format="text")
    assert (texts(tiles), reasons(tiles)) == (["one", "three"], ["undecodable"])


def test_front_matter_is_structure_in_markdown_only() -> None:
    raw = b"---\ntitle: a\n---\n# Head\n"
    tiles = read(raw)
    assert (texts(tiles), tiles[0].found, tiles[0].end) == (["# Head\n"], None, 17)
    assert texts(read(raw, format="text")) == [raw.decode()]
    for text in ("---\nno end\n", "---\nA scene between two rules.\n---\nAnother.\n"):
        assert texts(read(text.encode(), format="markdown")) == [text]


def test_an_appended_line_leaves_the_records_before_it_alone() -> None:
    tiles = [tile for tile in read(b"one\ntwo", text_unit="line") if tile.found]
    assert [tile for tile in read(b"one\ntwo\nthree", text_unit="line") if tile.found][:2] == tiles


def test_nothing_is_read_from_the_file_ahead_of_need() -> None:
    from llm_core.config import Collect
    from llm_core.text.content import PIECE_BYTES, open_content
    from llm_core.text.readers import read_tiles

    file = BytesIO(b"line\n" * 1_000_000)
    with open_content(file, "a", 200) as content:
        next(read_tiles(content, Collect(text_unit="line")))
    assert file.tell() <= 2 * PIECE_BYTES
