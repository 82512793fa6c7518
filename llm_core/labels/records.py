"""Labelled records in the formats that tuning reads, each with where it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_core.labels.adjudicate import Decision
from llm_core.labels.answers import Labelled
from llm_core.labels.task import Kind, LabelError

if TYPE_CHECKING:
    import pyarrow as pa

RECORDS, TABLE = "records.jsonl", "labels.parquet"
CONVERSATIONS: tuple[Kind, ...] = ("chat", "pairs")
"""Kinds whose records are something said and the answer to it."""


def labelled_record(labelled: Labelled, decision: Decision) -> dict[str, Any]:
    """The record of a task: what tuning reads, and `provenance`.

    classification {text, label}; sequence {text, spans: [{start, end, label}]}; pairs {source, target};
    chat {messages: [{role, content}]}; preference {prompt, chosen, rejected}.
    """
    task = labelled.task
    provenance = {
        "task": task.id,
        "sha256": task.sha256,
        "source": task.source,
        "annotators": [each.annotator for each in labelled.annotations],
        "agreed": list(decision.agreed),
        "adjudication": decision.how,
    }
    return {**_content(task.kind, task.content, decision), "provenance": provenance}


def write_records(kind: Kind, records: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write the records as JSON Lines and as a Parquet table with the same columns; equal records, equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (folder / RECORDS).write_text("".join(lines), encoding="utf-8", newline="\n")
    pq.write_table(pa.Table.from_pylist([dict(record) for record in records], _schema(kind)), folder / TABLE)


def require_conversations(kind: Kind) -> None:
    """Raise LabelError unless records of this kind are conversations."""
    if kind not in CONVERSATIONS:
        raise LabelError(f"{kind} labels hold no conversations to tune on; labels of {' and '.join(CONVERSATIONS)} do")


def conversation_of(kind: Kind, record: Mapping[str, Any], instruction: str = "") -> list[dict[str, str]]:
    """The record as messages {role, content} that end with the answer; raises LabelError for other kinds.

    A pair's source is the user's turn, below the instruction where there is one, as the champion is asked for pairs.
    """
    require_conversations(kind)
    if kind == "chat":
        return list(record["messages"])
    asked = f"{instruction}\n\n{record['source']}" if instruction else record["source"]
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": record["target"]}]


def _content(kind: Kind, content: Mapping[str, Any], decision: Decision) -> dict[str, Any]:
    answer = decision.answer
    if not isinstance(answer, str):
        return {"text": content["text"], "spans": [asdict(span) for span in answer]}
    if kind == "classification":
        return {"text": content["text"], "label": answer}
    if kind == "pairs":
        return {"source": content["text"], "target": answer}
    if kind == "chat":
        return {"messages": [*content["messages"], {"role": "assistant", "content": answer}]}
    other = "right" if answer == "left" else "left"
    return {"prompt": content["prompt"], "chosen": content[answer], "rejected": content[other]}


def _schema(kind: Kind) -> pa.Schema:
    import pyarrow as pa

    text, texts = pa.large_string(), pa.list_(pa.string())
    span = pa.struct({"start": pa.int64(), "end": pa.int64(), "label": pa.string()})
    turn = pa.struct({"role": pa.string(), "content": text})
    columns: dict[Kind, dict[str, Any]] = {
        "classification": {"text": text, "label": pa.string()},
        "sequence": {"text": text, "spans": pa.list_(span)},
        "pairs": {"source": text, "target": text},
        "chat": {"messages": pa.list_(turn)},
        "preference": {"prompt": text, "chosen": text, "rejected": text},
    }
    facts = {"task": pa.string(), "sha256": pa.string(), "source": pa.string(), "annotators": texts, "agreed": texts}
    provenance = pa.struct({**facts, "adjudication": pa.string()})
    return pa.schema({**columns[kind], "provenance": provenance})
