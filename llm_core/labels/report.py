"""The agreement of annotators as a page for people (Markdown), with the tasks they differ on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from llm_core.labels.agreement import Agreement
from llm_core.labels.answers import Answer, Labelled

SHOWN_TASKS = 50
SHOWN_CHARACTERS = 120


def agreement_report(agreement: Agreement, labelled: Sequence[Labelled]) -> str:
    """Alpha, each annotator, each pair, and the first tasks with different answers."""
    differing = [each for each in labelled if len({annotation.answer for annotation in each.annotations}) > 1]
    parts = [
        f"# Agreement: {agreement.kind}",
        f"{len(labelled)} labelled tasks, {len(differing)} with different answers. Krippendorff's alpha (nominal, by "
        f"{agreement.unit}): **{number(agreement.alpha)}**.",
        "## Annotators, the best first",
        _table(
            ("annotator", "tasks", "agreement with ground truth", "mean agreement with others"),
            [(a.name, a.tasks, number(a.ground_truth), number(a.mean_agreement)) for a in agreement.annotators],
        ),
        "## Pairs",
        _table(
            ("first", "second", "tasks", "units", "observed", "Cohen's kappa"),
            [(p.first, p.second, p.tasks, p.units, number(p.observed), number(p.kappa)) for p in agreement.pairs],
        ),
        f"## Tasks to talk about ({min(len(differing), SHOWN_TASKS)} of {len(differing)})",
        _table(("task", "source", "answers"), [_task_row(each) for each in differing[:SHOWN_TASKS]]),
    ]
    return "\n\n".join(parts) + "\n"


def number(value: float | None) -> str:
    """Three digits, or a dash where there is no value."""
    return "–" if value is None else f"{value:.3f}"


def plain_markdown(text: str) -> str:
    """A text of others in one line of Markdown, without becoming markup."""
    return re.sub(r"([\\|`*_<>\[\]#~&])", r"\\\1", " ".join(text.split()))


def _task_row(labelled: Labelled) -> tuple[str, str, str]:
    answers = "; ".join(f"{each.annotator}: {_shown(each.answer)}" for each in labelled.annotations)
    return labelled.task.id, labelled.task.source, answers


def _shown(answer: Answer) -> str:
    if isinstance(answer, tuple):
        answer = ", ".join(f"{span.start}–{span.end} {span.label}" for span in answer) or "nothing"
    return answer if len(answer) <= SHOWN_CHARACTERS else f"{answer[:SHOWN_CHARACTERS]}..."


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(_cell(value) for value in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _cell(value: Any) -> str:
    return plain_markdown(str(value))
