"""Requests that are too large, too deep, never end, or are no HTTP: refused quickly, with memory as it was."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import psutil
import pytest

from llm_core.serving.access import Gate
from llm_core.serving.app import Service, create_app
from llm_core.serving.engine import Engine
from llm_core.serving.hosting import Host
from llm_core.serving.keys import Keys, create_key
from llm_core.serving.limits import Limiter
from llm_core.serving.middleware import MAX_BODY_BYTES, BodyLimit
from tests.llm_core.serving.wire import listening, request, speak

QUICK_SECONDS = 0.1
TRIES = 4
"""The machine may be busy with something else; the quickest counts."""
MOST_GROWTH = 48 * 2**20
LINE = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n"
JSON = b"content-type: application/json\r\n"
ENDLESS = [b"10000\r\n" + b" " * 65_536 + b"\r\n"] * 100
"""Chunks of a body that goes on and on."""


def asked(**values: Any) -> bytes:
    return json.dumps({"model": "tiny", "prompt": "The", "max_tokens": 2, **values}).encode()


BROKEN_HTTP: dict[str, bytes | Iterable[bytes]] = {
    "a header of a megabyte": LINE + b"x: " + b"a" * 2**20 + b"\r\n\r\n",
    "headers without end": [LINE, *[b"x-%d: y\r\n" % number for number in range(20_000)]],
    "a header's name of a megabyte": LINE + b"a" * 2**20 + b": x\r\n\r\n",
    "a path of a megabyte": b"GET /" + b"a" * 2**20 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    "a query of a megabyte": b"GET /health?" + b"a" * 2**20 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    "a method of a megabyte": b"A" * 2**20 + b" / HTTP/1.1\r\nhost: x\r\n\r\n",
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",
    "another protocol": b"GET / SPDY/3\r\nhost: x\r\n\r\n",
    "no host": b"GET /v1/models HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /v1/models HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    "a NUL in a header": LINE + b"x: a\x00b\r\n\r\n",
    "a header without a colon": LINE + b"nonsense\r\n\r\n",
    "a space before the colon": LINE + b"content-length : 5\r\n\r\nhello",
    "a negative length": LINE + b"content-length: -1\r\n\r\n",
    "a length that is no number": LINE + b"content-length: 5, 6\r\n\r\nhello!",
    "two lengths": LINE + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "an unknown coding": LINE + b"transfer-encoding: gzip\r\n\r\n",
    "two codings": LINE + b"transfer-encoding: chunked, chunked\r\n\r\n",
}
# With {} for the key, or for another text of its length.
LARGE: dict[str, Iterable[bytes]] = {
    "a terabyte, announced": [LINE, b"authorization: Bearer {}\r\n", JSON, b"content-length: 1099511627776\r\n\r\n{"],
    "twice the limit": [
        LINE, b"authorization: Bearer {}\r\n", JSON, b"content-length: %d\r\n\r\n" % (2 * MAX_BODY_BYTES),
        b" " * 2 * MAX_BODY_BYTES,
    ],
    "a byte too many": [
        LINE, b"authorization: Bearer {}\r\n", JSON, b"content-length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1),
        b" " * (MAX_BODY_BYTES + 1),
    ],
    "chunks without end": [
        LINE, b"authorization: Bearer {}\r\n", JSON, b"transfer-encoding: chunked\r\n\r\n", *ENDLESS,
    ],
    "a terabyte for feedback": [
        LINE.replace(b"completions", b"feedback"), b"authorization: Bearer {}\r\n", JSON,
        b"content-length: 1099511627776\r\n\r\n{",
    ],
}  # fmt: skip
BODIES: dict[str, bytes] = {
    "deep arrays": b"[" * 1_000_000,
    "a deep prompt": b'{"model":"tiny","prompt":' + b"[" * 500_000 + b"]" * 500_000 + b"}",
    "deep objects": b'{"a":' * 200_000,
    "no UTF-8": b'{"model":"tiny","prompt":"\xff\xfe"}',
    "half a surrogate pair": b'{"model":"tiny","prompt":"\\ud800"}',
    "a number of 900,000 digits": b'{"model":"tiny","prompt":"x","n":' + b"9" * 900_000 + b"}",
    "an infinite number": b'{"model":"tiny","prompt":"x","temperature":1e999}',
    "not a number": b'{"model":"tiny","prompt":"x","temperature":NaN}',
    "250,000 halves of ids": asked(prompt=[0.5] * 250_000),
    "200,000 ids": asked(prompt=[1] * 200_000),
    "100,000 prompts": asked(prompt=["x"] * 100_000),
    "a prompt of a megabyte": asked(prompt="x " * 450_000),
    "20,000 unknown keys": asked(**{f"k{number}": 1 for number in range(20_000)}),
    "200,000 stops": asked(stop=["x"] * 200_000),
    "a stop of a megabyte": asked(stop="x" * 1_000_000),
    "70,000 biases": asked(logit_bias={str(number): 1 for number in range(70_000)}),
    "60,000 notes": asked(metadata={str(number): "1" for number in range(60_000)}),
    "a billion answers": asked(n=10**9),
    "a key of a megabyte": asked(**{"x" * 1_000_000: 1}),
    "a model's name of a megabyte": asked(model="x" * 1_000_000),
    "a text": b'"' + b"x" * 1_000_000 + b'"',
    "nothing": b"",
    "null": b"null",
    "no JSON": b"\x00" * 1_000_000,
}


@pytest.fixture
def key(tmp_path: Path) -> str:
    return create_key(tmp_path / "api.json", "mine")[1]


@pytest.fixture
def port(tmp_path: Path, key: str, engine: Engine, host: Host) -> Iterator[int]:
    with listening(create_app(Service(host, engine), Gate(Keys(tmp_path / "api.json"), Limiter()))) as port:
        yield port


def hostile(key: str) -> Iterator[tuple[str, list[bytes]]]:
    for name, parts in BROKEN_HTTP.items():
        yield name, [parts] if isinstance(parts, bytes) else list(parts)
    for name, pieces in LARGE.items():
        yield name, [piece.replace(b"{}", key.encode()) for piece in pieces]
        yield f"{name}, without a key", [piece.replace(b"{}", b"x" * len(key)) for piece in pieces]
    for name, body in BODIES.items():
        lines = ("content-type: application/json", f"authorization: Bearer {key}")
        yield name, [request("POST", "/v1/completions", *lines, body=body)]


def test_hostile_requests_are_refused_quickly_and_leave_no_memory_behind(port: int, key: str) -> None:
    cases, slow = dict(hostile(key)), {}
    assert len(cases) >= 40
    for parts in cases.values():
        speak(port, parts)  # what is loaded at first use is no growth
    memory, before = psutil.Process(), psutil.Process().memory_info().rss
    for name, parts in cases.items():
        seconds = []
        for _ in range(TRIES):
            answer = speak(port, parts)
            seconds.append(answer.seconds)
            assert 400 <= answer.status < 500 and len(answer.body) < 10_000, f"{name}: {answer}"
            if "without a key" in name:
                assert answer.status == 401, name
            if answer.seconds < QUICK_SECONDS:
                break
        if min(seconds) >= QUICK_SECONDS:
            slow[name] = min(seconds)
    assert slow == {}
    assert memory.memory_info().rss - before < MOST_GROWTH
    ask = request(
        "POST", "/v1/completions", "content-type: application/json", f"authorization: Bearer {key}", body=asked()
    )
    assert speak(port, ask).status == 200


def test_a_body_that_comes_too_slowly_ends_with_408(tmp_path: Path, engine: Engine, host: Host) -> None:
    app = create_app(Service(host, engine))
    app.user_middleware = [each for each in app.user_middleware if each.cls is not BodyLimit]
    app.add_middleware(BodyLimit, seconds=0.3)

    def drip() -> Iterator[bytes]:
        yield LINE + JSON + b"transfer-encoding: chunked\r\n\r\n"
        for piece in chain([b"1\r\n{\r\n"], repeat(b"1\r\n \r\n", 100)):
            yield piece
            time.sleep(0.05)

    with listening(app) as port:
        answer = speak(port, drip())
    assert answer.status == 408 and answer.json()["error"]["code"] == "request_timeout" and answer.seconds < 3
