"""Scores of written answers are those of sacrebleu, rouge-score and SQuAD's script."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from llm_core.evals.generation import SIGNATURE, MissingReference, generation_suite, score_answers
from tests.llm_core.evals.answering import Answering

WORDS = ["the", "a", "river", "Mill", "runs,", "quickly.", "over", "an", "old", "stone's", "wheel;", "42", "—", "Ñandú"]
RNG = np.random.default_rng(7)
SUITE = generation_suite()


def _text(most: int = 14) -> str:
    return " ".join(RNG.choice(WORDS, RNG.integers(1, most)))


def _near(text: str) -> str:
    """The text with some of its words replaced, so that n-grams are shared."""
    return " ".join(word if RNG.random() < 0.7 else str(RNG.choice(WORDS)) for word in text.split(" "))


REFERENCES = [[_text(), _text()] for _ in range(60)]
ANSWERS = [_near(wanted[0]) for wanted in REFERENCES[:-2]] + ["", "the"]
ROWS = score_answers(ANSWERS, REFERENCES)


def _totals(rows: pd.DataFrame) -> dict[str, float]:
    return {name.removeprefix("generation/"): value for name, value in SUITE.totals(rows).items()}


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_corpus_numbers_are_those_of_sacrebleus_command(metric: str, tmp_path: Path) -> None:
    (tmp_path / "answers").write_text("\n".join(ANSWERS) + "\n")
    for number in (0, 1):
        (tmp_path / f"{number}").write_text("\n".join(wanted[number] for wanted in REFERENCES) + "\n")
    command = [sys.executable, "-m", "sacrebleu", "0", "1", "-i", "answers", "-m", metric, "-w", "6", "--force"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    theirs = json.loads(done.stdout)
    assert _totals(ROWS)[metric] == pytest.approx(theirs["score"], abs=1e-4)
    assert theirs["signature"] in ROWS[SIGNATURE][0]


def test_a_resample_of_rows_is_the_corpus_of_those_examples() -> None:
    drawn = RNG.integers(len(ANSWERS), size=len(ANSWERS))
    answers, streams = [ANSWERS[i] for i in drawn], list(zip(*(REFERENCES[i] for i in drawn), strict=True))
    totals = _totals(ROWS.iloc[drawn])
    assert totals["bleu"] == pytest.approx(sacrebleu.corpus_bleu(answers, streams).score, abs=1e-4)
    assert totals["chrf"] == pytest.approx(sacrebleu.corpus_chrf(answers, streams).score, abs=1e-4)
    assert totals["bleu"] != pytest.approx(_totals(ROWS)["bleu"], abs=1e-4)


def test_examples_may_have_different_numbers_of_references() -> None:
    rows = score_answers(["the old mill", "water falls"], [["an old mill"], ["water falls", "the water"]])
    theirs = sacrebleu.corpus_chrf(
        ["the old mill", "water falls"], [["an old mill", "water falls"], [None, "the water"]]
    )
    assert _totals(rows)["chrf"] == pytest.approx(theirs.score, abs=1e-4)
    assert "nrefs:var" in rows[SIGNATURE][0]


@pytest.mark.parametrize("metric", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_that_of_rouge_score(metric: str) -> None:
    scorer = RougeScorer([metric])
    pairs = zip(REFERENCES, ANSWERS, strict=True)
    theirs = [scorer.score_multi(wanted, answer)[metric].fmeasure for wanted, answer in pairs]
    assert list(ROWS[metric]) == pytest.approx(theirs, abs=1e-9)
    assert len(set(theirs)) > 10


@pytest.mark.parametrize(
    ("answer", "wanted", "exact", "f1"),
    [
        ("The Mill!", ["mill"], 1, 1),
        ("a", ["the"], 1, 1),
        ("", ["the."], 1, 1),
        ("", ["mill"], 0, 0),
        ("stone's", ["Stones"], 1, 1),
        ("x y", ["y  X x"], 0, 0.8),
        ("old river", ["mill", "the old mill"], 0, 0.5),
        ("theatre an", ["atre"], 0, 0),
    ],
)
def test_answers_are_compared_as_by_squads_script(answer: str, wanted: list[str], exact: float, f1: float) -> None:
    """The numbers are those of SQuAD 2's script on these answers."""
    rows = score_answers([answer], [wanted])
    assert (rows["exact_match"][0], rows["f1"][0]) == pytest.approx((exact, f1))


def test_shots_stand_solved_in_front_of_each_prompt() -> None:
    subject = Answering(lambda prompt: " Rome\nQ: more")
    shot = {"prompt": "Q: France? A:", "references": ["Paris", "paris"]}
    suite = generation_suite(shots=[shot])
    rows = suite.rows(subject, [{"prompt": "Q: Italy? A:", "references": ["rome"]}])
    assert subject.prompts == ["Q: France? A: Paris\n\nQ: Italy? A:"]
    assert rows["answer"].tolist() == ["Rome"]
    assert suite.totals(rows)["generation/exact_match"] == 1.0


def test_answers_end_after_max_tokens() -> None:
    rows = generation_suite(max_tokens=2).rows(
        Answering(lambda prompt: "one two three"), [{"prompt": "", "references": ["x"]}]
    )
    assert rows["answer"][0] == "one two"


@pytest.mark.parametrize("references", [[], "a text"])
def test_an_example_without_a_list_of_references_is_refused(references: object) -> None:
    with pytest.raises(MissingReference, match='"references" must be a list'):
        score_answers(["x"], [references])  # type: ignore[list-item]
