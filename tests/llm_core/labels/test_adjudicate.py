from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_core.labels.adjudicate import Decision, Method, adjudicate
from llm_core.labels.answers import Span
from tests.llm_core.labels.tasks import labelled

RANKING = ["cyd", "ann", "bob", "dan"]
PARIS, FILM, FINE = Span(5, 10, "place"), Span(2, 4, "thing"), Span(0, 2, "praise")


def decide(answers: Mapping[str, str], method: Method = "majority", truth: str = "") -> Decision:
    return adjudicate(labelled("classification", "text", answers, truth), method, RANKING)


@pytest.mark.parametrize(
    ("answers", "majority", "best"),
    [
        ({"bob": "x"}, ("x", "single", ("bob",)), ("x", "single", ("bob",))),
        ({"ann": "x", "bob": "x"}, ("x", "unanimous", ("ann", "bob")), ("x", "unanimous", ("ann", "bob"))),
        ({"ann": "x", "bob": "x", "cyd": "y"}, ("x", "majority", ("ann", "bob")), ("y", "best", ("cyd",))),
        ({"ann": "x", "bob": "y"}, ("x", "tie", ("ann",)), ("x", "best", ("ann",))),
        ({"ann": "x", "bob": "y", "cyd": "z"}, ("z", "tie", ("cyd",)), ("z", "best", ("cyd",))),
        (
            {"ann": "y", "bob": "x", "cyd": "x", "dan": "y"},
            ("x", "tie", ("bob", "cyd")),
            ("x", "best", ("bob", "cyd")),
        ),
    ],
)
def test_a_label_is_decided(
    answers: Mapping[str, str],
    majority: tuple[str, str, tuple[str, ...]],
    best: tuple[str, str, tuple[str, ...]],
) -> None:
    expected = {"majority": majority, "best": best}
    for method in expected:
        decision = decide(answers, method)  # type: ignore[arg-type]
        assert (decision.answer, decision.how, decision.agreed) == expected[method]


def test_ground_truth_overrules_everybody() -> None:
    for method in ("majority", "best"):
        decision = decide({"ann": "x", "bob": "x", "cyd": "x", "dan": "y"}, method, truth="dan")  # type: ignore[arg-type]
        assert (decision.answer, decision.how, decision.agreed) == ("y", "ground_truth", ("dan",))


@given(st.dictionaries(st.sampled_from(RANKING), st.sampled_from("xyz"), min_size=1))
def test_nobody_outvotes_the_majoritys_answer(answers: dict[str, str]) -> None:
    decision = decide(answers)
    votes = Counter(answers.values())
    assert votes[decision.answer] == max(votes.values()) == len(decision.agreed)
    if decision.how == "tie":
        assert list(votes.values()).count(max(votes.values())) > 1


@pytest.mark.parametrize(
    ("answers", "spans", "how"),
    [
        ({"ann": (PARIS, FILM), "bob": (PARIS,), "cyd": (FINE,)}, (PARIS,), "majority"),
        ({"ann": (PARIS, FILM), "bob": (PARIS, FINE)}, (FILM, PARIS), "tie"),
        ({"ann": (), "bob": (FINE,)}, (), "tie"),
        ({"ann": (FILM,), "bob": (FINE,), "cyd": (PARIS,)}, (), "majority"),
        ({"ann": (PARIS,), "bob": (PARIS,)}, (PARIS,), "unanimous"),
        ({"ann": (FINE,), "bob": (FINE,), "cyd": (PARIS,), "dan": (PARIS, FILM)}, (PARIS,), "tie"),
    ],
)
def test_spans_are_decided_one_by_one(
    answers: Mapping[str, tuple[Span, ...]], spans: tuple[Span, ...], how: str
) -> None:
    answers = {name: tuple(sorted(each)) for name, each in answers.items()}
    decision = adjudicate(labelled("sequence", "0123456789", answers), "majority", RANKING)
    assert (decision.answer, decision.how) == (tuple(sorted(spans)), how)
