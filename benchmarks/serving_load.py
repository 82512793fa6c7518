"""Clients of a server under test, in a process of their own: `python -P serving_load.py LOAD.json`.

Each client sends its next request when its last one ends. The first that is taken is a shorter one; whichever clients
come first, these lengths are spread evenly, so that the clients come out of step as they are in life. The clock runs
from when every client had its first answer begin, or was refused; a request counts if it began and ended while the
clock ran. One JSON object on standard output.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

TAKEN, REFUSED = 200, 503
GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, less their whole parts, are spread evenly however many there are."""


@dataclass(frozen=True)
class Load:
    """What to ask, of whom, and for how long."""

    port: int
    api: Literal["openai", "llama.cpp"]
    prompts: str
    """File of prompts as lists of ids; each answered request has one of its own, since servers remember them."""
    first_prompt: int
    new_tokens: int
    clients: int
    seconds: float
    """The clock runs at least so long."""
    requests: int
    """And until so many requests count."""

    def body(self, ids: list[int], new_tokens: int) -> dict[str, Any]:
        """The request: greedy, streamed, of exactly so many tokens."""
        shared = {"prompt": ids, "temperature": 0, "stream": True, "ignore_eos": True}
        if self.api == "openai":
            return {**shared, "model": "demo", "max_tokens": new_tokens, "stream_options": {"include_usage": True}}
        # With this one sampler its tokens are the same and cost it the least.
        return {**shared, "samplers": ["top_k"], "top_k": 1, "n_predict": new_tokens, "cache_prompt": False}


@dataclass
class Request:
    """What became of one request; times are seconds of this process's clock."""

    began: float
    ended: float = float("inf")
    status: int = 0
    is_short: bool = False
    moments: list[float] = field(default_factory=list)
    """When pieces of the answer arrived."""
    num_tokens: int = 0
    """Tokens of the answer, by the server's own count."""


@dataclass
class Seen:
    """What the clients saw."""

    tokens: float
    """Tokens that arrived while the clock ran."""
    seconds: float
    all_tokens: float
    """With those before the clock."""
    first_seconds: list[float]
    """Of each request that counts: until its first piece of text."""
    request_seconds: list[float]
    refused: int = 0
    """Requests that were refused while the clock ran."""
    num_prompts: int = 0
    """Prompts that were used up, from the first on."""
    cpu_seconds: float = 0.0
    """Of the server, for all tokens."""


class Clients:
    """The clients of a load at work."""

    def __init__(self, load: Load) -> None:
        self._load = load
        prompts = json.loads(Path(load.prompts).read_text(encoding="utf-8"))
        self._prompts = deque(prompts)
        self._prompts.rotate(-load.first_prompt)
        self._refused: list[list[int]] = []
        """Prompts that were refused: the next ones to be asked, so that those used up lie side by side."""
        self._num_taken = 0
        self._requests: list[Request] = []
        self._unheard = set(range(load.clients))
        self._began = float("inf")
        self._is_enough = asyncio.Event()

    async def run(self) -> Seen:
        """Let them work until what they see is enough."""
        tasks = [asyncio.create_task(self._client(number)) for number in range(self._load.clients)]
        enough = asyncio.create_task(self._is_enough.wait())
        await asyncio.wait([*tasks, enough], return_when=asyncio.FIRST_COMPLETED)
        ended = time.perf_counter()
        for task in [*tasks, enough]:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):  # clients never end by themselves
                raise result
        return replace(seen(self._requests, self._began, ended), num_prompts=self._num_taken)

    async def _client(self, number: int) -> None:
        share = (number + 1) * GOLDEN % 1
        while not await self._ask(number, max(1, round(share * self._load.new_tokens))):
            pass
        while True:
            await self._ask(number, self._load.new_tokens)
            now = time.perf_counter()
            if now >= self._began + self._load.seconds:
                counted = sum(counts(request, self._began, now) for request in self._requests)
                if counted >= self._load.requests:
                    self._is_enough.set()

    async def _ask(self, number: int, new_tokens: int) -> bool:
        """Ask once; False when the server refused and the time that it named has passed."""
        ids = self._next_prompt()
        request = Request(began=time.perf_counter(), is_short=new_tokens < self._load.new_tokens)
        self._requests.append(request)
        async with aclosing(await Exchange.begin(self._load, ids, new_tokens)) as exchange:
            request.status = exchange.status
            if request.status == REFUSED:
                self._refused.append(ids)
                self._heard(number)
                await asyncio.sleep(exchange.retry_seconds)
                return False
            self._prompts.append(ids)
            async for event in exchange.events():
                if has_text(event):
                    request.moments.append(time.perf_counter())
                    self._heard(number)
                request.num_tokens = num_tokens(event) or request.num_tokens
        request.ended = time.perf_counter()
        if (request.status, request.num_tokens) != (TAKEN, new_tokens):
            raise RuntimeError(f"status {request.status} and {request.num_tokens} tokens instead of {new_tokens}")
        return True

    def _next_prompt(self) -> list[int]:
        if self._refused:
            return self._refused.pop()
        self._num_taken += 1
        return self._prompts.popleft()

    def _heard(self, number: int) -> None:
        if number in self._unheard:
            self._unheard.remove(number)
            if not self._unheard:
                self._began = time.perf_counter()


def counts(request: Request, began: float, ended: float) -> bool:
    """Whether a request was answered, in its whole length and all of it between these moments."""
    return not request.is_short and began <= request.began and request.ended <= ended


def seen(requests: Sequence[Request], began: float, ended: float) -> Seen:
    """What requests say about the time between these moments."""
    counted = [request for request in requests if counts(request, began, ended)]
    return Seen(
        tokens=sum(tokens_between(request, began, ended) for request in requests),
        seconds=ended - began,
        all_tokens=sum(tokens_between(request, 0, ended) for request in requests),
        first_seconds=[request.moments[0] - request.began for request in counted],
        request_seconds=[request.ended - request.began for request in counted],
        refused=sum(request.status == REFUSED and began <= request.began for request in requests),
    )


def tokens_between(request: Request, began: float, ended: float) -> float:
    """Tokens that arrived between these moments; a complete answer's pieces stand for equally many of its tokens."""
    inside = sum(began <= moment < ended for moment in request.moments)
    return inside * (request.num_tokens or len(request.moments)) / max(1, len(request.moments))


def has_text(event: dict[str, Any]) -> bool:
    """Whether an event brings a part of the answer."""
    if "choices" in event:
        return any(choice["text"] for choice in event["choices"])
    return bool(event.get("content"))


def num_tokens(event: dict[str, Any]) -> int:
    """The length of the answer, which an event at its end tells."""
    usage = event.get("usage") or {}
    told: int = usage.get("completion_tokens", 0) or (event.get("tokens_predicted", 0) if event.get("stop") else 0)
    return told


class Exchange:
    """A request and its response over a socket of its own: as little work for a piece of an answer as may be."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._headers: dict[str, str] = {}
        self.status = 0

    @classmethod
    async def begin(cls, load: Load, ids: list[int], new_tokens: int) -> Exchange:
        """Send a request and read the head of its response."""
        exchange = cls(*await asyncio.open_connection("127.0.0.1", load.port))
        try:
            path = "/v1/completions" if load.api == "openai" else "/completion"
            await exchange._post(path, json.dumps(load.body(ids, new_tokens)).encode())
        except BaseException:
            await exchange.aclose()
            raise
        return exchange

    @property
    def retry_seconds(self) -> float:
        """After how long the server wants to be asked again."""
        return float(self._headers.get("retry-after", 1.0))

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """The server-sent events of the response, to its end."""
        rest = b""
        async for content in self._content():
            *lines, rest = (rest + content).split(b"\n")
            for line in lines:
                if line.startswith(b"data: {"):
                    yield json.loads(line[len(b"data: ") :])

    async def aclose(self) -> None:
        """End the connection, which ends the answer too."""
        self._writer.close()

    async def _post(self, path: str, body: bytes) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = (line.split(":", 1) for line in lines if line)
        self._headers = {name.strip().lower(): value.strip() for name, value in fields}
        self.status = int(first.split()[1])

    async def _content(self) -> AsyncIterator[bytes]:
        if self._headers.get("transfer-encoding") != "chunked":
            yield await self._reader.read()
            return
        while size := int(await self._reader.readline(), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]


def main() -> None:
    """Put the load on and print what was seen."""
    load = Load(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    gc.disable()  # a pause of the client's would count as the server's
    print(json.dumps(asdict(asyncio.run(Clients(load).run()))))


if __name__ == "__main__":
    main()
