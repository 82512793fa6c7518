"""Answers that were given in a form of ours: kept in Label Studio's export format, so that one reader serves both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llm_core.labels.answers import Answer, result_of
from llm_core.labels.files import write_whole
from llm_core.labels.task import LabelError, Task


class AnswerLog:
    """A file of tasks with everybody's answers; a new answer of a person replaces the old one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: list[dict[str, Any]] = _read(path)

    def answered_by(self, annotator: str) -> set[str]:
        """Ids of the tasks that this person answered or skipped."""
        return {
            record["data"]["task_id"]
            for record in self._records
            if any(_is_by(each, annotator) for each in record["annotations"])
        }

    def add(self, annotator: str, answers: Sequence[tuple[Task, Answer | None]], name: str) -> None:
        """Add one person's answers (None: skipped) under the name of the form, and save the file whole.

        Adding the same form's answers again changes nothing but the time.
        """
        when = datetime.now(UTC).isoformat(timespec="seconds")
        for number, (task, answer) in enumerate(answers):
            result = [] if answer is None else result_of(task, answer)
            facts = {"id": f"{name}-{number}", "completed_by": annotator, "updated_at": when}
            marks = {"was_cancelled": answer is None, "ground_truth": False}
            record = self._record(task)
            others = [each for each in record["annotations"] if not _is_by(each, annotator)]
            record["annotations"] = [*others, {**facts, **marks, "result": result}]
        self._save()

    def _record(self, task: Task) -> dict[str, Any]:
        for record in self._records:
            if record["data"]["task_id"] == task.id:
                return record
        data = {"task_id": task.id, "sha256": task.sha256, "source": task.source, **task.content}
        self._records.append({"id": len(self._records) + 1, "data": data, "annotations": []})
        return self._records[-1]

    def _save(self) -> None:
        write_whole(self._path, json.dumps(self._records, indent=1, ensure_ascii=False) + "\n")


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        records = json.loads(path.read_bytes())
    except FileNotFoundError:
        return []
    except (ValueError, RecursionError) as problem:
        raise LabelError(f"{path}: is no JSON ({problem}); restore it or move it away to begin anew") from None
    if not isinstance(records, list) or not all(_is_ours(record) for record in records):
        raise LabelError(f"{path}: is no file of ours; move it away, or give the labels another name")
    return records


def _is_by(annotation: Mapping[str, Any], annotator: str) -> bool:
    """Whether this is the person's: Label Studio knows people by number, alone or among their facts."""
    person = annotation["completed_by"]
    return str(person.get("id") if isinstance(person, Mapping) else person) == annotator


def _is_ours(record: Any) -> bool:
    if not isinstance(record, Mapping) or not isinstance(record.get("annotations"), list):
        return False
    data = record.get("data")
    people = all(isinstance(each, Mapping) and "completed_by" in each for each in record["annotations"])
    return isinstance(data, Mapping) and "task_id" in data and people
