"""Documents to label: text files, JSON Lines and artifacts of documents become tasks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from llm_core.artifact import MANIFEST, Artifact
from llm_core.labels.task import Kind, LabelError, Task, checked_content, whole_text

LINES = (".jsonl", ".ndjson")


def read_tasks(paths: Sequence[Path], kind: Kind) -> Iterator[Task]:
    """One task for each document: of a documents artifact, each line of a JSON Lines file, or a whole text file.

    A plain text becomes the user's turn of a chat, or the prompt of a preference, which lacks its two answers.
    Raises LabelError naming file and line.
    """
    for path in paths:
        if (path / MANIFEST).is_file():
            yield from _artifact_tasks(path, kind)
        elif path.suffix.lower() in LINES:
            yield from _line_tasks(path, kind)
        else:
            raw = _read(path)
            yield _task(str(path), kind, {"text": _decoded(raw, str(path))}, _sha256(raw), str(path))


def sample_tasks(tasks: Iterable[Task], size: int | None = None) -> list[Task]:
    """The tasks without copies; or `size` of them, in the order of their ids: random, and the same ones every time."""
    different: dict[str, Task] = {}
    for task in tasks:
        different.setdefault(task.id, task)
        if size is not None and len(different) == 2 * size:  # memory follows the sample, not the documents
            different = dict(sorted(different.items())[:size])
    return list(different.values()) if size is None else [task for _, task in sorted(different.items())[:size]]


def _artifact_tasks(path: Path, kind: Kind) -> Iterator[Task]:
    from llm_core.text.document import Document
    from llm_core.text.shards import read_documents

    artifact = Artifact.open(path, kind="documents")
    for document in read_documents(artifact.path, Document):
        yield _task(document.place, kind, {"text": document.text}, document.sha256, document.source)


def _line_tasks(path: Path, kind: Kind) -> Iterator[Task]:
    for number, line in enumerate(_read(path).splitlines(), start=1):
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        text = _decoded(line, place)
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as problem:
            raise LabelError(f"{place}: is no JSON ({problem}); one object a line is needed") from None
        if not isinstance(record, dict):
            raise LabelError(f'{place}: is no object; write {{"text": "..."}}')
        yield _task(place, kind, record, _sha256(line), str(path))


def _task(place: str, kind: Kind, record: dict[str, Any], sha256: str, source: str) -> Task:
    try:
        return Task(kind, _content(kind, record), sha256, source)
    except LabelError as problem:
        raise LabelError(f"{place}: {problem}") from None


def _content(kind: Kind, record: dict[str, Any]) -> dict[str, Any]:
    if kind == "chat" and "messages" not in record:
        text = whole_text(record.get("text"), "text")
        return checked_content(kind, {"messages": [{"role": "user", "content": text}]})
    if kind == "preference" and not record.keys() & {"left", "right"}:
        key = "prompt" if "prompt" in record else "text"
        return {"prompt": whole_text(record.get(key), key)}
    return checked_content(kind, record)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise LabelError(f"{path}: cannot be read ({problem.strerror}); name a file or a documents artifact") from None


def _decoded(raw: bytes, place: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise LabelError(
            f"{place}: is not UTF-8 ({problem.reason} at byte {problem.start}); collect and clean it first, "
            "and name the artifact instead"
        ) from None


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
