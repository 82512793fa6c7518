from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from llm_core.serving.backends.events import ask, events
from llm_core.serving.backends.program import BackendError

Answer = Callable[[httpx.Request], httpx.Response]


def collect(content: bytes, status: int = 200) -> list[dict[str, Any]]:
    """The events in a body, of which each byte comes by itself."""

    async def trickle() -> Any:
        for byte in content:
            yield bytes([byte])

    async def run() -> list[dict[str, Any]]:
        transport = httpx.MockTransport(lambda request: httpx.Response(status, content=trickle()))
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            return [event async for event in events(client, "/completion", {"prompt": [1]})]

    return asyncio.run(run())


def test_events_come_whole_however_their_bytes_arrive() -> None:
    told = [{"text": "a\u2028b\u0085c"}, {"text": "é"}]
    stream = "".join(f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in told)
    assert collect(f": ping\n\n{stream}data: [DONE]\n\ndata: never read\n\n".encode()) == told
    assert collect(stream.replace("\n", "\r\n").encode()) == told


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"data: {", "it said something else than its protocol has: {"),
        (b"data: [1]\n", "something else than its protocol has"),
        (b'data: {"error": {"message": "out of memory"}}\n', "it gave up: out of memory"),
        (b'data: {"error": "out of memory"}\n', "it gave up: out of memory"),
        (b'error: {"code": 500, "message": "out of memory"}\n', "it gave up: out of memory"),
    ],
)
def test_what_is_no_event_is_told(content: bytes, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        collect(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"error": {"message": "too long", "code": 400}}', "it answered 400: too long"),
        (b'{"object": "error", "message": "too long"}', "it answered 400: too long"),
        (b"<html>", "it answered 400: <html>"),
    ],
)
def test_a_refusal_says_what_the_engine_said(content: bytes, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        collect(content, 400)

    async def whole() -> None:
        transport = httpx.MockTransport(lambda request: httpx.Response(400, content=content))
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            await ask(client, "/v1/completions", {})

    with pytest.raises(BackendError, match=message):
        asyncio.run(whole())
