"""An application behind a real uvicorn with the server's own settings, and requests written byte for byte."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import uvicorn

from llm_core.serving.server import HTTP, open_listener


class Answer(NamedTuple):
    """What came back; status 0 where nothing did."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    def json(self) -> Any:
        return json.loads(self.body)


@contextmanager
def listening(app: Any) -> Iterator[int]:
    """The port of a server in a thread."""
    with open_listener("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, **HTTP))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(timeout=20)


def speak(port: int, *parts: bytes | Iterable[bytes], timeout: float = 10.0) -> Answer:
    """Send bytes and read until the server closes; a server that closes while we still send has answered already."""
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        try:
            for part in parts:
                for piece in [part] if isinstance(part, bytes) else part:
                    connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return _answer(_received(connection), began)


def request(method: str, target: str, *headers: str, body: bytes = b"", version: str = "1.1") -> bytes:
    """A request as bytes, after which the server closes the connection."""
    lines = [f"{method} {target} HTTP/{version}", *headers, "connection: close"]
    if not any(line.lower().startswith("host:") for line in headers):
        lines.insert(1, "host: 127.0.0.1")
    if body:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def _received(connection: socket.socket) -> bytes:
    received = bytearray()
    try:
        while piece := connection.recv(65_536):
            received += piece
    except (TimeoutError, ConnectionResetError):
        pass
    return bytes(received)


def _answer(received: bytes, began: float) -> Answer:
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    status = int(lines[0].split()[1]) if received else 0
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    return Answer(status, headers, body, time.perf_counter() - began)
