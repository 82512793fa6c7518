"""Tasks, answers and Label Studio exports for the tests of labelling."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_core.labels.answers import Annotation, Answer, Labelled, Span, result_of
from llm_core.labels.task import Kind, Task

CONTENT: Mapping[Kind, dict[str, Any]] = {
    "classification": {"text": "A fine film 😀\nfrom Paris."},
    "sequence": {"text": "A fine film 😀\nfrom Paris."},
    "pairs": {"text": "Guten Tag"},
    "chat": {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}]},
    "preference": {"prompt": "Why?", "left": "Because.", "right": "Why not?"},
}
ANSWERS: Mapping[Kind, Answer] = {
    "classification": "good",
    "sequence": (Span(2, 6, "praise"), Span(19, 24, "place")),
    "pairs": "Good day",
    "chat": "A model.",
    "preference": "right",
}


def make_task(kind: Kind = "classification", text: str | None = None) -> Task:
    content = CONTENT[kind] if text is None else {**CONTENT[kind], "text": text}
    return Task(kind, content, "ab" * 32, "reviews.jsonl")


def labelled(kind: Kind, text: str, answers: Mapping[str, Answer], truth: str = "") -> Labelled:
    """A task with the answers of named annotators; those of `truth` are marked as ground truth."""
    given = [Annotation(name, answer, name == truth) for name, answer in sorted(answers.items())]
    return Labelled(make_task(kind, text), given)


def columns(kind: Kind, rows: Mapping[str, Sequence[str | None]]) -> list[Labelled]:
    """Tasks from each annotator's row of labels; None is a task that this one did not do."""
    length = len(next(iter(rows.values())))
    return [
        labelled(kind, f"text {i}", {name: label for name, row in rows.items() if (label := row[i]) is not None})
        for i in range(length)
    ]


def record(task: Task, answers: Mapping[Any, Answer], number: int = 1, **more: Any) -> dict[str, Any]:
    """A task as Label Studio exports it."""
    data = {"task_id": task.id, "sha256": task.sha256, "source": task.source, **task.content}
    annotations = [annotation(task, who, answer, 10 * number + i) for i, (who, answer) in enumerate(answers.items())]
    return {"id": number, "data": data, "annotations": annotations, "predictions": [], **more}


def annotation(task: Task, who: Any, answer: Answer, number: int = 1, **more: Any) -> dict[str, Any]:
    facts = {"id": number, "completed_by": who, "was_cancelled": False, "ground_truth": False}
    times = {"created_at": "2026-11-22T05:00:00Z", "updated_at": "2026-11-22T05:00:00Z"}
    return {**facts, **times, "result": result_of(task, answer), **more}


def write(folder: Path, records: Any) -> Path:
    path = folder / "results.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return path
