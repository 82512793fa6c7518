"""Work beside the engine is done in turns, within bounds, and never after the server's end or its client's."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from llm_core.serving.app import Service, create_app
from llm_core.serving.engine import Busy, Draining, Engine
from llm_core.serving.hosting import Host
from llm_core.serving.workers import Work, Workers
from tests.llm_core.serving.families import Loaded


def steps(name: str, count: int, done: list[str]) -> Work[int]:
    for number in range(count):
        done.append(f"{name}{number}")
        yield
    return count


def test_requests_take_turns_and_get_their_own_results() -> None:
    workers, done = Workers(), list[str]()

    async def ask() -> list[int]:
        return await asyncio.gather(*(workers.run(steps(name, 3, done)) for name in "ab"))

    assert asyncio.run(ask()) == [3, 3]
    assert done == ["a0", "b0", "a1", "b1", "a2", "b2"] and workers.num_open == 0


def test_more_than_may_wait_are_refused() -> None:
    workers = Workers(max_open=1)

    async def ask() -> None:
        first = asyncio.ensure_future(workers.run(steps("a", 2, [])))
        await asyncio.sleep(0)
        assert workers.num_open == 1
        with pytest.raises(Busy, match="1 requests are open already; ask again in a moment"):
            await workers.run(steps("b", 1, []))
        assert await first == 2

    asyncio.run(ask())


def test_work_that_fails_says_why_and_leaves_room() -> None:
    def failing() -> Work[None]:
        yield
        raise ValueError("not so")

    workers = Workers()
    with pytest.raises(ValueError, match="not so"):
        asyncio.run(workers.run(failing()))
    assert workers.num_open == 0


@pytest.mark.parametrize("end", ["close", "cancel"])
def test_no_step_begins_behind_the_end(end: str) -> None:
    workers, done, gate, begun = Workers(), list[int](), threading.Semaphore(1), threading.Event()

    def endless() -> Work[None]:
        while True:
            assert gate.acquire(timeout=10)
            done.append(1)
            if len(done) == 2:
                begun.set()
            yield

    async def ask() -> None:
        asking = asyncio.ensure_future(workers.run(endless()))
        gate.release()
        await asyncio.to_thread(begun.wait, 10)
        if end == "close":
            workers.close()
        else:
            asking.cancel()
        gate.release()  # the step under way, if one is
        with pytest.raises(Draining if end == "close" else asyncio.CancelledError):
            await asking

    asyncio.run(ask())
    assert len(done) <= 3 and workers.num_open == 0


def test_a_client_that_leaves_ends_its_work(loaded: Loaded) -> None:
    model = loaded("Model")
    host = Host(["Model"])
    host.first.install(model)
    with Engine() as engine:
        service = Service(host, engine)
        statuses = asyncio.run(asyncio.wait_for(_ask_and_leave(service), 60))
    assert statuses == [499] and service.num_open == 0


async def _ask_and_leave(service: Service) -> list[int]:
    """A request for thousands of vectors whose client is gone as soon as the work has begun."""
    body = json.dumps({"model": "Model", "input": ["the cat sat on a mat"] * 2048}).encode()
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])
    statuses: list[int] = []

    async def receive() -> Mapping[str, Any]:
        if message := next(messages, None):
            return message
        while not service.num_open:
            await asyncio.sleep(0.001)
        return {"type": "http.disconnect"}

    async def send(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "method": "POST", "headers": headers}
    scope |= {"path": "/v1/embeddings", "raw_path": b"/v1/embeddings", "query_string": b"", "http_version": "1.1"}
    scope |= {"scheme": "http", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "root_path": ""}
    await create_app(service)(scope, receive, send)  # type: ignore[arg-type]
    return statuses
