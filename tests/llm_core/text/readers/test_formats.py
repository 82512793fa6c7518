"""The format is what the content is, not what the file is called."""

from __future__ import annotations

import pytest

from llm_core.config import Collect
from llm_core.text.readers.formats import find_format
from tests.llm_core.text.readers.test_hostile import SOUND


@pytest.mark.parametrize("kind", SOUND)
def test_each_format_is_found_without_a_name(kind: str) -> None:
    assert find_format(SOUND[kind], "data", Collect()) == kind


@pytest.mark.parametrize("kind", sorted(set(SOUND) - {"text", "markdown", "csv"}))
def test_content_wins_over_the_name(kind: str) -> None:
    for name in ("a.csv", "a.md", "b.json.gz"):
        assert find_format(SOUND[kind], name, Collect()) == kind


@pytest.mark.parametrize(
    ("head", "name", "kind"),
    [
        (b"a,b\n1,2\n", "x.csv", "csv"),
        (b"a,b\n1,2\n", "x.txt", "text"),
        (b"a\tb\n", "x.TSV.gz", "csv"),
        (b"# Head\n", "x.md", "markdown"),
        (b'{"text": \n"a"}', "x", "json"),
        (b'{"text": broken\n{"text": "b"}\n', "x.jsonl.zst", "jsonl"),
        (b'{"id":"1","text":"a"}', "x.json", "json"),
        (b'{"a": 1}\n{"a": broken\n{"a": 2}\n', "x", "jsonl"),
        (b'{"a": 1}\n\0\0\0\0\0\0\0\0\0\0\0\0\n{"a": 2}\n', "x", "jsonl"),
        (b'["a", "b"]', "x", "json"),
        (b"[1] Smith, Some Title, 1990", "x", "text"),
        (b"[Laughter] So they said.", "x", "text"),
        (b'["Quoted" he said, in a bracket', "x.txt", "text"),
        (b"<p>short", "x", "html"),
        (b"<!-- a --> <?xml version='1.0'?> <HTML>", "x", "html"),
        (b"<3 this", "x", "text"),
        (b"From: me\nTo: you\n\nA play.", "x", "text"),
        (b"From: me\nSubject: a\nDate: b\n\nA post.", "x", "mail"),
        (b"From here on\nReceived: a\nTo: b\n", "x", "text"),
        (b"Hello: world\n\n", "x.eml", "mail"),
        (b"", "x.txt", "text"),
    ],
)
def test_the_name_decides_between_texts_that_look_alike(head: bytes, name: str, kind: str) -> None:
    assert find_format(head, name, Collect()) == kind


@pytest.mark.parametrize(
    "head",
    [
        b"\x89PNG\r\n\x1a\n",
        b"\x7fELF\2\1",
        b"%PDF-1.7\nplain",
        b"PK\x03\x04",
        b"\x1f\x8b\x08\0",
        bytes(range(256)),
        b"ab\0",
    ],
)
def test_what_is_no_text_has_no_format(head: bytes) -> None:
    assert find_format(head, "x.txt", Collect()) is None


def test_a_table_is_known_by_a_text_key_in_its_header() -> None:
    assert find_format(b"id;body\n1;b\n", "x", Collect()) == "csv"
    assert find_format(b"id;body\n1;b\n", "x", Collect(text_keys=("other",))) == "text"
