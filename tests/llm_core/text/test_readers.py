"""Files become documents, or are rejected with a reason that quotes nothing."""

from __future__ import annotations

import pytest

from llm_core.text.document import Document, Origin, Rejection
from llm_core.text.readers import read_plain_text


def _origin(raw: bytes) -> Origin:
    return Origin(source="a.txt", start=0, end=len(raw), sha256="00" * 32, license="free")


def test_a_file_is_one_document_with_the_origin_it_came_with() -> None:
    raw = "Grüße\n".encode()
    assert read_plain_text(raw, _origin(raw)) == Document("a.txt", 0, 7 + 1, "00" * 32, "free", "Grüße\n")


def test_a_byte_order_mark_is_not_part_of_the_text() -> None:
    raw = b"\xef\xbb\xbfText"
    result = read_plain_text(raw, _origin(raw))
    assert isinstance(result, Document)
    assert (result.text, result.start, result.end) == ("Text", 0, 7)


@pytest.mark.parametrize("raw", [b"", b"\xef\xbb\xbf", b" \n\t\r\n", "\u2003".encode()])
def test_a_file_without_text_is_rejected_as_empty(raw: bytes) -> None:
    result = read_plain_text(raw, _origin(raw))
    assert isinstance(result, Rejection)
    assert result.reason == "empty"


@pytest.mark.parametrize(
    ("raw", "position"),
    [(b"caf\xe9 secret", 3), ("text".encode("utf-16"), 0), (b"\xef\xbb\xbfok \xff", 6), (b"ok\xe2\x82", 2)],
)
def test_bytes_that_are_no_utf8_are_rejected_at_their_place(raw: bytes, position: int) -> None:
    result = read_plain_text(raw, _origin(raw))
    assert isinstance(result, Rejection)
    assert result.reason == "not_utf8"
    assert f"{raw[position]:#04x} at {position}:" in result.detail
    assert "secret" not in result.detail
