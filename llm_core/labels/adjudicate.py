"""Which answer counts where annotators differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from llm_core.labels.answers import Annotation, Answer, Labelled, Span

Method = Literal["majority", "best"]
METHODS: tuple[Method, ...] = get_args(Method)
How = Literal["single", "unanimous", "ground_truth", "majority", "tie", "best"]
"""The only answer, the same from all, marked as true, from most, the best one's among equals, the best one's."""


@dataclass(frozen=True)
class Decision:
    """The answer that counts, and why."""

    answer: Answer
    how: How
    agreed: tuple[str, ...]
    """Annotators who gave exactly this answer."""


def adjudicate(labelled: Labelled, method: Method, ranking: Sequence[str]) -> Decision:
    """Decide a task: by ground truth where there is some, else by the majority or by the best annotator.

    `ranking` names the annotators, the best first; it breaks ties.
    """
    ranked = sorted(labelled.annotations, key=lambda each: ranking.index(each.annotator))
    answer, how = _decide(ranked, method)
    return Decision(answer, how, tuple(each.annotator for each in labelled.annotations if each.answer == answer))


def _decide(ranked: Sequence[Annotation], method: Method) -> tuple[Answer, How]:
    truths = [each.answer for each in ranked if each.is_truth]
    if truths:
        return truths[0], "ground_truth"
    first = ranked[0].answer
    if len(ranked) == 1:
        return first, "single"
    if all(each.answer == first for each in ranked):
        return first, "unanimous"
    if method == "best":
        return first, "best"
    if isinstance(first, tuple):
        return _majority_of_spans([each.answer for each in ranked if isinstance(each.answer, tuple)])
    votes = Counter(each.answer for each in ranked)
    most = max(votes.values())
    tied = [answer for answer, count in votes.items() if count == most]  # in the order of the ranking
    return tied[0], "majority" if len(tied) == 1 else "tie"


def _majority_of_spans(answers: Sequence[tuple[Span, ...]]) -> tuple[Answer, How]:
    """The spans that more than half gave exactly so; where it is half, the first (best) annotator decides."""
    votes = Counter(span for answer in answers for span in answer)
    kept = {span for span, count in votes.items() if 2 * count > len(answers)}
    halves = {span for span, count in votes.items() if 2 * count == len(answers)}
    return tuple(sorted(kept | (halves & set(answers[0])))), "tie" if halves else "majority"
