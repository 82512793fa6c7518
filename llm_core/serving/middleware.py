"""What holds for every request: room for it, a bound on its size, the name of the served version on its response."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_core.serving.engine import Engine, EngineUnavailable
from llm_core.serving.errors import unavailable

if TYPE_CHECKING:
    from llm_core.serving.metrics import Metrics

MAX_BODY_BYTES = 2**20
"""While JSON is read nobody else is answered: tens of milliseconds for a megabyte of numbers."""
BODY_SECONDS = 30.0
"""How long a client may take to send what it asks."""
SMALL_BODY_BYTES = 65_536
"""What a refused request may still send; where it is more, the connection ends instead."""
VERSION_HEADER = "x-tidemill-version"
WRITING_PATHS = frozenset({"/completions", "/chat/completions", "/translate", "/summarize"})
"""What the engine is needed for, without its /v1."""


class Admission:
    """Answers 503 to who wants something written while the engine takes no more, before the body is read.

    Reading and checking it would cost those who are being answered as much as a token each.
    """

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self._app, self._engine = app, engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and _is_writing(scope):
            try:
                self._engine.check_room()
            except EngineUnavailable as problem:
                response = unavailable(problem)
                end_unread(response, scope)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_writing(scope: Scope) -> bool:
    return scope["path"].removeprefix("/v1") in WRITING_PATHS


class BodyLimit:
    """Answers 413 to a body over `max_bytes`, announced or not, and 408 to one that takes longer than `seconds`."""

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES, seconds: float = BODY_SECONDS) -> None:
        self._app, self._max_bytes, self._seconds = app, max_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        num_bytes, is_whole = 0, False
        announced = _announced_bytes(scope)
        deadline = asyncio.get_running_loop().time() + self._seconds

        async def limited() -> Message:
            nonlocal num_bytes, is_whole
            if is_whole:  # who waits now waits for the client to leave
                return await receive()
            if announced > self._max_bytes:
                raise self._too_large()
            message = await self._in_time(receive, deadline)
            num_bytes += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if num_bytes > self._max_bytes:
                raise self._too_large()
            return message

        await self._app(scope, limited, send)

    def _too_large(self) -> HTTPException:
        detail = f"(the body is over {self._max_bytes} bytes; send less)"
        return _unfinished(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)

    async def _in_time(self, receive: Receive, deadline: float) -> Message:
        try:
            async with asyncio.timeout_at(deadline):
                return await receive()
        except TimeoutError:
            detail = f"(the body was not there after {self._seconds:g} s)"
            raise _unfinished(HTTPStatus.REQUEST_TIMEOUT, detail) from None


def _announced_bytes(scope: Scope) -> int:
    return max((int(length) for length in _lengths(scope) if length.isdigit()), default=0)


def _lengths(scope: Scope) -> list[bytes]:
    return [value for name, value in scope["headers"] if name.lower() == b"content-length"]


def end_unread(response: Response, scope: Scope) -> None:
    """Let the connection end with this response, unless what the request still sends is little."""
    is_chunked = any(name.lower() == b"transfer-encoding" for name, _ in scope["headers"])
    is_small = all(length.isdigit() and int(length) <= SMALL_BODY_BYTES for length in _lengths(scope))
    if is_chunked or not is_small:
        response.raw_headers.append((b"connection", b"close"))


def _unfinished(status: HTTPStatus, detail: str) -> HTTPException:
    # The rest of the body is not read, so the connection cannot be used again.
    return HTTPException(status, detail, {"connection": "close"})


class VersionHeader:
    """Names the served version on each response that does not name the one that wrote it."""

    def __init__(self, app: ASGIApp, served: Callable[[], str | None]) -> None:
        self._app, self._served = app, served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def named(message: Message) -> None:
            name = self._served()
            if message["type"] == "http.response.start" and name is not None:
                MutableHeaders(scope=message).setdefault(VERSION_HEADER, name)
            await send(message)

        await self._app(scope, receive, named)


class CountResponses:
    """Counts each response under its route's pattern and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.responded(pattern_of(scope), message["status"])
            await send(message)

        await self._app(scope, receive, counted if scope["type"] == "http" else send)


def pattern_of(scope: Scope) -> str:
    """The path of the route that answered, with names in place of what was asked for."""
    route = scope.get("route")
    if route is None:
        return scope["path"] if _is_writing(scope) else "none"
    return scope["path"] if not scope.get("path_params") else str(route.path)
