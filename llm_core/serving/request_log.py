"""One JSON line a request: who, what, how long; no secret, and what was asked and answered only where that is kept."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_core.serving.middleware import VERSION_HEADER

logger = logging.getLogger(__name__)

REQUEST_ID_HEADER = "x-request-id"
SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
SECRET = re.compile(r"tm_([0-9A-Za-z]{0,12})_[0-9A-Za-z]+")
LONGEST_PATH = 200
POLLED_PATHS = frozenset({"/health", "/ready", "/version"})


class RequestLog:
    """Logs each request when its response has ended, and gives it an id, the caller's own if it is sane.

    Those who only look whether the server is well are not logged unless it is not.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = _Record(scope)

        async def noted(message: Message) -> None:
            record.note(message)
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            record.write()


class _Record:
    """A request on its way."""

    def __init__(self, scope: Scope) -> None:
        self._scope, self._began, self._at = scope, time.perf_counter(), datetime.now(UTC)
        self._id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = self._id
        self._status: int = HTTPStatus.INTERNAL_SERVER_ERROR  # of an app that breaks before it answers
        self._version: str | None = None
        self._num_bytes = 0

    def note(self, message: Message) -> None:
        """Take in what the app answers; its headers get the request's id."""
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            found = [value for name, value in headers if name.lower() == VERSION_HEADER.encode()]
            self._status, self._version = message["status"], found[0].decode("latin-1") if found else None
            message["headers"] = [*headers, (REQUEST_ID_HEADER.encode(), self._id.encode())]
        self._num_bytes += len(message.get("body", b""))

    def write(self) -> None:
        """Log it."""
        if self._scope["path"] not in POLLED_PATHS or self._status != HTTPStatus.OK:
            logger.info("%s", SECRET.sub(r"tm_\1_...", json.dumps(self._plain())))

    def _plain(self) -> dict[str, Any]:
        caller = self._scope["state"].get("caller")
        plain = {
            "time": self._at.isoformat(timespec="milliseconds"),
            "request_id": self._id,
            "key": caller.key_id if caller else None,
            "method": self._scope["method"],
            "path": SECRET.sub(r"tm_\1_...", self._scope["path"])[
                :LONGEST_PATH
            ],  # before the cut: half a key is one too
            "status": self._status,
            "version": self._version,
            "ms": round((time.perf_counter() - self._began) * 1000, 1),
            "bytes": self._num_bytes,
        }
        if spoken := self._scope["state"].get("spoken"):
            plain |= {"asked": spoken.asked, "answered": spoken.answered}
        if caller and (caller.prompt_tokens or caller.completion_tokens):
            plain |= {"prompt_tokens": caller.prompt_tokens, "completion_tokens": caller.completion_tokens}
        return plain


def _request_id(scope: Scope) -> str:
    given = [value for name, value in scope["headers"] if name.lower() == REQUEST_ID_HEADER.encode()]
    if len(given) == 1 and SANE_ID.fullmatch(given[0]) and not SECRET.search(given[0].decode()):
        return given[0].decode()
    return uuid.uuid4().hex
