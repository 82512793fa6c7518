"""What people did in Label Studio: its JSON export, checked whole before anything is made of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llm_core.labels.answers import CONTROLS, Annotation, Labelled, parse_result
from llm_core.labels.task import KINDS, Kind, LabelError, Task, checked_content, whole_text

SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Results:
    """The labelled tasks of an export, in the order of their ids, and what became of the other records."""

    labelled: Sequence[Labelled]
    records_in: int
    rejected: Mapping[str, int]
    """not_labelled, skipped (every annotation was), same_task (its annotations count with the first one's)."""


@dataclass
class _Found:
    """A task with all its annotations, and when each was changed."""

    task: Task
    annotations: list[tuple[datetime, Annotation]] = field(default_factory=list)


def read_results(path: Path, kind: Kind) -> Results:
    """Read Label Studio's JSON export (not JSON-MIN).

    Raises LabelError that lists every malformed record: file, task, annotation and what to do.
    """
    records = _records(path)
    reader = _Reader(kind)
    for number, record in enumerate(records):
        reader.add(number, record)
    if reader.problems:
        shown = [f"{path}: {problem}" for problem in reader.problems[:SHOWN_PROBLEMS]]
        more = len(reader.problems) - SHOWN_PROBLEMS
        raise LabelError("\n".join(shown + ([f"{path}: ... and {more} problems more"] if more > 0 else [])))
    _require_type(path, records, CONTROLS[kind].type)
    labelled = [Labelled(found.task, _newest(found)) for _, found in sorted(reader.found.items())]
    return Results(labelled, len(records), dict(sorted(reader.rejected.items())))


class _Reader:
    """Gathers tasks and problems over all records of an export."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.found: dict[str, _Found] = {}
        self.rejected: Counter[str] = Counter()
        self.problems: list[str] = []

    def add(self, number: int, record: Any) -> None:
        place = f"record {number}"
        try:
            if not isinstance(record, Mapping):
                raise LabelError("is no object; export from Label Studio as JSON")
            place = f"task {record.get('id', f'in record {number}')}"
            task, annotations = _task(self.kind, record), record.get("annotations")
            if not isinstance(annotations, list):
                raise LabelError("has no annotations; export as JSON, not as JSON-MIN or CSV")
        except LabelError as problem:
            self.problems.append(f"{place}: {problem}")
            return
        given = [each for each in annotations if not (isinstance(each, Mapping) and each.get("was_cancelled"))]
        if not given:
            self.rejected["skipped" if annotations else "not_labelled"] += 1
            return
        if task.id in self.found:
            self.rejected["same_task"] += 1
        found = self.found.setdefault(task.id, _Found(task))
        for each in given:
            self._add_annotation(found, place, each)

    def _add_annotation(self, found: _Found, place: str, values: Any) -> None:
        try:
            if not isinstance(values, Mapping):
                raise LabelError("is no object; export from Label Studio as JSON")
            place += f", annotation {values.get('id', 'without an id')}"
            when = _time(values.get("updated_at") or values.get("created_at"))
            answer = parse_result(found.task, values.get("result"))
            given = Annotation(_annotator(values.get("completed_by")), answer, bool(values.get("ground_truth")))
            found.annotations.append((when, given))
        except LabelError as problem:
            self.problems.append(f"{place}: {problem}")


def _records(path: Path) -> list[Any]:
    try:
        records = json.loads(path.read_bytes())
    except OSError as problem:
        raise LabelError(f"{path}: cannot be read ({problem.strerror}); export it from Label Studio again") from None
    except (ValueError, RecursionError) as problem:
        raise LabelError(f"{path}: is no JSON ({problem}); export it from Label Studio as JSON again") from None
    if not isinstance(records, list):
        raise LabelError(f"{path}: is no list of tasks; export the project from Label Studio as JSON")
    return records


def _task(kind: Kind, record: Mapping[str, Any]) -> Task:
    data = record.get("data")
    if not isinstance(data, Mapping):
        raise LabelError("has no data; export from Label Studio as JSON")
    content = checked_content(kind, data)
    # Tasks of another program's making have no document of ours: their content stands for it.
    sha256 = data.get("sha256", hashlib.sha256(repr(sorted(content.items())).encode()).hexdigest())
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise LabelError("its sha256 is no digest; leave it as it was exported")
    task = Task(kind, content, sha256, whole_text(data.get("source", "unstated"), "source"))
    if data.get("task_id", task.id) != task.id:
        raise LabelError(
            f"its content is not that of task_id {data['task_id']!r}; it was changed after the export, "
            f"or --task {kind} is not what was exported"
        )
    return task


def _annotator(completed_by: Any) -> str:
    """Who: Label Studio's number of the person, never the address, for labels get published."""
    person = completed_by.get("id") if isinstance(completed_by, Mapping) else completed_by
    if type(person) is not int and not (isinstance(person, str) and person.strip()):
        raise LabelError(f"completed_by is {person!r}; write the number or name of the person into the file")
    return whole_text(str(person), "completed_by").strip()


def _time(value: Any) -> datetime:
    """When; the beginning of time where it is not said. What names no time zone is UTC, as Label Studio's times are."""
    if value is None:
        return datetime.min.replace(tzinfo=UTC)
    try:
        when = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise LabelError(f"updated_at is {value!r}; write a time as 2026-11-22T05:00:00Z, or leave it out") from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _newest(found: _Found) -> list[Annotation]:
    """One annotation for each annotator: ground truth before others, then the one changed last; sorted by annotator."""
    latest: dict[str, tuple[tuple[bool, datetime], Annotation]] = {}
    for when, each in found.annotations:
        rank = (each.is_truth, when)
        if each.annotator not in latest or rank >= latest[each.annotator][0]:
            latest[each.annotator] = (rank, each)
    return [each for _, (_, each) in sorted(latest.items())]


def find_kind(path: Path) -> Kind:
    """What people decided, by the types of the results; raises LabelError where that is not clear."""
    records = _records(path)
    types = _result_types(records)
    data = [record.get("data") for record in records if isinstance(record, Mapping)]
    is_chat = any(isinstance(each, Mapping) and "messages" in each for each in data)
    kinds = [kind for kind in KINDS if CONTROLS[kind].type in types and kind != ("pairs" if is_chat else "chat")]
    if len(kinds) != 1:
        raise LabelError(f"{path}: what people decided is not clear ({', '.join(kinds) or 'no results'}); add --task")
    return kinds[0]


def _require_type(path: Path, records: Sequence[Any], wanted: str) -> None:
    """Refuse results that are all of other types: without any labels, every text would pass as one without spans."""
    types = _result_types(records)
    if types and wanted not in types:
        raise LabelError(
            f"{path}: its results are {', '.join(sorted(types))}, none is {wanted}; choose the --task that people did, "
            f"or a {wanted} control on Label Studio's page"
        )


def _result_types(records: Sequence[Any]) -> set[str]:
    return {str(item.get("type")) for item in _children(_children(records, "annotations"), "result")}


def _children(parents: Iterable[Any], key: str) -> list[Mapping[str, Any]]:
    """All objects in the lists that the parents hold under `key`."""
    lists = [parent.get(key) for parent in parents if isinstance(parent, Mapping)]
    return [child for each in lists if isinstance(each, list) for child in each if isinstance(child, Mapping)]
