"""Whatever the bytes are, reading gives tiles that cover them: no crash, no hang, nothing lost without a reason."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_core.config.data import SourceFormat
from llm_core.text import content
from llm_core.text.readers import csv_rows, json_values
from tests.llm_core.text.readers.reading import read, reasons

FORMATS = [name for name in get_args(SourceFormat) if name != "auto"]
SENTENCE = "Das Rad läuft, die Mühle mahlt. 水車は回る。 "


def _parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": [1, 2, 3], "text": ["one", SENTENCE, "three"]}), sink)
    return sink.getvalue()


def _arrow() -> bytes:
    sink = io.BytesIO()
    table = pa.table({"text": ["one", SENTENCE]})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


# A sound content of each format.
SOUND: dict[str, bytes] = {
    "text": (SENTENCE * 3 + "\n\n").encode() * 4,
    "markdown": f"---\ntitle: a\n---\n\n# Head\n\n{SENTENCE}\n".encode(),
    "html": f"<!DOCTYPE html><html><body><p>{SENTENCE * 8}</p><ul><li>a</li></ul></body></html>".encode(),
    "mail": f"Received: from a\nSubject: =?utf-8?q?M=C3=BChle?=\nMIME-Version: 1.0\n\n{SENTENCE}\n".encode(),
    "mbox": b"From a@b Mon Jan  1 10:00:00 2024\nSubject: x\n\nOne.\n\nFrom b@c Mon Jan  1 11:00:00 2024\n\nTwo.\n",
    "json": json.dumps([{"text": SENTENCE}, {"text": "b"}, {"text": ["c", "d"]}], indent=1).encode(),
    "jsonl": b"".join(json.dumps({"text": SENTENCE + str(i)}).encode() + b"\n" for i in range(5)),
    "csv": f'id,text\n1,"{SENTENCE}"\n2,"two\nlines"\n3,"a ""quote"""\n4,plain\n'.encode(),
    "parquet": _parquet(),
    "arrow": _arrow(),
    "mediawiki": (
        "<mediawiki><siteinfo/>"
        + "".join(
            f"<page><ns>0</ns><revision><text>'''T''' {SENTENCE} [[a|b]] {{{{c}}}}</text></revision></page>\n"
            for _ in range(3)
        )
        + "</mediawiki>"
    ).encode(),
}


def _damaged(raw: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """Every way a file of a format goes wrong."""
    dice = random.Random(seed)
    place = dice.randrange(len(raw))
    yield "cut short", raw[:place]
    yield "beginning lost", raw[place:]
    yield "bits flipped", bytes(byte ^ (1 << dice.randrange(8)) if dice.random() < 0.02 else byte for byte in raw)
    yield "invalid bytes", raw[:place] + b"\xff\xfe\xc3" + raw[place:]
    yield "NUL bytes", raw[:place] + b"\0" * dice.randrange(1, 9) + raw[place:]
    yield "other encoding inside", raw[:place] + "größte Stra\u00dfe\n".encode("latin-1") + raw[place:]
    yield "lines doubled", raw.replace(b"\n", b"\r\n\n")
    yield "quotes lost", raw.replace(b'"', b"", dice.randrange(1, 4))
    yield "quote added", raw[:place] + b'"' + raw[place:]
    yield "twice", raw + raw


def assert_covered(raw: bytes, **keys: Any) -> None:
    """Every byte is in a tile, and every record has the sha256 of its bytes: `read` fails where that is not so."""
    assert read(raw, **keys) or not raw


def _damaged_files() -> dict[tuple[str, str], list[bytes]]:
    """Different files by format and damage; what a damage left as it was is none."""
    found: dict[tuple[str, str], list[bytes]] = defaultdict(list)
    for kind, raw in SOUND.items():
        known = {raw}
        for damage, damaged in (entry for seed in range(NUM_SEEDS) for entry in _damaged(raw, seed)):
            if damaged not in known:
                found[kind, damage].append(damaged)
                known.add(damaged)
    return found


NUM_SEEDS = 9
DAMAGED = _damaged_files()


@pytest.mark.parametrize(("kind", "damage"), DAMAGED)
def test_damage_of_every_class_is_covered(kind: str, damage: str) -> None:
    for raw in DAMAGED[kind, damage]:
        assert_covered(raw)
        assert_covered(raw, format=kind, max_document_bytes=100)


def test_there_are_six_hundred_damaged_files() -> None:
    assert sum(map(len, DAMAGED.values())) >= 600


@pytest.mark.parametrize("kind", FORMATS)
def test_any_byte_order_mark_before_any_format_is_covered(kind: str) -> None:
    for mark in (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        assert_covered(mark + SOUND[kind])
        assert_covered(mark + SOUND[kind], format=kind)
        assert_covered(mark, format=kind)


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in ("parquet", "arrow")])
def test_wide_text_is_covered_in_every_format(kind: str) -> None:
    for charset in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"):
        wide = SOUND[kind].decode().encode(charset)
        assert_covered(wide)
        assert_covered(wide, format=kind)
        assert_covered(wide[:-1], max_document_bytes=50)


@pytest.mark.parametrize("kind", FORMATS)
def test_one_format_read_as_any_other_is_covered(kind: str) -> None:
    for raw in SOUND.values():
        assert_covered(raw, format=kind)


@pytest.mark.parametrize("kind", FORMATS)
def test_archives_are_covered_wherever_they_are_cut(kind: str) -> None:
    for pack in (gzip.compress, bz2.compress, lzma.compress, zstandard.compress):
        packed = pack(SOUND[kind])
        for end in range(10, len(packed), max(len(packed) // 7, 1)):
            tiles = read(packed[:end])
            assert reasons(tiles)[-1] == "damaged_archive" or end < 20
        assert "damaged_archive" not in reasons(read(packed))


@pytest.mark.parametrize("kind", FORMATS)
@given(raw=st.binary(max_size=400))
@settings(max_examples=40, deadline=None)
def test_any_bytes_are_covered_in_every_format(kind: str, raw: bytes) -> None:
    assert_covered(raw, format=kind, max_document_bytes=64)


TAGS = ["<page>", "</page>", "<text>", "<p>", "<!--"]
LINES = ["\r\n", "\n\n", "---\n", "From a 10:00\n", "Subject: a\n"]
MARKS = [*'"\\[]{},;aé\n\t \ufeff', '{"text":', "{{", "}}", "[[", "]]", *TAGS, *LINES]


@given(
    pieces=st.lists(st.sampled_from(MARKS), max_size=60),
    kind=st.sampled_from([kind for kind in FORMATS if kind not in ("parquet", "arrow")]),
    unit=st.sampled_from(["file", "paragraph", "line"]),
)
@settings(max_examples=400, deadline=None)
def test_any_mixture_of_marks_is_covered(pieces: list[str], kind: str, unit: str) -> None:
    raw = "".join(pieces).encode()
    assert_covered(raw, text_unit=unit)
    assert_covered(raw, format=kind, text_unit=unit, max_document_bytes=20)


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in ("parquet", "arrow")])
def test_tiles_do_not_depend_on_how_much_is_read_at_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [SOUND[kind], *(raw for _, raw in _damaged(SOUND[kind], seed=9))]
    cases = [(raw, limit) for limit in (70, 300, 10_000) for raw in contents]
    at_once = [read(raw, format=kind, max_document_bytes=limit) for raw, limit in cases]
    for module in (content, csv_rows, json_values):
        monkeypatch.setattr(module, "PIECE_BYTES", 7)
    assert [read(raw, format=kind, max_document_bytes=limit) for raw, limit in cases] == at_once
