"""How far annotators agree: Cohen's kappa for each two, Krippendorff's alpha for all, and who agrees best.

Labels and sides are compared task by task, spans character by character (a character's value is the set of its
labels), free texts by their common character n-grams.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Literal

from llm_core.labels.answers import Answer, Labelled
from llm_core.labels.task import Kind, LabelError, Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Unit = Literal["task", "character", "text"]
UNITS: Mapping[Kind, Unit] = {
    "classification": "task",
    "sequence": "character",
    "pairs": "text",
    "chat": "text",
    "preference": "task",
}
TEXT_NGRAMS = 6
Answers = Mapping[str, Mapping[int, Answer]]
"""Each annotator's answers by the task's number, ascending."""
Codes = Mapping[str, Mapping[int, "NDArray[np.int64]"]]
"""The same with a number for the value of each unit."""


@dataclass(frozen=True)
class Pair:
    """Two annotators on the tasks that both did."""

    first: str
    second: str
    tasks: int
    units: int
    observed: float
    """Share of the units with equal values; mean similarity of texts."""
    kappa: float | None
    """Agreement beyond chance, 1 at most; None for texts, and where chance alone explains everything."""


@dataclass(frozen=True)
class Annotator:
    """One person's standing."""

    name: str
    tasks: int
    ground_truth: float | None
    """Mean agreement with the answers of others that are marked as ground truth; 1 for who wrote them."""
    mean_agreement: float | None
    """Mean kappa with the others; observed agreement where there is no kappa at all; None without a common task."""


@dataclass(frozen=True)
class Agreement:
    """The whole picture."""

    kind: Kind
    unit: Unit
    alpha: float | None
    """Krippendorff's alpha for nominal values; None for texts, and where there is nothing to compare."""
    pairs: Sequence[Pair]
    annotators: Sequence[Annotator]
    """The best first."""

    @property
    def ranking(self) -> list[str]:
        """Names of the annotators, the best first."""
        return [each.name for each in self.annotators]


def measure(kind: Kind, labelled: Sequence[Labelled]) -> Agreement:
    """Compare the annotators; who was measured by ground truth comes first, the rest by agreement with the others.

    Raises LabelError where the library for alpha is not installed.
    """
    names = sorted({each.annotator for task in labelled for each in task.annotations})
    answers: dict[str, dict[int, Answer]] = {name: {} for name in names}
    for i, task in enumerate(labelled):
        for each in task.annotations:
            answers[each.annotator][i] = each.answer
    numbers: dict[Hashable, int] = {}
    codes: Codes = {}
    if UNITS[kind] != "text":
        codes = {name: {i: _code(labelled[i].task, own[i], numbers) for i in own} for name, own in answers.items()}
    pairs = [pair for two in combinations(names, 2) if (pair := _pair(labelled, answers, codes, *two))]
    alpha = krippendorff_alpha(codes, len(numbers)) if len(codes) > 1 else None
    annotators = [_annotator(name, len(answers[name]), labelled, pairs) for name in names]
    return Agreement(kind, UNITS[kind], alpha, pairs, sorted(annotators, key=_standing))


def cohen_kappa(first: NDArray[np.int64], second: NDArray[np.int64]) -> float | None:
    """Cohen's kappa (Educational and Psychological Measurement 20, 1960) of two rows of nominal values.

    None where both hold one and the same value everywhere: expected agreement is 1 then, and kappa 0/0.
    """
    from sklearn.metrics import cohen_kappa_score

    if (first == first[0]).all() and (second == first[0]).all():
        return None
    return float(cohen_kappa_score(first, second))


def krippendorff_alpha(codes: Codes, num_values: int) -> float | None:
    """Krippendorff's alpha for nominal values (Computing Krippendorff's Alpha-Reliability, 2011).

    Values are numbers below `num_values`. None where no unit has two values or all values are the same.
    """
    import numpy as np

    try:
        from krippendorff import alpha
    except ImportError:
        raise LabelError("Krippendorff's alpha needs a package that is not here: pip install krippendorff") from None
    counts = _value_counts(codes, num_values)
    if np.count_nonzero(counts.sum(axis=0)) < 2:
        return None
    return float(alpha(value_counts=counts, level_of_measurement="nominal"))


def _value_counts(codes: Codes, num_values: int) -> NDArray[np.int64]:
    """How often each unit (row) has each value (column), for the units with two values or more.

    Units in which all agree on one value are added up in one row. Alpha stays exactly the same, since n equal values
    are n on the coincidence matrix's diagonal; the library's memory follows the disagreements, not the characters.
    """
    import numpy as np

    agreed = np.zeros(num_values, dtype=np.int64)
    parts = []
    for number in sorted({number for row in codes.values() for number in row}):
        table = np.stack([row[number] for row in codes.values() if number in row])
        if len(table) > 1:
            is_agreed = (table == table[0]).all(axis=0)
            agreed += len(table) * np.bincount(table[0, is_agreed], minlength=num_values)
            parts.append(_unit_counts(table[:, ~is_agreed], num_values))
    return np.concatenate([np.diag(agreed), *parts])


def _unit_counts(table: NDArray[np.int64], num_values: int) -> NDArray[np.int64]:
    import numpy as np

    units = np.arange(table.shape[1])
    counts = np.zeros((len(units), num_values), dtype=np.int64)
    for row in table:
        counts[units, row] += 1
    return counts


def similarity(task: Task, first: Answer, second: Answer) -> float:
    """How alike two answers to a task are, from 0 to 1: share of equal units, or text_similarity."""
    if UNITS[task.kind] == "text":
        return text_similarity(str(first), str(second))
    numbers: dict[Hashable, int] = {}
    return float((_code(task, first, numbers) == _code(task, second, numbers)).mean())


def text_similarity(first: str, second: str) -> float:
    """chrF with equal weights (Popović 2015): mean F1 of the character n-grams up to 6, white space left out."""
    ours, theirs = ("".join(text.split()) for text in (first, second))
    scores = []
    for size in range(1, min(TEXT_NGRAMS, max(len(ours), len(theirs), 1)) + 1):
        a, b = (Counter(text[i : i + size] for i in range(len(text) - size + 1)) for text in (ours, theirs))
        scores.append(2 * (a & b).total() / max(a.total() + b.total(), 1))
    return sum(scores) / len(scores)


def _code(task: Task, answer: Answer, numbers: dict[Hashable, int]) -> NDArray[np.int64]:
    """A number for the value of each unit: for the answer itself, or for the set of labels of each character.

    `numbers` gives equal values equal numbers, also for other answers.
    """
    import numpy as np

    if isinstance(answer, str):
        return np.array([numbers.setdefault(answer, len(numbers))])
    row = np.zeros(len(task.text), dtype=np.int64)
    edges = sorted({0, len(row), *(span.start for span in answer), *(span.end for span in answer)})
    for start, end in pairwise(edges):
        labels = frozenset(span.label for span in answer if span.start <= start < span.end)
        row[start:end] = numbers.setdefault(labels, len(numbers))
    return row


def _pair(labelled: Sequence[Labelled], answers: Answers, codes: Codes, first: str, second: str) -> Pair | None:
    """The two on what both did; None where that is nothing."""
    import numpy as np

    both = sorted(answers[first].keys() & answers[second].keys())
    if not both:
        return None
    if not codes:
        alike = sum(similarity(labelled[i].task, answers[first][i], answers[second][i]) for i in both) / len(both)
        return Pair(first, second, len(both), len(both), alike, None)
    ours, theirs = (np.concatenate([codes[name][i] for i in both]) for name in (first, second))
    return Pair(first, second, len(both), len(ours), float((ours == theirs).mean()), cohen_kappa(ours, theirs))


def _annotator(name: str, num_tasks: int, labelled: Sequence[Labelled], pairs: Sequence[Pair]) -> Annotator:
    own = [pair for pair in pairs if name in (pair.first, pair.second)]
    # Two who always give the same label agree fully and show nothing by it: that must not outweigh a kappa.
    scores = [pair.kappa for pair in own if pair.kappa is not None] or [pair.observed for pair in own]
    mean = sum(scores) / len(scores) if scores else None
    return Annotator(name, num_tasks, _truth_score(name, labelled), mean)


def _truth_score(name: str, labelled: Sequence[Labelled]) -> float | None:
    scores, wrote_truth = [], False
    for each in labelled:
        truths = [annotation for annotation in each.annotations if annotation.is_truth]
        wrote_truth |= any(truth.annotator == name for truth in truths)
        answer = each.by(name)
        if answer is not None:
            others = [truth.answer for truth in truths if truth.annotator != name]
            scores += [similarity(each.task, answer, truth) for truth in others]
    return sum(scores) / len(scores) if scores else 1.0 if wrote_truth else None


def _standing(annotator: Annotator) -> tuple[bool, float, float, str]:
    truth, mean = annotator.ground_truth, annotator.mean_agreement
    return (truth is None, -(truth or 0.0), 2.0 if mean is None else -mean, annotator.name)
