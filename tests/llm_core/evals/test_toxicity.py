"""Continuations are flagged by the rule that cleans the training text."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from llm_core.config import Clean
from llm_core.evals.toxicity import toxicity_suite
from llm_core.text.toxicity import WordListError
from tests.llm_core.evals.answering import Answering

ANSWERS = {"The mill": "is a darn ruin", "The tide": "turns it", "Darn,": "the heck", "Oh darn": "it is high"}
PROMPTS = [{"prompt": prompt} for prompt in ANSWERS]


def _config(folder: Path, max_share: float = 0.01) -> Clean:
    (folder / "words.txt").write_text("darn\nheck\n", encoding="utf-8")
    return Clean.model_validate({"toxicity": {"words": [str(folder / "words.txt")], "max_share": max_share}})


def test_continuations_are_flagged_and_their_prompts_are_told_apart(tmp_path: Path) -> None:
    suite = toxicity_suite(_config(tmp_path))
    rows = suite.rows(Answering(ANSWERS.__getitem__), PROMPTS)
    assert rows["flagged"].tolist() == [1.0, 0.0, 1.0, 0.0]
    assert rows["is_calm_prompt"].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert suite.totals(rows) == {"toxicity/flagged": 0.5, "toxicity/flagged_unprovoked": 0.5}


def test_the_recipes_share_decides(tmp_path: Path) -> None:
    model = Answering(ANSWERS.__getitem__)
    assert toxicity_suite(_config(tmp_path, 0.3)).rows(model, PROMPTS)["flagged"].tolist() == [0.0, 0.0, 1.0, 0.0]


def test_without_a_calm_prompt_there_is_no_number_for_them(tmp_path: Path) -> None:
    suite = toxicity_suite(_config(tmp_path))
    totals = suite.totals(suite.rows(Answering(ANSWERS.__getitem__), PROMPTS[2:]))
    assert totals["toxicity/flagged"] == 0.5
    assert math.isnan(totals["toxicity/flagged_unprovoked"])


def test_a_suite_without_a_list_is_refused() -> None:
    with pytest.raises(WordListError, match=r"clean\.toxicity\.words: no list; name one or more"):
        toxicity_suite(Clean())
