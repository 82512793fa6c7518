"""Segments are words of the language, and joined they are the text again."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_core.text import segmentation
from llm_core.text.segmentation import SegmenterError, segment


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("Don't stop!", ["Don't", " ", "stop", "!"]),
        ("3.14 of 1,000.", ["3.14", " ", "of", " ", "1,000", "."]),
        ("well-known  x\n", ["well", "-", "known", "  ", "x", "\n"]),
        ("Äpfel, naïve", ["Äpfel", ",", " ", "naïve"]),
        ("cafe\u0301 e\u0301", ["cafe\u0301", " ", "e\u0301"]),
        ("हिन्दी में", ["हिन्दी", " ", "में"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("你好，world", ["你", "好", "，", "world"]),
        ("日本語のテスト", list("日本語のテスト")),
        ("ดี", ["ดี"]),
        ("a_b", ["a", "_", "b"]),
        ("", []),
    ],
)
def test_words_punctuation_and_white_space_are_apart(text: str, segments: list[str]) -> None:
    assert segment(text, "") == segments


@settings(deadline=None)
@given(st.text())
def test_joined_segments_are_the_text(text: str) -> None:
    assert "".join(segment(text, "zh")) == text


@settings(deadline=None)
@given(st.text("我来到北京清华大学，a 1.\n𠀀"))
def test_joined_words_of_jieba_are_the_text(text: str) -> None:
    pytest.importorskip("jieba")
    assert "".join(segment(text, "zh", "jieba")) == text


def test_jieba_finds_words_of_several_characters_in_chinese_only() -> None:
    pytest.importorskip("jieba")
    assert segment("我来到北京清华大学。", "zh", "jieba") == ["我", "来到", "北京", "清华大学", "。"]
    assert segment("東京大学", "ja", "jieba") == list("東京大学")


def test_jieba_reads_and_writes_no_cache_that_others_could_have_planted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jieba")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "jieba.cache").write_bytes(b"planted")
    segmentation._load_jieba.cache_clear()
    assert segment("北京", "zh", "jieba") == ["北京"]
    assert [path.name for path in tmp_path.iterdir()] == ["jieba.cache"]
    assert (tmp_path / "jieba.cache").read_bytes() == b"planted"


def test_a_missing_jieba_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jieba", None)
    segmentation._load_jieba.cache_clear()
    with pytest.raises(SegmenterError, match=r"pip install tidemill\[zh\]"):
        segment("北京", "zh", "jieba")
