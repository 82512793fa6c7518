"""Whether a classifier is as sure as it is right: expected calibration error, Brier score, reliability diagram.

It reads the rows of `classification.score_labels`: the label, and a score in 0 to 1 for each label. Sureness is the
best label's score; bins are of equal width, as in Guo et al. (2017).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm_core.evals.classification import SCORE, LabelsError
from llm_core.evals.suite import Metric

BINS = 10


def metrics(bins: int = BINS) -> tuple[Metric, ...]:
    return (
        Metric("ece", function=partial(expected_error, bins=bins), higher_is_better=False),
        Metric("brier", function=brier, higher_is_better=False),
    )


def reliability(rows: pd.DataFrame, bins: int = BINS) -> pd.DataFrame:
    """A row a bin: its ends `low` and `high`, `count`, mean `confidence` and `accuracy` (NaN where it is empty)."""
    sureness = _scores(rows).max(axis=1)
    edges = np.linspace(0, 1, bins + 1)
    # A bin holds its upper end, the first one also 0.
    places = np.clip(np.digitize(sureness, edges, right=True) - 1, 0, bins - 1)
    table = pd.DataFrame({"bin": places, "confidence": sureness, "accuracy": rows["correct"].to_numpy()})
    means = table.groupby("bin").mean().reindex(range(bins))
    ends = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "count": np.bincount(places, minlength=bins)})
    return ends.join(means)


class Bins:
    """The same table of many answers that come a few at a time, such as a language model's next tokens."""

    def __init__(self, bins: int = BINS) -> None:
        self._sums = np.zeros((bins, 3))

    def add(self, confidence: npt.NDArray[np.float64], is_right: npt.NDArray[np.bool_]) -> None:
        """Some answers: how sure each is, 0 to 1, and whether it is right."""
        bins = len(self._sums)
        places = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)  # a bin holds its upper end
        for column, weights in enumerate((None, confidence, is_right)):
            self._sums[:, column] += np.bincount(places, weights, minlength=bins)

    def table(self) -> list[dict[str, float | None]]:
        """A row a bin: low, high, count, confidence, accuracy (None where it is empty)."""
        bins = len(self._sums)
        return [
            {
                "low": place / bins,
                "high": (place + 1) / bins,
                "count": int(count),
                "confidence": sure / count if count else None,
                "accuracy": right / count if count else None,
            }
            for place, (count, sure, right) in enumerate(self._sums.tolist())
        ]

    @property
    def count(self) -> int:
        """Answers so far."""
        return int(self._sums[:, 0].sum())

    @property
    def accuracy(self) -> float:
        """Share of right ones."""
        return float(self._sums[:, 2].sum() / self._sums[:, 0].sum())

    @property
    def expected_error(self) -> float:
        """Mean distance of sureness and accuracy over bins, each with the weight of its answers."""
        count, sure, right = self._sums.T
        return float(np.abs(sure - right).sum() / count.sum())


def expected_error(rows: pd.DataFrame, bins: int = BINS) -> float:
    """Mean distance of sureness and accuracy over bins, each with the weight of its rows."""
    table = reliability(rows, bins)
    distances = (table["confidence"] - table["accuracy"]).abs()
    return float((distances * table["count"]).sum() / len(rows))


def brier(rows: pd.DataFrame) -> float:
    """Mean squared distance of the scores and the truth: of two labels the second one's, of more the sum over all."""
    scores = _scores(rows)
    labels = [str(name).removeprefix(SCORE) for name in rows if str(name).startswith(SCORE)]
    truth = rows["label"].to_numpy()[:, None] == np.array(labels)
    squares = (scores - truth) ** 2
    return float(squares.sum(axis=1).mean()) / (2 if len(labels) == 2 else 1)


def draw(rows: pd.DataFrame, path: Path, bins: int = BINS) -> None:
    """The reliability diagram: accuracy over sureness, and below it how many answers are in each bin."""
    from matplotlib.figure import Figure

    table = reliability(rows, bins)
    figure = Figure(figsize=(5, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    middle, width = (table["low"] + table["high"]) / 2, 1 / bins
    upper.bar(middle, table["accuracy"], width, edgecolor="white", label="accuracy of the answers in a bin")
    upper.plot(table["confidence"], table["accuracy"], "o", color="black", label="at their mean confidence")
    upper.plot((0, 1), (0, 1), "--", color="gray", label="as sure as right")
    upper.set(
        ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title=f"ECE {expected_error(rows, bins):.3f}, n = {len(rows)}"
    )
    upper.legend(loc="upper left", fontsize="small")
    lower.bar(middle, table["count"], width, edgecolor="white")
    lower.set(xlabel="confidence", ylabel="answers")
    figure.savefig(path, dpi=120)


def _scores(rows: pd.DataFrame) -> npt.NDArray[np.float64]:
    """(rows, labels)."""
    scores = rows[[name for name in rows if str(name).startswith(SCORE)]].to_numpy(dtype=float)
    if not scores.size or not ((scores >= 0) & (scores <= 1)).all():
        raise LabelsError(f"columns {SCORE}LABEL with probabilities are needed; give scores between 0 and 1")
    return scores
