"""Spans in labelled sequences: precision, recall and F1 of whole spans, as CoNLL counts them.

Tags are IOB2 (B-X begins a span of type X, I-X continues it, O is outside). A span is found when its type and both its
ends are. Broken sequences are read leniently: an I-X that continues nothing of its type begins a span.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import pandas as pd

from llm_core.evals.suite import Metric


class Span(NamedTuple):
    """Tags [start, end) of one type."""

    type: str
    start: int
    end: int


class TagError(ValueError):
    """Tags that are not IOB2, or not as many as they must be."""


def score_tags(wanted: Sequence[Sequence[str]], given: Sequence[Sequence[str]]) -> pd.DataFrame:
    """A row a sequence: how many spans were right, given and wanted, in all and of each type."""
    counts = []
    for number, (right, found) in enumerate(zip(wanted, given, strict=True)):
        if len(right) != len(found):
            raise TagError(f"sequence {number}: {len(found)} tags given for {len(right)}; give each token one")
        counts.append(_counts(set(spans(right)), set(spans(found))))
    rows = pd.DataFrame(counts, index=range(len(counts))).fillna(0).astype(int)
    return rows.reindex(columns=sorted({*rows, "right", "given", "wanted"}), fill_value=0)


def spans(tags: Sequence[str]) -> list[Span]:
    """The spans of one sequence."""
    found: list[Span] = []
    for place, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-")
        if tag == "O":
            continue
        if prefix not in {"B", "I"} or not kind:
            raise TagError(f"tag {tag!r} is not IOB2; write B-TYPE, I-TYPE or O")
        if prefix == "I" and found and found[-1].type == kind and found[-1].end == place:
            found[-1] = found[-1]._replace(end=place + 1)
        else:
            found.append(Span(kind, place, place + 1))
    return found


def metrics(types: Sequence[str] = ()) -> tuple[Metric, ...]:
    """Over all spans together, and the F1 of each of these types."""
    return (
        Metric("span_f1", function=partial(_f1, suffix="")),
        Metric("span_precision", "right", over="given"),
        Metric("span_recall", "right", over="wanted"),
        *(Metric(f"span_f1_{kind}", function=partial(_f1, suffix=f"_{kind}")) for kind in types),
    )


def _counts(wanted: set[Span], given: set[Span]) -> dict[str, int]:
    counts = {"right": len(wanted & given), "given": len(given), "wanted": len(wanted)}
    for kind in {span.type for span in wanted | given}:
        of_kind = [{span for span in side if span.type == kind} for side in (wanted & given, given, wanted)]
        counts |= {
            f"{name}_{kind}": len(side) for name, side in zip(("right", "given", "wanted"), of_kind, strict=True)
        }
    return counts


def _f1(rows: pd.DataFrame, suffix: str) -> float:
    """Micro-averaged over the rows; 0 where nothing was given or wanted."""
    if f"right{suffix}" not in rows:
        return 0.0
    right, given, wanted = (int(rows[f"{name}{suffix}"].sum()) for name in ("right", "given", "wanted"))
    return 2 * right / (given + wanted) if right else 0.0
