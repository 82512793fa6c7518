"""JSON values become texts, strictly by the standard and without recursion."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_core.config import Collect
from llm_core.text.document import Rejection
from llm_core.text.readers.json_record import MAX_DEPTH, json_text

CFG = Collect(text_keys=("text", "body"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"text": "a", "body": "b"}, "a"),
        ({"body": "b"}, "b"),
        ({"text": None, "body": "b"}, "b"),
        ({"text": ["a", "b"]}, "a\nb"),
        ("bare", "bare"),
        ({"text": "\U0001f600"}, "\U0001f600"),
    ],
)
def test_the_first_text_key_that_is_there_counts(value: object, text: str) -> None:
    assert json_text(json.dumps(value).encode(), CFG, 0) == text


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"other": "a"}', "no_text"),
        (b'{"text": 1}', "no_text"),
        (b'{"text": ["a", 1]}', "no_text"),
        (b"[1]", "no_text"),
        (b'{"text": "a", "text": "b"}', "duplicate_keys"),
        (b'{"text": "a", "x": {"y": 1, "y": 2}}', "duplicate_keys"),
        (b'{"text": "a", "x": NaN}', "not_json"),
        (b'{"text": "a", "x": -Infinity}', "not_json"),
        (b'{"text": "\\ud800"}', "not_json"),
        (b'{"text": "\\uDFFF secret"}', "not_json"),
        (b'{"text": "a"', "not_json"),
        (b'{"text": "a"} {}', "not_json"),
        (b'{"text": "a\nb"}', "not_json"),
        (b'{"text": "a", "x": 1' + b"0" * 5000 + b"}", "not_json"),
        (b'{"text": "\xff\xfe\xff"}', "undecodable"),
        (b"[" * 100_000 + b"]" * 100_000, "too_deep"),
        (b'{"a":' * 100_000, "too_deep"),
    ],
)
def test_a_value_without_a_text_has_a_reason(raw: bytes, reason: str) -> None:
    found = json_text(raw, CFG, 0)
    assert isinstance(found, Rejection)
    assert found.reason == reason
    assert "secret" not in found.detail


def test_brackets_inside_strings_do_not_make_a_value_deep() -> None:
    text = '[{"\\' * 5000
    assert json_text(json.dumps({"text": text}).encode(), CFG, 0) == text


def test_the_depth_that_is_allowed_is_read() -> None:
    raw = b'{"text": "a", "x": ' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    assert json_text(raw, CFG, 0) == "a"


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])), ascii_only=st.booleans())
def test_any_text_comes_through(text: str, ascii_only: bool) -> None:
    assert json_text(json.dumps({"text": text}, ensure_ascii=ascii_only).encode(), CFG, 0) == text
