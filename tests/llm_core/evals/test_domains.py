"""Questions are sliced by field and answered by the likeliest letter."""

from __future__ import annotations

import math

import pytest

from llm_core.evals.domains import domains_suite, field_of, in_fields, letters, prompt
from tests.llm_core.evals.answering import Answering


def _question(subject: str, answer: int) -> dict:
    return {"question": f"Q {subject}", "choices": ["w", "x", "y"], "answer": answer, "subject": subject}


def test_accuracy_is_counted_over_all_and_in_each_field() -> None:
    subjects = [("professional_law", 1), ("jurisprudence", 0), ("anatomy", 1), ("astronomy", 1)]
    examples = in_fields(_question(*subject) for subject in subjects)
    suite = domains_suite()
    rows = suite.rows(Answering(logprob=lambda context, letter: 0.0 if letter == " B" else -1.0), examples)
    totals = suite.totals(rows)
    assert rows["slice"].tolist() == ["law", "law", "medicine"]
    assert totals["domains/accuracy"] == pytest.approx(2 / 3)
    assert (totals["domains/accuracy_law"], totals["domains/accuracy_medicine"]) == (0.5, 1.0)
    assert math.isnan(totals["domains/accuracy_education"])


def test_choices_stand_under_letters() -> None:
    assert prompt(_question("law", 0)) == "Q law\nA. w\nB. x\nC. y\nAnswer:"


@pytest.mark.parametrize(
    ("subject", "field"),
    [
        ("International_Law", "law"),
        ("college_medicine", "medicine"),
        ("Education Policy", "education"),
        ("physics", None),
    ],
)
def test_a_subject_belongs_to_a_field_by_its_name(subject: str, field: str | None) -> None:
    assert field_of(subject) == field


@pytest.mark.parametrize("change", [{"answer": 3}, {"answer": "B"}, {"choices": ["one"], "answer": 0}])
def test_an_answer_that_is_no_choice_is_refused(change: dict) -> None:
    with pytest.raises(ValueError, match="the place of one, from 0"):
        letters(_question("law", 0) | change)
