"""What holds for every request: a bound on its size, and the name of the served version on its response."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from llm_core.serving.metrics import Metrics

MAX_BODY_BYTES = 2**20
"""While JSON is read nobody else is answered: tens of milliseconds for a megabyte of numbers."""
BODY_SECONDS = 30.0
"""How long a client may take to send what it asks."""
VERSION_HEADER = "x-tidemill-version"


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
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    return max((int(length) for length in lengths if length.isdigit()), default=0)


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
                self._metrics.responded(_pattern(scope), message["status"])
            await send(message)

        await self._app(scope, receive, counted if scope["type"] == "http" else send)


def _pattern(scope: Scope) -> str:
    """The path of the route that answered, with names in place of what was asked for."""
    route = scope.get("route")
    if route is None:
        return "none"
    return scope["path"] if not scope.get("path_params") else str(route.path)
