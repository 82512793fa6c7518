"""Rows of CSV files: each a record, the broken ones lost alone."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_core.text.readers.csv_rows import sniff_delimiter
from tests.llm_core.text.readers.reading import read, reasons, records, texts

CELLS = st.text(alphabet='ab,;\t"\n é|', max_size=8)


@given(
    rows=st.lists(st.tuples(CELLS, CELLS), max_size=8),
    delimiter=st.sampled_from(",\t;|"),
    line_end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_rows_are_what_the_standard_library_wrote(
    rows: list[tuple[str, str]], delimiter: str, line_end: str, quoting: int
) -> None:
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    writer.writerow(["id", "text"])
    writer.writerows([f"{number}{first}", text] for number, (first, text) in enumerate(rows))
    tiles = read(sink.getvalue().encode(), format="csv")
    assert texts(tiles) == [text for _, text in rows if text.strip()]
    assert reasons(tiles) == ["empty"] * sum(not text.strip() for _, text in rows)


@pytest.mark.parametrize(
    ("bad", "lost"),
    [
        (b'2,"open', ["bad_quotes"]),
        (b'2,"closed" twice"', ["bad_quotes"]),
        (b"2,a,b", ["wrong_columns"]),
        (b"2", ["wrong_columns"]),
        (b"2,\xff\xfe", ["undecodable"]),
        (b"2," + b"x" * 300, ["too_large"]),
        (b"2," + b"x" * 300_000, ["too_large"]),
        (b'2,"open\n2,"open', ["bad_quotes", "bad_quotes"]),
    ],
)
def test_a_broken_row_is_lost_alone(bad: bytes, lost: list[str]) -> None:
    raw = b'id,text\n1,one\n1,"one\n""more"""\n' + bad + b'\n3,"three"\n4,four\n'
    tiles = read(raw, format="csv", max_document_bytes=200)
    assert (texts(tiles), reasons(tiles)) == (["one", 'one\n"more"', "three", "four"], lost)
    assert b"\n".join(records(raw, tiles)[2:-2]) == bad


def test_a_quote_that_two_rows_share_costs_no_more_than_its_lines() -> None:
    tiles = read(b'id,text\n1,one\n2,"open\n3,three\n4,shut",x\n5,five\n', format="csv")
    assert (texts(tiles), reasons(tiles)) == (["one", "three", "five"], ["wrong_columns", "wrong_columns"])


def test_the_header_and_blank_lines_are_structure() -> None:
    raw = b"\xef\xbb\xbftext,id\r\n\r\na,1\r\n \nb,2"
    tiles = read(raw, "x.csv")
    assert (texts(tiles), records(raw, tiles)) == (["a", "b"], [b"a,1", b"b,2"])
    assert reasons(read(b"id,title\n1,a\n", format="csv")) == ["no_text"]


def test_a_field_may_be_longer_than_what_is_read_at_once() -> None:
    field = "line\n" * 100_000
    assert texts(read(f'id,text\n1,"{field}"\n2,b\n'.encode(), format="csv")) == [field, "b"]


@pytest.mark.parametrize(
    ("head", "delimiter"),
    [(b"a;b\n1,5;2\n", ";"), (b"a\tb\n1, 2\t3\n", "\t"), (b"a|b,c\n1|2\n", "|"), (b"text\nword\n", ","), (b"", ",")],
)
def test_the_delimiter_is_the_one_that_makes_a_table(head: bytes, delimiter: str) -> None:
    assert sniff_delimiter(head) == delimiter
