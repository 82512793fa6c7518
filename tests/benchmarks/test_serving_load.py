"""The clients of `benchmarks/serving.py` count what a real socket brings, no more and no less."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.serving_load import Clients, Load, Request, Seen, has_text, num_tokens, seen

NEW_TOKENS, REFUSALS = 4, 3


def request(began: float, *moments: float, is_short: bool = False) -> Request:
    return Request(began, moments[-1], 200, is_short, list(moments), len(moments))


def test_only_whole_answers_under_the_clock_count() -> None:
    early, counted, late = request(9.9, 11, 12), request(10, 11, 13), request(18, 19, 20.1)
    short = request(11, 12, is_short=True)
    found = seen([early, counted, late, short], began=10, ended=20)
    assert (found.first_seconds, found.request_seconds) == ([1], [3])


def test_tokens_are_those_that_arrived_under_the_clock() -> None:
    found = seen([request(9, 9.5, 10.5, 11), request(19, 19.5, 20.5)], began=10, ended=20)
    assert (found.tokens, found.all_tokens, found.seconds) == (3, 4, 10)


def test_a_piece_of_several_tokens_counts_as_several() -> None:
    assert seen([Request(10, 12, 200, False, [11, 12], num_tokens=8)], began=10, ended=20).tokens == 8


@pytest.mark.parametrize(
    ("event", "is_text", "length"),
    [
        ({"choices": [{"text": "a"}], "usage": None}, True, 0),
        ({"choices": [{"text": ""}]}, False, 0),
        ({"choices": [], "usage": {"completion_tokens": 7}}, False, 7),
        ({"content": "a", "tokens": [5], "stop": False, "tokens_predicted": 3}, True, 0),
        ({"content": "", "stop": True, "tokens_predicted": 7}, False, 7),
    ],
)
def test_events_of_both_servers_are_read(event: dict[str, Any], is_text: bool, length: int) -> None:
    assert (has_text(event), num_tokens(event)) == (is_text, length)


class Scripted:
    """A server that refuses the first requests, then streams answers, an event in two chunks."""

    def __init__(self, missing_tokens: int = 0) -> None:
        self._missing_tokens = missing_tokens
        self.asked: list[dict[str, Any]] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            body = json.loads(await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0])))
        except asyncio.IncompleteReadError:
            return  # the clients had seen enough
        self.asked.append(body)
        if len(self.asked) <= REFUSALS:
            writer.write(b"HTTP/1.1 503 Busy\r\nRetry-After: 0.01\r\nContent-Length: 2\r\n\r\n{}")
        else:
            await self._stream(writer, body["max_tokens"])
        writer.close()

    async def _stream(self, writer: asyncio.StreamWriter, num_tokens: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        texts = [{"choices": [{"text": "a"}]}] * num_tokens
        usage = {"choices": [], "usage": {"completion_tokens": num_tokens - self._missing_tokens}}
        for event in (*texts, usage):
            line = f"data: {json.dumps(event)}\n\n".encode()
            for part in (line[:9], line[9:]):
                writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                await writer.drain()
                await asyncio.sleep(0.001)
        writer.write(b"0\r\n\r\n")


def loaded(server: Scripted, folder: Path) -> Seen:
    """What three clients see of a server."""
    prompts = folder / "prompts.json"
    prompts.write_text(json.dumps([[number] for number in range(500)]))

    async def run() -> Seen:
        listening = await asyncio.start_server(server.answer, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        async with listening:
            load = Load(port, "openai", str(prompts), 7, NEW_TOKENS, clients=3, seconds=0.1, requests=6)
            return await Clients(load).run()

    return asyncio.run(run())


def test_clients_ask_until_enough_requests_count(tmp_path: Path) -> None:
    server = Scripted()
    found = loaded(server, tmp_path)
    assert len(found.request_seconds) == len(found.first_seconds) >= 6
    assert all(0 < first < whole for first, whole in zip(found.first_seconds, found.request_seconds, strict=True))
    assert found.tokens >= 6 * NEW_TOKENS and found.seconds >= 0.1


def test_a_refused_prompt_is_asked_again_and_no_answered_one_is(tmp_path: Path) -> None:
    server = Scripted()
    found = loaded(server, tmp_path)
    answered = [body["prompt"][0] for body in server.asked[REFUSALS:]]
    assert len(set(answered)) == len(answered) >= 6
    assert {7, 8, 9} <= set(answered) <= set(range(7, 7 + found.num_prompts))


def test_answers_of_another_length_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="status 200 and 0 tokens instead of 1"):
        loaded(Scripted(missing_tokens=1), tmp_path)
