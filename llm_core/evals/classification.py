"""Labels that a model gives: accuracy, F1, Matthews' correlation and ROC-AUC.

An example is {"text": text, "label": text} for a suite that lets a model choose among the labels as continuations.
`score_labels` takes the labels and scores of any classifier. All numbers are scikit-learn's on the same labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from llm_core.evals.suite import Example, Metric, Subject, Suite

SCORE = "score_"
"""A label's score stands in the column of this name and the label's behind it."""


class LabelsError(ValueError):
    """Labels and scores that do not go together."""


def classification_suite(
    labels: Sequence[str], name: str = "classification", positive: str | None = None, template: str = "{text}\n"
) -> Suite:
    """A suite in which the label that is likeliest behind `template` is the model's; `positive` as for `metrics`."""

    def score(subject: Subject, examples: Sequence[Example]) -> pd.DataFrame:
        pairs = [(template.format(text=example["text"]), label) for example in examples for label in labels]
        found = [likelihood.logprob for likelihood in subject.likelihoods(pairs)]
        shares = _shares(np.array(found).reshape(len(examples), len(labels)))
        scores = [dict(zip(labels, map(float, row), strict=True)) for row in shares]
        return score_labels([example["label"] for example in examples], scores)

    return Suite(name, metrics(labels, positive), score)


def score_labels(wanted: Sequence[str], scores: Sequence[Mapping[str, float]]) -> pd.DataFrame:
    """A row an example: the right label, the best scored one, whether they are equal, and all scores."""
    labels = list(scores[0]) if scores else []
    for right, row in zip(wanted, scores, strict=True):
        if list(row) != labels or right not in row:
            raise LabelsError(f"scores of {list(row)} with the label {right!r}; every row scores the same {labels}")
    columns = pd.DataFrame([dict(row) for row in scores], columns=labels, dtype=float)
    predicted = [max(row, key=row.__getitem__) for row in scores]
    correct = [float(right == given) for right, given in zip(wanted, predicted, strict=True)]
    front = pd.DataFrame({"label": list(wanted), "predicted": predicted, "correct": correct})
    return front.join(columns.add_prefix(SCORE))


def metrics(labels: Sequence[str], positive: str | None = None) -> tuple[Metric, ...]:
    """The metrics of a task with these labels; `positive` adds its own F1, and of two labels it is the AUC's.

    Without it, the AUC of two labels is that of the second one, of more the mean over all against all others.
    """
    if len(labels) < 2 or len(set(labels)) != len(labels) or positive not in {None, *labels}:
        raise LabelsError(
            f"labels {list(labels)}, positive {positive!r}: give two different labels or more, one of them"
        )
    own = () if positive is None else (Metric("f1", function=partial(_f1, labels=[positive])),)
    sided = [positive or labels[1]] if len(labels) == 2 else labels
    return (
        Metric("accuracy", "correct"),
        Metric("macro_f1", function=partial(_f1, labels=labels)),
        *own,
        Metric("mcc", function=_mcc),
        Metric("roc_auc", function=partial(_roc_auc, labels=sided)),
    )


def _f1(rows: pd.DataFrame, labels: Sequence[str]) -> float:
    """Mean F1 of these labels; one that is neither given nor right has 0, as in scikit-learn."""
    from sklearn.metrics import f1_score

    return float(f1_score(rows["label"], rows["predicted"], labels=list(labels), average="macro", zero_division=0.0))


def _mcc(rows: pd.DataFrame) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(rows["label"], rows["predicted"]))


def _roc_auc(rows: pd.DataFrame, labels: Sequence[str]) -> float:
    """Mean over labels of the area under each one's curve; NaN when the rows lack a side of one."""
    from sklearn.metrics import roc_auc_score

    sides = [(rows["label"] == label, rows[f"{SCORE}{label}"]) for label in labels]
    if any(is_label.nunique() < 2 for is_label, _ in sides):
        return float("nan")
    return float(np.mean([roc_auc_score(is_label, scores) for is_label, scores in sides]))


def _shares(logprobs: np.ndarray) -> np.ndarray:
    """Softmax over each row: the labels' probabilities among themselves."""
    raised = np.exp(logprobs - logprobs.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)
