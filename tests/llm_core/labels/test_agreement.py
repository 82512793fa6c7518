from __future__ import annotations

import sys
import tracemalloc
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_core.labels.agreement import cohen_kappa, measure, text_similarity
from llm_core.labels.answers import Annotation, Labelled, Span
from llm_core.labels.task import LabelError
from tests.llm_core.labels.tasks import columns, labelled, make_task

Rows = Mapping[str, Sequence[str | None]]


def rows(**written: str) -> dict[str, list[str | None]]:
    return {name: [None if value == "." else value for value in row] for name, row in written.items()}


# Four observers, twelve units, as in Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C.
RELIABILITY_DATA = rows(a="123321412...", b="1233224125.3", c=".3332342251.", d="12332441251.")


@pytest.mark.parametrize(
    ("data", "alpha"),
    [
        (rows(meg="0100000010", owen="1110010000"), 0.095),
        (rows(ben="aabbdcccedda", gerry="babbbccceddd"), 0.692),
        (RELIABILITY_DATA, 0.743),
    ],
)
def test_alpha_is_krippendorffs_own_examples(data: Rows, alpha: float) -> None:
    assert measure("classification", columns("classification", data)).alpha == pytest.approx(alpha, abs=5e-4)


def test_kappa_is_cohens_own_example() -> None:
    """Cohen 1960, table 2: 200 subjects, 70 % observed and 41 % expected agreement, kappa 0.492."""
    table = [[88, 14, 18], [10, 40, 10], [2, 6, 12]]
    judged = [(a, b) for a, row in enumerate(table) for b, count in enumerate(row) for _ in range(count)]
    first, second = (np.array(row) for row in zip(*judged, strict=True))
    assert cohen_kappa(first, second) == pytest.approx(0.29 / 0.59)


def naive_alpha(data: Rows) -> float | None:
    """1 - observed / expected disagreement, pair by pair, as in the definition."""
    units = [[value for value in column if value is not None] for column in zip(*data.values(), strict=True)]
    units = [unit for unit in units if len(unit) > 1]
    values = [value for unit in units for value in unit]
    if len(set(values)) < 2:
        return None
    observed = sum(sum(a != b for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units) / len(values)
    expected = sum(a != b for a, b in permutations(values, 2)) / (len(values) * (len(values) - 1))
    return 1 - observed / expected


def naive_kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    ours, theirs, size = Counter(first), Counter(second), len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / size
    expected = sum(ours[value] * theirs[value] for value in ours) / size**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


CELLS = st.sampled_from(["x", "y", "z", None])
DATA = (
    st.integers(1, 12)
    .flatmap(lambda size: st.lists(st.lists(CELLS, min_size=size, max_size=size), min_size=2, max_size=4))
    .map(lambda drawn: {f"annotator {i}": row for i, row in enumerate(drawn)})
)


@settings(max_examples=60, deadline=None)
@given(DATA)
def test_agreement_is_its_definition_on_any_labels(data: Rows) -> None:
    tasks = [task for task in columns("classification", data) if task.annotations]
    measured = measure("classification", tasks)
    expected = naive_alpha(data)
    assert measured.alpha == (None if expected is None else pytest.approx(expected))
    found = {(pair.first, pair.second): pair for pair in measured.pairs}
    for first, second in combinations(data, 2):
        both = [(a, b) for a, b in zip(data[first], data[second], strict=True) if a is not None and b is not None]
        assert ((first, second) in found) == bool(both)
        if both:
            pair, kappa = found[first, second], naive_kappa(*zip(*both, strict=True))
            assert pair.tasks == pair.units == len(both)
            assert pair.observed == pytest.approx(sum(a == b for a, b in both) / len(both))
            assert pair.kappa == (None if kappa is None else pytest.approx(kappa))


@settings(max_examples=40, deadline=None)
@given(DATA)
def test_spans_over_single_characters_agree_as_labels_do(data: Rows) -> None:
    """A text of one character is one unit, so that both ways to count must give one result."""
    spans = [
        Labelled(
            make_task("sequence", "x"),
            [Annotation(each.annotator, (Span(0, 1, str(each.answer)),)) for each in task.annotations],
        )
        for task in columns("classification", data)
        if task.annotations
    ]
    as_labels = [task for task in columns("classification", data) if task.annotations]
    assert measure("sequence", spans).alpha == measure("classification", as_labels).alpha


def test_spans_are_compared_character_by_character() -> None:
    """10 characters: both mark 2..6, one goes on to 8. 8 of 10 agree; chance: .4 * .6 + .6 * .4 = .48."""
    ours, theirs = (Span(2, 6, "place"),), (Span(2, 8, "place"),)
    (pair,) = measure("sequence", [labelled("sequence", "0123456789", {"ann": ours, "bob": theirs})]).pairs
    assert (pair.tasks, pair.units, pair.observed) == (1, 10, 0.8)
    assert pair.kappa == pytest.approx((0.8 - 0.48) / 0.52)


def test_a_character_with_two_labels_differs_from_one_with_either() -> None:
    first, second = Span(0, 4, "a"), Span(0, 4, "b")
    answers = {"ann": (first, second), "bob": (second, first), "cyd": (first,), "dan": (second,)}
    pairs = measure("sequence", [labelled("sequence", "0123", answers)]).pairs
    observed = {(pair.first, pair.second): pair.observed for pair in pairs}
    assert observed == {two: float(two == ("ann", "bob")) for two in combinations(answers, 2)}


def test_what_chance_alone_explains_has_no_kappa_and_no_alpha() -> None:
    measured = measure("classification", columns("classification", {"ann": "xxx", "bob": "xxx"}))
    assert (measured.alpha, measured.pairs[0].kappa, measured.pairs[0].observed) == (None, None, 1.0)
    assert [each.mean_agreement for each in measured.annotators] == [1.0, 1.0]


def test_one_annotator_is_measured_without_the_alpha_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "krippendorff", None)
    assert measure("classification", columns("classification", {"ann": "xyx"})).alpha is None
    with pytest.raises(LabelError, match="pip install krippendorff"):
        measure("classification", columns("classification", {"ann": "xyx", "bob": "xyy"}))


def test_memory_follows_the_annotations_not_every_annotators_share_of_every_text() -> None:
    """60 people, each text of 2,000 characters seen by two of them: 2 MB of numbers; a full table would be 58 MB."""
    measure("sequence", [labelled("sequence", "x", {"ann": (), "bob": (Span(0, 1, "a"),)})])  # loads the libraries
    tasks = [
        labelled("sequence", f"{i:04}" * 500, {f"{i:02}": (Span(0, 9, "a"),), f"{(i + 1) % 60:02}": ()})
        for i in range(60)
    ]
    tracemalloc.start()
    try:
        assert len(measure("sequence", tasks).pairs) == 60
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_texts_are_compared_by_their_character_ngrams() -> None:
    assert text_similarity("Good day", "Goodday") == 1.0
    assert text_similarity("abc", "xyz") == 0.0
    # n-grams of abcd and abce: 1: 3 of 4, 2: 2 of 3, 3: 1 of 2, 4: 0 of 1.
    assert text_similarity("abcd", "abce") == pytest.approx((3 / 4 + 2 / 3 + 1 / 2 + 0) / 4)
    (pair,) = measure("pairs", [labelled("pairs", "x", {"ann": "abcd", "bob": "abce"})]).pairs
    assert (pair.observed, pair.kappa) == (text_similarity("abcd", "abce"), None)


def test_who_agrees_most_with_the_others_comes_first() -> None:
    data = {"ann": "xyxyxyyx", "bob": "xyxyxyxy", "cyd": "xyxyxyxy"}
    assert measure("classification", columns("classification", data)).ranking == ["bob", "cyd", "ann"]


def test_always_giving_the_same_label_is_no_way_to_come_first() -> None:
    data = {"ann": "x" * 20, "bob": "x" * 20, "cyd": "xy" * 9 + "xx", "dan": "xy" * 10}
    measured = measure("classification", columns("classification", data))
    assert {each.name: each.mean_agreement for each in measured.annotators[2:]} == {"ann": 0.0, "bob": 0.0}
    assert measured.ranking[:2] == ["cyd", "dan"]


def test_ground_truth_ranks_before_agreement_with_others() -> None:
    """Two agree in error; the third one is right, as the reviewer's answers show."""
    answers = {"ann": "x", "bob": "x", "cyd": "y", "rev": "y"}
    tasks = [labelled("classification", f"text {i}", answers, truth="rev") for i in range(3)]
    tasks.append(labelled("classification", "another", {"new": "x"}))
    measured = measure("classification", tasks)
    assert {each.name: each.ground_truth for each in measured.annotators} == {
        "ann": 0.0,
        "bob": 0.0,
        "cyd": 1.0,
        "rev": 1.0,
        "new": None,
    }
    assert measured.ranking[:2] == ["cyd", "rev"] and measured.ranking[-1] == "new"


def test_nobody_is_measured_by_their_own_ground_truth() -> None:
    tasks = [
        labelled("classification", "one", {"ann": "x", "rev": "x"}, truth="rev"),
        labelled("classification", "two", {"boss": "y", "rev": "x"}, truth="boss"),
    ]
    measured = measure("classification", tasks)
    assert {each.name: each.ground_truth for each in measured.annotators} == {"ann": 1.0, "boss": 1.0, "rev": 0.0}


def test_nothing_labelled_measures_nothing() -> None:
    measured = measure("sequence", [])
    assert (measured.alpha, measured.pairs, measured.annotators) == (None, [], [])
