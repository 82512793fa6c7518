"""UTF-16 and UTF-32 are read like UTF-8, and counted in their own bytes."""

from __future__ import annotations

import pytest

from llm_core.text.readers.wide import wide_charset
from tests.llm_core.text.readers.reading import read, reasons, records, texts
from tests.llm_core.text.readers.test_hostile import SOUND


@pytest.mark.parametrize("kind", ["html", "json", "jsonl", "csv", "mail", "mediawiki", "markdown"])
def test_every_format_gives_the_same_texts_as_in_utf8(kind: str) -> None:
    for charset in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"):
        assert texts(read(SOUND[kind].decode().encode(charset))) == texts(read(SOUND[kind])), charset


def test_records_are_the_original_bytes() -> None:
    raw = '{"text": "ä"}\n{"text": "水"}\n'.encode("utf-16")
    tiles = read(raw)
    assert records(raw, tiles) == [raw[: 2 + 26], '{"text": "水"}'.encode("utf-16-le")]


def test_half_a_character_is_rejected() -> None:
    assert reasons(read("text".encode("utf-16") + b"\0")) == ["undecodable"]
    assert reasons(read(b"\xff\xfe\0\xd8a\0")) == ["undecodable"]


@pytest.mark.parametrize("charset", ["utf-16", "utf-16-be", "utf-32"])
def test_a_large_text_is_cut_at_line_ends(charset: str) -> None:
    # Between these characters lie the bytes of a line feed.
    lines = ["\u0a05\u0100\u0a05\u0100" * (number % 4) + f"Zeile {number}\n" for number in range(100)]
    mark = "\ufeff" if charset.endswith("be") else ""
    found = texts(read((mark + "".join(lines)).encode(charset), max_document_bytes=201))
    assert len(found) > 10
    assert "".join(found) == "".join(lines)
    assert all(text.endswith("\n") for text in found)


def test_a_large_table_in_utf16_is_too_large() -> None:
    assert reasons(read(SOUND["csv"].decode().encode("utf-16"), max_document_bytes=50)) == ["too_large"]


@pytest.mark.parametrize("head", [b"a\0b", b"\0\0\0\0", bytes(range(256)), b"plain", "水車".encode("utf-16-le")])
def test_what_may_be_something_else_is_not_called_wide(head: bytes) -> None:
    assert wide_charset(head) == ""
