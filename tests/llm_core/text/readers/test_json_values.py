"""The elements of JSON arrays, and the lines of JSON Lines, are found with their exact bytes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.llm_core.text.readers.reading import read, reasons, records, texts

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='a"\\[]{},:\n é', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab"', max_size=2), inner, max_size=3),
    max_leaves=12,
)


@given(values=st.lists(VALUES, max_size=8), indent=st.sampled_from([None, 0, 2]))
def test_each_element_is_a_record_with_exactly_its_bytes(values: list[object], indent: int | None) -> None:
    raw = (" \n" + json.dumps(values, indent=indent, ensure_ascii=False) + "\n").encode()
    tiles = read(raw, format="json")
    assert [json.loads(found) for found in records(raw, tiles)] == values


@given(values=st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=3), min_size=2, max_size=6))
def test_each_line_is_a_record_with_exactly_its_bytes(values: list[object]) -> None:
    raw = "".join(
        json.dumps(value) + end for value, end in zip(values, ["\n", "\r\n", "\n\n"] * 2, strict=False)
    ).encode()
    tiles = read(raw)
    assert [json.loads(found) for found in records(raw, tiles)] == values


def test_an_object_is_one_record() -> None:
    raw = b'\xef\xbb\xbf{\n "text": "a"\n}\n'
    assert texts(read(raw)) == ["a"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"text": b}', "not_json"),
        (b'{"text": "b"} x', "not_json"),
        (b'{"text": "\xff\xfe"}', "undecodable"),
        (b'{"text": "' + b"b" * 200 + b'"}', "too_large"),
        (b'{"text": "\\"}]},{' + b"b" * 400_000 + b'"}', "too_large"),
        (b"[" * 600 + b"]" * 600, "too_deep"),
        (b'{"text": " "}', "empty"),
    ],
)
def test_a_bad_element_or_line_is_lost_alone(bad: bytes, reason: str) -> None:
    limit = 100 if reason == "too_large" else 10_000
    for raw in (b'[{"text": "a"}, ' + bad + b' ,{"text": "c"}]', b'{"text": "a"}\n' + bad + b'\n{"text": "c"}\n'):
        tiles = read(raw, max_document_bytes=limit)
        assert (texts(tiles), reasons(tiles)) == (["a", "c"], [reason])


def test_what_stands_behind_an_array_is_rejected() -> None:
    tiles = read(b'[{"text": "a"}] trailing')
    assert (texts(tiles), reasons(tiles)) == (["a"], ["not_json"])


def test_elements_before_the_end_of_a_cut_file_stay() -> None:
    tiles = read(b'[{"text": "a"}, {"text": "b"}, {"text": "c')
    assert (texts(tiles), reasons(tiles)) == (["a", "b"], ["not_json"])


def test_long_objects_on_lines_are_json_lines_without_a_name_for_it() -> None:
    raw = b"".join(json.dumps({"text": letter * 70_000}).encode() + b"\n" for letter in "abc")
    assert [text[0] for text in texts(read(raw, "data.json"))] == ["a", "b", "c"]


def test_elements_larger_than_what_is_read_at_once_are_read() -> None:
    values = [{"text": "x" * size} for size in (5, 300_000, 5, 900_000, 5)]
    raw = json.dumps(values).encode()
    assert [len(text) for text in texts(read(raw))] == [5, 300_000, 5, 900_000, 5]
