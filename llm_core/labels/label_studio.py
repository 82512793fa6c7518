"""Tasks in Label Studio's import format (https://labelstud.io/guide/predictions), and the configuration of its page."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET  # only writes: nothing is parsed
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_core.labels.answers import CONTROLS, Answer, result_of
from llm_core.labels.task import Kind, LabelError, Task, checked_labels

INSTRUCTIONS: Mapping[Kind, str] = {
    "classification": "Choose the label that fits the text.",
    "sequence": "Mark the pieces of the text and label them.",
    "pairs": "Write the text that belongs to this one.",
    "chat": "Write the assistant's answer.",
    "preference": "Choose the better answer.",
}
VARIABLE = re.compile(r"^\$|\$[\w\[\].{}]", re.ASCII)
"""What Label Studio replaces by a value of the task's data, wherever it stands on the page."""


@dataclass(frozen=True)
class Draft:
    """A model's proposal for an answer."""

    answer: Answer
    score: float | None
    """The model's own probability of it, 0 to 1, where it is known."""


@dataclass(frozen=True)
class Proposed:
    """A task, and what the model of this version proposes."""

    task: Task
    draft: Draft | None = None
    model_version: str = ""


def tasks_json(proposed: Sequence[Proposed]) -> str:
    """The tasks to import; equal tasks and drafts give equal text. The id is in `data` since import drops others."""
    return json.dumps([_task(each) for each in proposed], indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def labelling_config(kind: Kind, labels: tuple[str, ...] = (), instruction: str = "") -> str:
    """The labelling configuration (XML) for a project with these tasks.

    Raises LabelError for a label set that does not fit the kind, and for words that Label Studio would not show.
    """
    labels = checked_labels(kind, labels)
    if not (instruction or "x").isprintable():
        raise LabelError(f"instruction {instruction!r}: Label Studio shows one line; take line ends and tabs out")
    for text in (*labels, instruction):
        if VARIABLE.search(text):
            raise LabelError(f"{text!r}: Label Studio takes $ and a word for a key of the data; write it without $")
    view = ET.Element("View")
    ET.SubElement(view, "Header", value=instruction or INSTRUCTIONS[kind])
    _add_page(view, kind, labels)
    ET.indent(view)
    return ET.tostring(view, encoding="unicode") + "\n"


def _task(proposed: Proposed) -> dict[str, Any]:
    task, draft = proposed.task, proposed.draft
    data = {"task_id": task.id, "sha256": task.sha256, "source": task.source, **task.content}
    if proposed.model_version and draft is None:
        data["model_version"] = proposed.model_version
    predictions = []
    if draft is not None:
        score = {} if draft.score is None else {"score": draft.score}
        predictions = [{"model_version": proposed.model_version, **score, "result": result_of(task, draft.answer)}]
    return {"data": data, "predictions": predictions}


def _add_page(view: ET.Element, kind: Kind, labels: tuple[str, ...]) -> None:
    if kind == "preference":
        ET.SubElement(view, "Text", name="prompt", value="$prompt")
    answer = ET.SubElement(view, CONTROLS[kind].tag, name=CONTROLS[kind].name, toName=CONTROLS[kind].to_name)
    if kind == "classification":
        answer.attrib |= {"choice": "single", "required": "true"}
    elif kind in ("pairs", "chat"):
        answer.attrib |= {"maxSubmissions": "1", "editable": "true", "required": "true", "rows": "6"}
    for label in labels:
        ET.SubElement(answer, "Choice" if kind == "classification" else "Label", value=label)
    if kind == "chat":
        turns = ET.SubElement(view, "Paragraphs", name="messages", value="$messages")
        turns.attrib |= {"layout": "dialogue", "nameKey": "role", "textKey": "content"}
    else:
        for name in ("left", "right") if kind == "preference" else ("text",):
            ET.SubElement(view, "Text", name=name, value=f"${name}")
