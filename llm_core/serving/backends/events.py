"""Asking an engine over HTTP: server-sent events as they come, and its refusals as errors."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

import httpx

from llm_core.serving.backends.program import BackendError


async def events(client: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    """The events of a streamed answer; leaving them closes the connection, which is how the engine learns of it.

    Raises BackendError for a refusal, an error in the stream, or what is not JSON.
    """
    async with client.stream("POST", path, json={**body, "stream": True}) as response:
        if response.status_code != HTTPStatus.OK:
            raise refusal(response.status_code, await response.aread())
        async with aclosing(_lines(response.aiter_bytes())) as lines:
            async for line in lines:
                kind, _, content = line.partition(b":")
                if kind not in (b"data", b"error"):
                    continue  # empty lines, and the comments that keep a connection alive
                if content.strip() == b"[DONE]":
                    return
                event = _object(content)
                if kind == b"error" or "error" in event:
                    raise BackendError(f"it gave up: {_message(event)}")
                yield event


async def ask(client: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request that is not streamed; raises BackendError as `events` does."""
    response = await client.post(path, json={**body, "stream": False})
    if response.status_code != HTTPStatus.OK:
        raise refusal(response.status_code, response.content)
    return _object(response.content)


def refusal(status: int, content: bytes) -> BackendError:
    """What a response that is no success says."""
    try:
        said = _message(_object(content))
    except BackendError:
        said = content[:200].decode(errors="replace")
    return BackendError(f"it answered {status}: {said}")


def strange(said: object, problem: Exception | None = None, hint: str = "") -> BackendError:
    """What is raised for an event that is not of the engine's protocol."""
    reason = f" ({type(problem).__name__}: {problem})" if problem else ""
    return BackendError(
        f"it said something else than its protocol has{reason}: {str(said).strip()[:200]} {hint}".rstrip()
    )


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Lines as server-sent events have them: str.splitlines would also cut at what JSON leaves as it is (U+2028)."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise strange(content.decode(errors="replace"))
    return value


def _message(event: Mapping[str, Any]) -> str:
    error = event.get("error", event)
    return str(error.get("message", error)) if isinstance(error, Mapping) else str(error)
