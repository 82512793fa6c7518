"""Rows of Parquet and Arrow files are records; a damaged file keeps the rows before the damage."""

from __future__ import annotations

import gzip
import hashlib
import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.llm_core.text.readers.reading import read, reasons, texts

ROWS = ["one", None, "", "zwei ö", "x" * 50] * 20


def _parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def _arrow(table: pa.Table, kind: Any) -> bytes:
    sink = io.BytesIO()
    with kind(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return sink.getvalue()


def _stored(table: pa.Table) -> list[bytes]:
    return [
        _parquet(table),
        _parquet(table, row_group_size=7),
        _arrow(table, pa.ipc.new_file),
        _arrow(table, pa.ipc.new_stream),
    ]


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_each_row_is_a_record_in_its_order(place: int, pack: type[bytes]) -> None:
    tiles = read(pack(_stored(pa.table({"id": range(len(ROWS)), "text": ROWS}))[place]), max_document_bytes=40)
    assert [(tile.start, tile.end, tile.unit) for tile in tiles] == [(row, row + 1, "row") for row in range(len(ROWS))]
    assert texts(tiles) == ["one", "zwei ö"] * 20
    assert reasons(tiles) == ["no_text", "empty", "too_large"] * 20
    assert tiles[3].sha256 == hashlib.sha256("zwei ö".encode()).hexdigest()


@pytest.mark.parametrize("place", range(4))
def test_texts_may_be_lists_dictionaries_or_absent(place: int) -> None:
    lists = pa.table({"text": [["a", "b"], None]})
    coded = pa.table({"text": pa.array(["a", "b", "a"]).dictionary_encode()})
    assert texts(read(_stored(lists)[place])) == ["a\nb"]
    assert texts(read(_stored(coded)[place])) == ["a", "b", "a"]
    assert reasons(read(_stored(pa.table({"id": [1, 2]}))[place])) == ["no_text", "no_text"]
    assert reasons(read(_stored(pa.table({"text": [1, 2]}))[place])) == ["no_text", "no_text"]


@pytest.mark.parametrize("place", range(4))
def test_a_row_that_is_no_utf8_is_lost_alone(place: int) -> None:
    raw = pa.array([b"one", b"\xff\xfe", b"three"])
    column = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    tiles = read(_stored(pa.table({"text": column}))[place])
    assert (texts(tiles), reasons(tiles)) == (["one", "three"], ["undecodable"])


def test_a_cut_file_is_rejected_as_a_file() -> None:
    for raw in _stored(pa.table({"text": ROWS}))[:3]:
        tiles = read(raw[:-20])
        assert reasons(tiles) == ["damaged_table"]
        assert tiles[-1].unit == "file"


def test_rows_before_the_damage_stay() -> None:
    stream = _arrow(pa.table({"text": ["one"] * 70}), pa.ipc.new_stream)
    tiles = read(stream[: len(stream) // 2])
    assert len(texts(tiles)) in range(7, 70, 7)
    assert (reasons(tiles), tiles[-1].unit) == (["damaged_table"], "file")


def test_a_column_that_grows_too_much_is_a_bomb() -> None:
    table = pa.table({"text": ["x" * 30_000_000], "id": [1]})
    assert reasons(read(_parquet(table, compression="zstd"))) == ["bomb"]


def test_other_files_called_parquet_are_refused() -> None:
    assert reasons(read(b"PAR1 and nothing more")) == ["damaged_table"]
    assert reasons(read(b"text", format="arrow")) == ["damaged_table"]
