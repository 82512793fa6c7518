"""What holds for every request: a bound on its size, and the name of the served version on its response."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from llm_core.serving.metrics import Metrics

MAX_BODY_BYTES = 4 * 2**20
VERSION_HEADER = "x-tidemill-version"


class BodyLimit:
    """Answers 413 to a request body over `max_bytes`, whether or not its length was announced."""

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        num_bytes = 0

        async def limited() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                detail = f"(the body is over {self._max_bytes} bytes; send less)"
                # The rest of the body is not read, so the connection cannot be used again.
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, {"connection": "close"})
            return message

        await self._app(scope, limited, send)


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
