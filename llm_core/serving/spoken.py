"""What was asked and answered, in words: kept for the log and the traces of a server that was told to keep it."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LONGEST = 65_536
"""Bytes of a request, and of its answer, that are kept."""


class Spoken:
    """The body of a request and that of its answer."""

    def __init__(self) -> None:
        self._asked, self._answered = bytearray(), bytearray()

    def note_asked(self, message: Message) -> None:
        """Take in a part of the request."""
        _add(self._asked, message)

    def note_answered(self, message: Message) -> None:
        """Take in a part of the answer."""
        _add(self._answered, message)

    @property
    def asked(self) -> Any:
        """The request's JSON; as text where it is none, or only its beginning was kept."""
        return _plain(self._asked)

    @property
    def answered(self) -> Any:
        """The answer's JSON; of a stream the whole text of each choice."""
        if self._answered.startswith(b"data: "):
            return _streamed(self._answered.decode(errors="replace"))
        return _plain(self._answered)


class KeepSpoken:
    """Keeps what is said in each POST request under ``spoken`` of its state."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        spoken = scope.setdefault("state", {})["spoken"] = Spoken()

        async def heard() -> Message:
            message = await receive()
            spoken.note_asked(message)
            return message

        async def said(message: Message) -> None:
            spoken.note_answered(message)
            await send(message)

        await self._app(scope, heard, said)


def _add(kept: bytearray, message: Message) -> None:
    kept += message.get("body", b"")[: LONGEST - len(kept)]


def _plain(kept: bytearray) -> Any:
    text = kept.decode(errors="replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _streamed(text: str) -> list[str]:
    choices: dict[int, str] = defaultdict(str)
    for line in text.splitlines():
        event = _plain(bytearray(line.removeprefix("data: ").encode()))
        for choice in event.get("choices", ()) if isinstance(event, dict) else ():
            choices[choice["index"]] += choice.get("text") or choice.get("delta", {}).get("content") or ""
    return [choices[index] for index in sorted(choices)]
