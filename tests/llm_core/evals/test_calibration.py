"""Calibration numbers are scikit-learn's or follow from known rows, and the diagram shows them."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from llm_core.evals.calibration import Bins, brier, draw, expected_error, metrics, reliability
from llm_core.evals.classification import LabelsError, score_labels

RNG = np.random.default_rng(9)


def _rows(labels: tuple[str, ...], count: int = 500):  # type: ignore[no-untyped-def]
    scores = RNG.dirichlet(np.ones(len(labels)), count)
    wanted = [labels[RNG.choice(len(labels), p=row)] for row in scores]
    return score_labels(wanted, [dict(zip(labels, row, strict=True)) for row in scores]), wanted, scores


def test_brier_is_scikit_learns() -> None:
    rows, wanted, scores = _rows(("no", "yes"))
    assert brier(rows) == pytest.approx(brier_score_loss(np.array(wanted) == "yes", scores[:, 1]), abs=1e-4)
    rows, wanted, scores = _rows(("a", "b", "c"))
    assert brier(rows) == pytest.approx(brier_score_loss(wanted, scores, labels=["a", "b", "c"], scale_by_half=False))


def test_the_reliability_table_is_scikit_learns_curve() -> None:
    rows, _, scores = _rows(("a", "b", "c"))
    accuracy, confidence = calibration_curve(rows["correct"], scores.max(axis=1), n_bins=10)
    table = reliability(rows).dropna()
    assert table["accuracy"].tolist() == pytest.approx(accuracy, abs=1e-4)
    assert table["confidence"].tolist() == pytest.approx(confidence, abs=1e-4)
    assert table["count"].sum() == len(rows)
    weighted = np.average(np.abs(accuracy - confidence), weights=table["count"])
    assert expected_error(rows) == pytest.approx(weighted, abs=1e-4)


def test_a_model_that_is_sure_and_wrong_has_the_greatest_error() -> None:
    rows = score_labels(["no", "no"], [{"no": 0.0, "yes": 1.0}] * 2)
    assert [metric.of(rows) for metric in metrics()] == [1.0, 1.0]
    assert not any(metric.higher_is_better for metric in metrics())


def test_the_diagram_is_drawn(tmp_path: Path) -> None:
    draw(_rows(("no", "yes"))[0], tmp_path / "reliability.png")
    assert matplotlib.image.imread(tmp_path / "reliability.png").std() > 0.1


def test_scores_that_are_no_probabilities_are_refused() -> None:
    with pytest.raises(LabelsError, match="between 0 and 1"):
        brier(score_labels(["a"], [{"a": -3.0, "b": 2.0}]))


def test_bins_of_many_answers_are_those_of_the_table() -> None:
    rng = np.random.default_rng(1)
    sureness = rng.random(500)
    is_right = rng.random(500) < sureness
    bins = Bins()
    for part in (slice(0, 100), slice(100, 500)):
        bins.add(sureness[part], is_right[part])
    names = np.where(is_right, "a", "b")
    rows = pd.DataFrame({"label": names, "correct": is_right.astype(float), "score_a": sureness, "score_b": 0.0})
    table = reliability(rows)
    assert [row["count"] for row in bins.table()] == table["count"].tolist()
    for column in ("low", "high", "confidence", "accuracy"):
        assert [row[column] for row in bins.table()] == pytest.approx(table[column].tolist())
    assert bins.expected_error == pytest.approx(expected_error(rows))
    assert (bins.count, bins.accuracy) == (500, is_right.mean())
