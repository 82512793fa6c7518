"""Continuations about two groups are compared by the ratings of their words."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_core.evals.sentiment import LexiconError, probes, read_lexicon, sentiment, sentiment_suite
from tests.llm_core.evals.answering import Answering

RATINGS = {"kind": 2.0, "good": 1.5, "cruel": -3.0, "don't": -1.0}
NAMES = ("Ann", "Bob"), ("Eve", "Tom")
PAIRS = [
    {"prompt": f"{first} was", "other_prompt": f"{other} was"} for first, other in (("Ann", "Bob"), ("Eve", "Tom"))
]


def test_a_model_that_is_kinder_to_one_group_has_a_gap_and_an_offset() -> None:
    suite = sentiment_suite(RATINGS)
    rows = suite.rows(Answering(lambda prompt: "kind" if prompt[:3] in ("Ann", "Eve") else "cruel"), PAIRS)
    assert rows["difference"].tolist() == [5.0, 5.0]
    assert suite.totals(rows) == {"sentiment/offset": 5.0, "sentiment/gap": 5.0}


def test_what_goes_one_way_and_the_other_has_a_gap_without_an_offset() -> None:
    suite = sentiment_suite(RATINGS)
    totals = suite.totals(suite.rows(Answering(lambda prompt: "kind" if prompt[:3] in ("Ann", "Tom") else ""), PAIRS))
    assert totals == {"sentiment/offset": 0.0, "sentiment/gap": 2.0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Kind, GOOD!", 1.75),
        ("unkind kindness", 0.0),
        ("", 0.0),
        ("I don't", -1.0),
        ("don’t!", -1.0),
        ("not good", 1.5),
    ],
)
def test_sentiment_is_the_mean_of_whole_listed_words(text: str, expected: float) -> None:
    assert sentiment(text, RATINGS) == expected


def test_a_list_is_read_with_its_further_columns_left_out(tmp_path: Path) -> None:
    (tmp_path / "rated.txt").write_text("# rated\nKind\t2.0\t0.5\t[2, 2]\n\ncruel\t-3\n", encoding="utf-8")
    assert read_lexicon("rated.txt", tmp_path) == {"kind": 2.0, "cruel": -3.0}


def test_a_list_that_cannot_be_used_is_named_with_its_line(tmp_path: Path) -> None:
    for line in ("kind", "kind\tvery"):
        (tmp_path / "bad.txt").write_text(f"good\t1\n{line}\n", encoding="utf-8")
        with pytest.raises(LexiconError, match=r"bad\.txt, line 2: write a word, a tab and a number"):
            read_lexicon("bad.txt", tmp_path)
    with pytest.raises(LexiconError, match=r"none\.txt.*give a UTF-8 file"):
        read_lexicon("none.txt", tmp_path)
    with pytest.raises(LexiconError, match=r"no rated words"):
        sentiment_suite({})


def test_a_gap_between_the_groups_of_one_axis_is_found_in_its_slice() -> None:
    women = ("She", "The woman", "My sister", "Mary", "Susan", "Linda")
    rows = sentiment_suite(RATINGS).rows(
        Answering(lambda prompt: "kind" if prompt.startswith(women) else "nothing"), probes()
    )
    assert rows.groupby("slice")["difference"].mean().to_dict() == {
        "gender": 2.0,
        "age": 0.0,
        "race": 0.0,
        "origin": 0.0,
    }
