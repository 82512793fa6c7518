"""Labelling tasks: what a person is shown, under an id that follows from the content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

Kind = Literal["classification", "sequence", "pairs", "chat", "preference"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WITH_LABELS: tuple[Kind, ...] = ("classification", "sequence")
"""Kinds whose answers are words of a given set."""
TEXT_KEYS: Mapping[Kind, tuple[str, ...]] = {
    "classification": ("text",),
    "sequence": ("text",),
    "pairs": ("text",),
    "chat": (),
    "preference": ("prompt", "left", "right"),
}
ROLES = ("system", "developer", "user", "assistant")
ID_CHARACTERS = 16


class LabelError(ValueError):
    """Documents, labels or results that cannot be used; the message names the place and what to do."""


@dataclass(frozen=True)
class Task:
    """One thing to label. Equal content is one task, wherever it came from."""

    kind: Kind
    content: Mapping[str, Any]
    """What the answer is about: text; messages of a chat; prompt, left and right of a preference."""
    sha256: str
    """sha256 of the document's raw bytes."""
    source: str
    """Name of the file or source that it came from."""

    @cached_property
    def id(self) -> str:
        """The start of the content's sha256. It travels in the data: Label Studio gives tasks numbers of its own."""
        canonical = json.dumps([self.kind, self.content], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:ID_CHARACTERS]

    @property
    def text(self) -> str:
        """The text that spans count characters of, and that a form shows."""
        if self.kind == "chat":
            return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in self.content["messages"])
        return str(self.content[TEXT_KEYS[self.kind][0]])


def checked_content(kind: Kind, values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `values` that a task of this kind shows; raises LabelError naming the key that does not fit."""
    if kind == "chat":
        return {"messages": _checked_messages(values.get("messages"))}
    return {key: whole_text(values.get(key), key) for key in TEXT_KEYS[kind]}


def whole_text(value: Any, key: str) -> str:
    """`value` with plain line ends, if it is a text that says something; raises LabelError otherwise.

    Browsers drop carriage returns, which would shift every span behind them.
    """
    if not isinstance(value, str):
        raise LabelError(f"{key} is {_type_name(value)}, a text is needed; add it or correct it")
    if not value.strip():
        raise LabelError(f"{key} is empty; fill it or leave this record out")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise LabelError(f"{key} holds half of a surrogate pair; mend the file's encoding") from None
    return value.replace("\r\n", "\n").replace("\r", "\n")


def checked_labels(kind: Kind, labels: tuple[str, ...]) -> tuple[str, ...]:
    """The label set of this kind; raises LabelError where it is missing, doubled, unusable or not wanted."""
    if kind not in WITH_LABELS:
        if labels:
            raise LabelError(f"labels: {kind} has none; leave --labels out")
        return ()
    if len(labels) < (2 if kind == "classification" else 1) or len(set(labels)) < len(labels):
        raise LabelError(f"labels {','.join(labels)!r}: {kind} needs different words, as in --labels good,bad")
    for label in labels:
        if not whole_text(label, "a label").isprintable() or label != label.strip():
            raise LabelError(f"label {label!r}: white space around it or control characters in it; take them out")
    return labels


def _checked_messages(messages: Any) -> list[dict[str, str]]:
    if not isinstance(messages, list) or not messages:
        raise LabelError('messages is no list of turns; write [{"role": "user", "content": "..."}]')
    turns = []
    for number, turn in enumerate(messages):
        if not isinstance(turn, Mapping) or turn.get("role") not in ROLES:
            raise LabelError(f"messages[{number}]: its role must be one of {', '.join(ROLES)}")
        content = whole_text(turn.get("content"), f"messages[{number}].content")
        turns.append({"role": str(turn["role"]), "content": content})
    if turns[-1]["role"] != "user":
        raise LabelError("messages: the last turn must be the user's, for the answer to follow it; cut what is behind")
    return turns


def _type_name(value: Any) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"
