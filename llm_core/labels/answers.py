"""Answers of people: in Label Studio's result format, and as plain values to count with.

The format is https://labelstud.io/guide/task_format: a result is a list of ``{from_name, to_name, type, value}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_core.labels.task import Kind, LabelError, Task, whole_text

SIDES = ("left", "right")


@dataclass(frozen=True, order=True)
class Span:
    """A labelled piece of a text; start and end count Unicode code points, end is behind the last one."""

    start: int
    end: int
    label: str


Answer = str | tuple[Span, ...]
"""A label, a text or a side; or the spans of a sequence in their order."""


@dataclass(frozen=True)
class Control:
    """The part of Label Studio's page that takes an answer."""

    tag: str
    name: str
    to_name: str

    @property
    def type(self) -> str:
        """How results name it."""
        return self.tag.lower()


CONTROLS: Mapping[Kind, Control] = {
    "classification": Control("Choices", "label", "text"),
    "sequence": Control("Labels", "span", "text"),
    "pairs": Control("TextArea", "target", "text"),
    "chat": Control("TextArea", "answer", "messages"),
    "preference": Control("Pairwise", "better", "left,right"),
}


def parse_result(task: Task, result: Any) -> Answer:
    """The answer in a Label Studio result; relations, and what other controls of the page gave, are passed over.

    Raises LabelError where it is malformed or does not fit the task.
    """
    if not isinstance(result, list) or not all(isinstance(item, Mapping) for item in result):
        raise LabelError("result is no list of objects; export it from Label Studio again as JSON")
    wanted = CONTROLS[task.kind].type
    items = [item for item in result if item.get("type") == wanted]
    if task.kind != "sequence":  # a field for comments is of the same type as one for an answer
        items = [item for item in items if item.get("from_name") == CONTROLS[task.kind].name] or items
    values = [item.get("value") for item in items]
    if not all(isinstance(value, Mapping) for value in values):
        raise LabelError(f"a {wanted} result has no value; export it from Label Studio again as JSON")
    if task.kind == "sequence":
        return tuple(sorted({span for value in values for span in _spans(task.text, value)}))
    if len(values) != 1:
        raise LabelError(f"{len(values)} {wanted} results, one is needed; open the task in Label Studio and answer it")
    return _single(task.kind, values[0])


def result_of(task: Task, answer: Answer) -> list[dict[str, Any]]:
    """The Label Studio result that says `answer`: the inverse of parse_result."""
    control = CONTROLS[task.kind]
    frame = {"from_name": control.name, "to_name": control.to_name.split(",")[0], "type": control.type}
    values = [_value(task, part) for part in (answer if isinstance(answer, tuple) else (answer,))]
    return [{"id": f"{task.id}-{number}", **frame, "value": value} for number, value in enumerate(values)]


def _value(task: Task, part: str | Span) -> dict[str, Any]:
    if isinstance(part, Span):
        place = {"start": part.start, "end": part.end}
        return {**place, "text": task.text[part.start : part.end], "labels": [part.label]}
    if task.kind == "preference":
        return {"selected": part}
    return {"choices": [part]} if task.kind == "classification" else {"text": [part]}


def _single(kind: Kind, value: Mapping[str, Any]) -> str:
    if kind == "preference":
        side = value.get("selected")
        if side not in SIDES:
            raise LabelError(f"selected is {side!r}; it must be left or right")
        return str(side)
    key = "choices" if kind == "classification" else "text"
    return _only(value.get(key), key).strip()


def _only(value: Any, key: str) -> str:
    """The one text of a list (or the text itself, as older versions write it)."""
    texts = value if isinstance(value, list) else [value]
    if len(texts) != 1:
        raise LabelError(f"{key} holds {len(texts)} entries, one is needed; open the task and keep one")
    return whole_text(texts[0], key)


def _spans(text: str, value: Mapping[str, Any]) -> list[Span]:
    labels = value.get("labels")
    if not isinstance(labels, list) or not labels:
        raise LabelError("a span has no label; open the task in Label Studio and give it one")
    start, end = _place(text, value)
    return [Span(start, end, whole_text(label, "labels").strip()) for label in labels]


def _place(text: str, value: Mapping[str, Any]) -> tuple[int, int]:
    """Start and end in code points; Label Studio before 1.5 counted UTF-16 units, which the quoted text tells.

    Only where neither way finds the very text does white space not count.
    """
    start, end = value.get("start"), value.get("end")
    if type(start) is not int or type(end) is not int or not 0 <= start < end:
        raise LabelError(f"a span from {start!r} to {end!r}: whole numbers are needed, the end behind the start")
    quoted = value.get("text")
    places = [(start, end)] if end <= len(text) else []
    if quoted is None and places:
        return start, end
    if isinstance(quoted, str):
        places += _utf16_place(text, start, end)
        for form in (_with_line_ends, _without_space):
            for place in places:
                if form(text[slice(*place)]) == form(quoted):
                    return place
    raise LabelError(f"a span from {start} to {end} is not where its text is; was the document changed after export?")


def _utf16_place(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The place in code points of one counted in UTF-16 units; none where it cuts a character."""
    units = text.encode("utf-16-le")
    try:
        before, found = units[: 2 * start].decode("utf-16-le"), units[2 * start : 2 * end].decode("utf-16-le")
    except UnicodeDecodeError:
        return []
    return [(len(before), len(before) + len(found))]


def _with_line_ends(text: str) -> str:
    r"""Label Studio's copy of a text writes line ends as ``\n`` in two characters."""
    return text.replace("\\n", "\n")


def _without_space(text: str) -> str:
    return "".join(_with_line_ends(text).split())


@dataclass(frozen=True)
class Annotation:
    """One person's answer to one task."""

    annotator: str
    answer: Answer
    is_truth: bool = False
    """Marked in Label Studio as ground truth."""


@dataclass(frozen=True)
class Labelled:
    """A task with the answers it got, one for each annotator, in the order of their names."""

    task: Task
    annotations: Sequence[Annotation]

    def by(self, annotator: str) -> Answer | None:
        """This annotator's answer, if there is one."""
        return next((each.answer for each in self.annotations if each.annotator == annotator), None)
