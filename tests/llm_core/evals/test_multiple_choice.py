"""The likeliest choice is the answer, raw and for its length; the right one's lead is the margin."""

from __future__ import annotations

from typing import Any

import pytest

from llm_core.evals.multiple_choice import ChoicesError, multiple_choice_suite
from tests.llm_core.evals.answering import Answering

LOGPROBS = {" yes": -2.0, " certainly not": -5.2, " no": -3.0, " maybe": -3.5}
EXAMPLES: list[dict[str, Any]] = [
    {"context": "Is it?", "choices": ["yes", "no", "maybe"], "answer": 0},
    {"context": "Is it not?", "choices": ["yes", "certainly not"], "answer": 1},
    {"context": "Or?", "choices": ["maybe", "no"], "answer": 0},
]


def _subject() -> Answering:
    return Answering(logprob=lambda context, text: LOGPROBS[text])


def test_accuracy_is_raw_and_for_the_length_of_choices() -> None:
    suite = multiple_choice_suite()
    rows = suite.rows(_subject(), EXAMPLES)
    assert rows["chosen"].tolist() == [0, 0, 1]
    assert rows["chosen_norm"].tolist() == [0, 1, 0]  # -2/3, -3/2, -3.5/5; -2/3, -5.2/13; -3.5/5, -3/2
    assert rows["margin"].tolist() == pytest.approx([1.0, -3.2, -0.5])
    totals = suite.totals(rows)
    assert totals["multiple_choice/accuracy"] == pytest.approx(1 / 3)
    assert totals["multiple_choice/accuracy_norm"] == 1.0


def test_solved_examples_stand_in_front() -> None:
    asked: list[str] = []
    subject = Answering(logprob=lambda context, text: asked.append(context) or LOGPROBS[text])  # type: ignore[func-returns-value]
    multiple_choice_suite(shots=EXAMPLES[:2]).rows(subject, EXAMPLES[2:])
    assert asked == ["Is it? yes\n\nIs it not? certainly not\n\nOr?"] * 2


@pytest.mark.parametrize(
    ("choices", "answer"), [(["a"], 0), (["a", "b"], 2), (["a", "b"], -1), (["a", "b"], "b"), (["a", ""], 0)]
)
def test_examples_without_a_right_choice_are_refused(choices: list[str], answer: Any) -> None:
    with pytest.raises(ChoicesError, match="two texts or more, and the place of one"):
        multiple_choice_suite().rows(_subject(), [{"context": "x", "choices": choices, "answer": answer}])
