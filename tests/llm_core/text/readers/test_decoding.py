"""Bytes become text in the encoding they are in, or are rejected; guesses need evidence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_core.text.document import Rejection
from llm_core.text.readers.decoding import decode

GERMAN = "Die Straße führt über Köln, größere Städte und schöne Täler nach Österreich."


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_utf8_is_taken_as_it_is_but_for_a_byte_order_mark(text: str) -> None:
    assert decode(b"\xef\xbb\xbf" + text.encode()) == text


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("cp1252", GERMAN),
        ("cp1252", "It\u2019s a \u201cgood\u201d day \u2013 don\u2019t you think?"),
        ("cp1252", "caf\u00e9"),
        ("gb18030", "我们在这里讨论数据清洗的问题，以及如何处理编码。"),
        ("big5", "我們在這裡討論數據清洗的問題，以及如何處理編碼。"),
        ("shift_jis", "これは日本語の文章です。文字コードを検出します。"),
        ("euc_jp", "これは日本語の文章です。文字コードを検出します。"),
        ("euc_kr", "안녕하세요, 이것은 한국어 텍스트입니다."),
        ("koi8_r", "Привет, это русский текст для проверки кодировки."),
        ("cp1251", "Привет, это русский текст для проверки кодировки."),
        ("cp1253", "Καλημέρα κόσμε, αυτό είναι ένα κείμενο"),
    ],
)
def test_other_encodings_are_detected(charset: str, text: str) -> None:
    assert decode(text.encode(charset)) == text


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        (b"ok\xe2\x82", 2),
        (b"text \xff\xfe\xff more", 5),
        (b"\xef\xbb\xbfok \xfe\xff", 6),
        ("é".encode() * 9 + b"\xff", 18),
    ],
)
def test_a_few_bad_bytes_are_rejected_at_their_place(raw: bytes, place: int) -> None:
    found = decode(raw, start=1000)
    assert isinstance(found, Rejection)
    assert found.reason == "undecodable"
    assert found.detail.startswith(f"byte {raw[place]:#04x} at {1000 + place}:")


def test_lines_of_another_encoding_are_decoded_alone() -> None:
    assert decode("Grüße\nGrüße\n".encode() + "Straße\n".encode("latin-1")) == "Grüße\nGrüße\nStraße\n"


def test_a_line_that_mixes_two_encodings_is_lost() -> None:
    assert isinstance(decode("Grüße, schöne ".encode() * 9 + "Straße\n".encode("latin-1")), Rejection)


def test_what_is_declared_is_believed_unless_it_is_utf8() -> None:
    polish = "zażółć"
    assert decode(polish.encode("iso8859-2"), declared="ISO-8859-2") == polish
    assert decode(polish.encode(), declared="ISO-8859-2") == polish
    assert decode(polish.encode("iso8859-2"), encoding="iso8859-2") == polish


def test_encodings_in_seven_bits_are_tried_before_utf8() -> None:
    japanese = "日本語"
    assert decode(japanese.encode("iso2022_jp"), declared="iso-2022-jp") == japanese


@pytest.mark.parametrize("name", ["x-unknown", "rot13", "zlib", "punycode", "unicode_escape", "\0", "a" * 999, "ascii"])
def test_declared_names_that_are_no_charsets_of_files_are_ignored(name: str) -> None:
    text = GERMAN + r" C:\neu"
    assert decode(text.encode("cp1252"), declared=name) == text


@given(raw=st.binary(max_size=80))
def test_the_same_bytes_always_give_the_same_result(raw: bytes) -> None:
    assert decode(raw) == decode(raw)
