"""Numbers of labelled rows are scikit-learn's, of any resample, and the label is the likeliest one."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sklearn

from llm_core.evals.classification import LabelsError, classification_suite, metrics, score_labels
from tests.llm_core.evals.answering import Answering

RNG = np.random.default_rng(3)
THREE = ("bad", "fair", "good")


def _rows(labels: tuple[str, ...], count: int = 80) -> tuple[pd.DataFrame, list[str], np.ndarray]:
    """Rows of a classifier that is right more often than not, its labels and its scores."""
    wanted = [str(label) for label in RNG.choice(labels, count)]
    logits = RNG.normal(size=(count, len(labels))) + [[label == right for label in labels] for right in wanted]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return score_labels(wanted, [dict(zip(labels, row, strict=True)) for row in scores]), wanted, scores


def _totals(rows: pd.DataFrame, labels: tuple[str, ...], positive: str | None = None) -> dict[str, float]:
    return {metric.name: metric.of(rows) for metric in metrics(labels, positive)}


def test_two_labels_have_scikit_learns_numbers() -> None:
    rows, wanted, scores = _rows(("no", "yes"))
    predicted = ["yes" if yes > no else "no" for no, yes in scores]
    assert _totals(rows, ("no", "yes"), "yes") == pytest.approx(
        {
            "accuracy": sklearn.accuracy_score(wanted, predicted),
            "macro_f1": sklearn.f1_score(wanted, predicted, average="macro"),
            "f1": sklearn.f1_score(wanted, predicted, pos_label="yes"),
            "mcc": sklearn.matthews_corrcoef(wanted, predicted),
            "roc_auc": sklearn.roc_auc_score(wanted, scores[:, 1]),
        },
        abs=1e-4,
    )


def test_more_labels_have_scikit_learns_numbers() -> None:
    rows, wanted, scores = _rows(THREE)
    predicted = [THREE[place] for place in scores.argmax(axis=1)]
    totals = _totals(rows, THREE)
    assert totals["macro_f1"] == pytest.approx(sklearn.f1_score(wanted, predicted, average="macro"), abs=1e-4)
    assert totals["mcc"] == pytest.approx(sklearn.matthews_corrcoef(wanted, predicted), abs=1e-4)
    assert totals["roc_auc"] == pytest.approx(sklearn.roc_auc_score(wanted, scores, multi_class="ovr"), abs=1e-4)


def test_a_metric_of_resampled_rows_is_that_of_those_examples() -> None:
    rows, wanted, _ = _rows(THREE)
    drawn = RNG.integers(len(rows), size=len(rows))
    theirs = sklearn.matthews_corrcoef([wanted[i] for i in drawn], rows["predicted"].iloc[drawn])
    assert _totals(rows.iloc[drawn], THREE)["mcc"] == pytest.approx(theirs, abs=1e-4)
    assert theirs != pytest.approx(_totals(rows, THREE)["mcc"], abs=1e-4)


def test_an_area_under_the_curve_of_one_class_is_no_number_and_no_warning() -> None:
    rows, _, _ = _rows(("no", "yes"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(_totals(rows[rows["label"] == "yes"], ("no", "yes"))["roc_auc"])


def test_metrics_of_no_rows_are_no_numbers() -> None:
    rows, _, _ = _rows(THREE)
    assert all(math.isnan(value) for value in _totals(rows[:0], THREE, "good").values())


def test_the_model_chooses_the_likeliest_label() -> None:
    subject = Answering(
        logprob=lambda context, label: 0.0 if (label == "yes") == ("wet" in context) else math.log(1 / 3)
    )
    suite = classification_suite(("no", "yes"), template="{text} Rain?")
    examples = [{"text": "wet", "label": "yes"}, {"text": "dry", "label": "no"}, {"text": "damp", "label": "yes"}]
    rows = suite.rows(subject, examples)
    assert rows["predicted"].tolist() == ["yes", "no", "no"]
    assert rows["score_yes"].tolist() == pytest.approx([0.75, 0.25, 0.25])
    assert suite.totals(rows)["classification/accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("wanted", "scores"), [(["c"], [{"a": 1.0}]), (["a", "a"], [{"a": 1.0}, {"b": 1.0, "a": 0}])])
def test_scores_of_other_labels_are_refused(wanted: list[str], scores: list[dict[str, float]]) -> None:
    with pytest.raises(LabelsError, match="every row scores the same"):
        score_labels(wanted, scores)


@pytest.mark.parametrize(("labels", "positive"), [(("a",), None), (("a", "a"), None), (("a", "b"), "c")])
def test_labels_that_cannot_be_told_apart_are_refused(labels: tuple[str, ...], positive: str | None) -> None:
    with pytest.raises(LabelsError, match="two different labels"):
        metrics(labels, positive)
