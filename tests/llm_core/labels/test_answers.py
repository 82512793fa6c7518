from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_core.labels.answers import Span, parse_result, result_of
from llm_core.labels.task import KINDS, Kind, LabelError
from tests.llm_core.labels.tasks import ANSWERS, make_task

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1, max_size=40).filter(str.strip)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_survives_label_studios_format(kind: Kind) -> None:
    assert parse_result(make_task(kind), result_of(make_task(kind), ANSWERS[kind])) == ANSWERS[kind]


@given(TEXTS, st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.sampled_from("ab")), max_size=5))
def test_spans_of_any_text_survive_label_studios_format(text: str, drawn: list[tuple[int, int, str]]) -> None:
    task = make_task("sequence", text)
    ends = [(min(a, b, len(text) - 1), min(max(a, b) + 1, len(text)), label) for a, b, label in drawn]
    spans = tuple(sorted({Span(*each) for each in ends}))
    assert parse_result(task, result_of(task, spans)) == spans


def span(start: Any, end: Any, text: Any = None, labels: Any = ("place",)) -> list[dict[str, Any]]:
    quoted = {} if text is None else {"text": text}
    return [{"type": "labels", "value": {"start": start, "end": end, "labels": list(labels), **quoted}}]


def test_offsets_that_count_utf16_units_are_put_right_by_the_quoted_text() -> None:
    task = make_task("sequence")  # the emoji before Paris is two units
    start = task.text.index("Paris")
    assert parse_result(task, span(start + 1, start + 6, "Paris")) == (Span(start, start + 5, "place"),)
    assert parse_result(task, span(start, start + 5, "Paris")) == (Span(start, start + 5, "place"),)
    assert parse_result(make_task("sequence", "😀 Paris b"), span(2, 8, " Paris")) == (Span(1, 7, "place"),)


def test_a_quoted_line_end_may_be_written_in_two_characters() -> None:
    task = make_task("sequence")
    start = task.text.index("\n") - 1
    assert parse_result(task, span(start, start + 6, "😀\\nfrom")) == (Span(start, start + 6, "place"),)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (span(0, 5, "Paris"), "0 to 5 is not where its text is"),
        (span(0, 500), "0 to 500 is not where its text is"),
        (span(13, 14, "\ude00"), "is not where its text is"),
        (span(5, 5), "5 to 5: whole numbers are needed"),
        (span(-1, 5), "-1 to 5: whole numbers are needed"),
        (span("0", 5), "'0' to 5: whole numbers are needed"),
        (span(0, True), "0 to True: whole numbers are needed"),
        (span(0, 1, labels=()), "has no label"),
        (span(0, 1, labels=[3]), "labels is of type int"),
        ([{"type": "labels"}], "labels result has no value"),
        ("[]", "no list of objects"),
        ([[]], "no list of objects"),
        (None, "no list of objects"),
    ],
)
def test_a_malformed_span_is_refused(result: Any, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        parse_result(make_task("sequence"), result)


def result(kind: str, **value: Any) -> list[dict[str, Any]]:
    return [{"type": kind, "value": value}]


@pytest.mark.parametrize(
    ("kind", "given_result", "message"),
    [
        ("classification", [], "0 choices results, one is needed"),
        ("classification", result("choices", choices=["good", "bad"]), "choices holds 2 entries"),
        ("classification", result("choices", choices=[]), "choices holds 0 entries"),
        ("classification", result("choices", choices=[{}]), "choices is of type dict"),
        ("classification", result("choices"), "choices is missing"),
        ("classification", result("choices", choices=["a"]) * 2, "2 choices results"),
        ("pairs", result("textarea", text=["", "x"]), "text holds 2 entries"),
        ("pairs", result("textarea", text=["  "]), "text is empty"),
        ("chat", result("textarea", text=["\ud800"]), "half of a surrogate pair"),
        ("preference", result("pairwise", selected="both"), "selected is 'both'"),
        ("preference", result("choices", choices=["left"]), "0 pairwise results"),
    ],
)
def test_a_malformed_answer_is_refused(kind: Kind, given_result: Any, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        parse_result(make_task(kind), given_result)


def test_a_text_without_spans_is_an_answer() -> None:
    assert parse_result(make_task("sequence"), []) == ()


def test_other_controls_of_the_page_are_passed_over() -> None:
    task = make_task()
    comment = {"type": "textarea", "value": {"text": ["not sure"]}}
    assert parse_result(task, [comment, *result_of(task, "good")]) == "good"


def test_a_comment_in_a_field_of_the_answers_type_is_passed_over() -> None:
    task = make_task("pairs")
    comment = {"from_name": "comment", "type": "textarea", "value": {"text": ["not sure"]}}
    assert parse_result(task, [comment, *result_of(task, "Good day")]) == "Good day"


def test_a_span_with_two_labels_is_two_spans() -> None:
    spans = parse_result(make_task("sequence"), span(2, 6, labels=["b", "a"]))
    assert spans == (Span(2, 6, "a"), Span(2, 6, "b"))
