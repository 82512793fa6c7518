"""Intervals of a suite's numbers: Wilson's for shares, resampled ones for means and ratios, else none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from llm_core.evals.suite import Metric, Suite


@pytest.mark.parametrize(("right", "count"), [(0, 40), (7, 40), (40, 40)])
def test_a_share_has_wilsons_interval(right: int, count: int) -> None:
    rows = pd.DataFrame({"right": [True] * right + [False] * (count - right)})
    expected = binomtest(right, count).proportion_ci(method="wilson")
    found = Metric("right", "right").interval(rows)
    assert found is not None and found == pytest.approx((expected.low, expected.high), abs=1e-3)


@pytest.mark.parametrize("over", [None, "words"])
def test_a_mean_or_ratio_is_resampled(over: str | None) -> None:
    rng = np.random.default_rng(1)
    rows = pd.DataFrame({"bits": rng.normal(3, 1, 400), "words": np.full(400, 2)})
    found = Metric("bits", "bits", over=over).interval(rows)
    scale = 1.0 if over is None else 0.5
    middle, half = scale * rows["bits"].mean(), scale * 1.96 * rows["bits"].std() / 20
    assert found is not None and found == pytest.approx((middle - half, middle + half), abs=0.01)
    assert found == Metric("bits", "bits", over=over).interval(rows)


def test_what_has_no_interval_is_left_out() -> None:
    rows = pd.DataFrame({"same": [2.0, 2.0, 2.0], "none": [0, 0, 0], "right": [True, False, True]})
    metrics = (
        Metric("same", "same"),
        Metric("undefined", "right", over="none"),
        Metric("function", function=lambda rows: 1.0),
        Metric("right", "right"),
    )
    suite = Suite("tiny", metrics, lambda subject, examples: rows)
    assert list(suite.intervals(rows)) == ["tiny/right"]
    assert suite.intervals(rows[:1]) == {}
