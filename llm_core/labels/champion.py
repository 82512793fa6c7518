"""Pre-annotations: what the served model proposes, asked through its OpenAI-compatible API."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import httpx

from llm_core.labels.label_studio import INSTRUCTIONS, Draft, Proposed
from llm_core.labels.task import LabelError, Task

MAX_TOKENS = 128
LABEL_TOKENS = 12
TOP_TOKENS = 5
"""Alternatives of a token that the API tells at most."""
FEWEST_CHARACTERS = 16
"""A text is halved down to this until it fits into the model's context."""


class Champion:
    """The model that a server serves now; every request names its version, so that all drafts are from one."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        served = self._ask("GET", "/v1/models", "data")
        if not served:
            raise LabelError(f"{client.base_url}: serves no model yet; tidemill run makes one")
        described = served[0].get("tidemill", {})
        self.version: str = described.get("name", served[0]["id"])
        """Name of the served version, as LINE@NUMBER."""
        self._has_chat_template = bool(described.get("has_chat_template", True))

    def propose(self, tasks: Sequence[Task], labels: tuple[str, ...] = (), instruction: str = "") -> Iterator[Proposed]:
        """Each task with a draft where the model has one.

        A preference gets its two answers from the model, and is left out where they are equal or empty; spans are not
        proposed. Equal tasks and versions give equal drafts. Raises LabelError when the server cannot answer.
        """
        for task in tasks:
            told = instruction or INSTRUCTIONS[task.kind]
            if task.kind == "preference" and "left" not in task.content:
                yield from self._two_answers(task)
            elif task.kind in ("sequence", "preference"):
                yield Proposed(task)
            elif task.kind == "classification":
                yield Proposed(task, self._label(task, labels, told), self.version)
            else:
                yield Proposed(task, self._text(task, told), self.version)

    def _label(self, task: Task, labels: tuple[str, ...], told: str) -> Draft | None:
        def request(text: str) -> dict[str, Any]:
            prompt = f"{text}\n\n{told} {', '.join(labels)}\nLabel:"
            return {"prompt": prompt, "max_tokens": LABEL_TOKENS, "temperature": 0, "logprobs": TOP_TOKENS}

        return chosen_label(labels, self._fitting("/v1/completions", request, task.text)[0])

    def _text(self, task: Task, told: str) -> Draft | None:
        answer = self._answers(task, "" if task.kind == "chat" else told, temperature=0.0, n=1)[0]
        return Draft(answer, score=None) if answer else None

    def _two_answers(self, task: Task) -> Iterator[Proposed]:
        left, right = self._answers(task, "", temperature=1.0, n=2)
        if left and right and left != right:
            content = {**task.content, "left": left, "right": right}
            yield Proposed(replace(task, content=content), model_version=self.version)

    def _answers(self, task: Task, told: str, temperature: float, n: int) -> list[str]:
        """`n` answers: of a chat where the model has a template for it, else what it writes on."""
        # The seed follows from the task, so that exporting again gives the same drafts.
        settings = {"temperature": temperature, "n": n, "seed": int(task.id, 16) >> 2, "max_tokens": MAX_TOKENS}

        def request(text: str) -> dict[str, Any]:
            asked = f"{told}\n\n{text}" if told else text
            if self._has_chat_template:
                return {"messages": _turns(task, asked), **settings}
            ending = "assistant:" if task.kind == "chat" else told
            return {"prompt": f"{text}\n\n{ending}".rstrip() + "\n" * (task.kind != "chat"), **settings}

        path = "/v1/chat/completions" if self._has_chat_template else "/v1/completions"
        choices = self._fitting(path, request, task.text)
        texts = [choice["message"]["content"] if "message" in choice else choice["text"] for choice in choices]
        return [(text or "").strip() for text in texts[:n]]

    def _fitting(self, path: str, request: Any, text: str) -> Any:
        """The choices for as much of the text's beginning as the model's context takes."""
        while True:
            body = {"model": self.version, **request(text)}
            try:
                choices = self._ask("POST", path, "choices", body)
            except _ContextExceeded as problem:
                if len(text) <= FEWEST_CHARACTERS:
                    raise LabelError(str(problem)) from None
                text = text[: len(text) // 2]
                continue
            given, wanted = len(choices), body.get("n", 1)
            if given < wanted:
                at = self._client.base_url
                raise LabelError(f"{at}: gave {given} of {wanted} answers; name a server that knows the parameter n")
            return choices

    def _ask(self, method: str, path: str, key: str, body: Mapping[str, Any] | None = None) -> Any:
        """What the server's answer holds under `key`."""
        try:
            response = self._client.request(method, path, json=body)
        except httpx.HTTPError as problem:
            raise LabelError(
                f"{self._client.base_url}: no model server answers ({problem}); start it with tidemill serve, "
                "name it with --server, or leave --preannotate out"
            ) from None
        error = _error(response)
        if error.get("code") == "context_length_exceeded":
            raise _ContextExceeded(
                f"{response.url}: {error.get('message')}; give a shorter instruction or fewer labels"
            )
        if not response.is_success:
            later = "; another version was promoted meanwhile" if response.status_code == HTTPStatus.NOT_FOUND else ""
            said = error.get("message") or response.text[:300]
            raise LabelError(f"{response.url}: answered {response.status_code} ({said}){later}; export again")
        try:
            return response.json()[key]
        except (ValueError, KeyError, TypeError):
            raise LabelError(f"{response.url}: speaks no OpenAI-compatible API ({key} is missing)") from None


class _ContextExceeded(LabelError):
    """The prompt is too long for the model."""


def chosen_label(labels: tuple[str, ...], choice: Mapping[str, Any]) -> Draft | None:
    """The label that a completion begins with, else the one that the first token's alternatives make likeliest.

    `choice` is one of OpenAI's completions API, with logprobs. The score is the probability of the first token. None
    where no label, or none alone, is there.
    """
    written = choice["text"].strip().casefold()
    first = ((choice.get("logprobs") or {}).get("top_logprobs") or [{}])[0]
    shares = {label: _share(label, labels, first) for label in labels}
    named = [label for label in sorted(labels, key=len, reverse=True) if written.startswith(label.casefold())]
    if named:
        return Draft(named[0], shares[named[0]] or None)
    best = max(labels, key=lambda label: shares[label])
    return Draft(best, shares[best]) if shares[best] > 0 else None


def _share(label: str, labels: tuple[str, ...], top: Mapping[str, float]) -> float:
    """Probability of the tokens that begin this label and no other one."""
    share = 0.0
    for token, logprob in top.items():
        begun = token.strip().casefold()
        if [other for other in labels if other.casefold().startswith(begun)] == [label]:
            share += math.exp(logprob)
    return round(min(share, 1.0), 6)


def _turns(task: Task, asked: str) -> list[dict[str, str]]:
    """The conversation to answer; a shortened one is its beginning in one turn."""
    if task.kind == "chat" and asked == task.text:
        return list(task.content["messages"])
    return [{"role": "user", "content": asked}]


def _error(response: httpx.Response) -> Mapping[str, Any]:
    """OpenAI's error object, empty where there is none."""
    if response.is_success:
        return {}
    try:
        error = response.json().get("error")
    except (ValueError, AttributeError):
        return {}
    return error if isinstance(error, Mapping) else {}
