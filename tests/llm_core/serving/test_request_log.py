from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from llm_core.serving import request_log
from llm_core.serving.access import Gate
from llm_core.serving.app import Service, create_app
from llm_core.serving.engine import Engine
from llm_core.serving.hosting import Host
from llm_core.serving.keys import Keys, create_key
from llm_core.serving.limits import Limiter
from llm_core.serving.spoken import LONGEST

PROMPT = "Unspeakable secrets of the union"
ASK = {"model": "tiny", "prompt": PROMPT, "max_tokens": 3}


@pytest.fixture
def key(tmp_path: Path) -> str:
    return create_key(tmp_path / "api.json", "mine", admin=True)[1]


@pytest.fixture
def client(tmp_path: Path, key: str, engine: Engine, host: Host) -> Iterator[TestClient]:
    app = create_app(Service(host, engine), Gate(Keys(tmp_path / "api.json"), Limiter()))
    with TestClient(app, raise_server_exceptions=False, headers={"authorization": f"Bearer {key}"}) as client:
        yield client


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, request_log.logger.name)
    return lambda: [json.loads(r.getMessage()) for r in caplog.records if r.name == request_log.logger.name]


def test_a_request_is_one_line_of_json(client: TestClient, key: str, lines: Any) -> None:
    response = client.post("/v1/completions?secret=1", json=ASK)
    (line,) = lines()
    assert line.keys() >= {"time", "request_id", "key", "method", "path", "status", "version", "ms", "bytes"}
    assert (line["key"], line["method"], line["path"]) == (key.split("_")[1], "POST", "/v1/completions")
    assert (line["status"], line["version"], line["bytes"]) == (200, "tiny@1", len(response.content))
    assert line["ms"] > 0 and line["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_what_was_said_is_logged_where_that_is_asked_for_but_no_secret(
    engine: Engine, host: Host, lines: Any, is_streamed: bool
) -> None:
    secret = f"tm_0123456789ab_{'Z' * 43}"
    ask = {**ASK, "temperature": 0}
    with TestClient(create_app(Service(host, engine), keeps_spoken=True)) as client:
        whole = client.post("/v1/completions", json={**ask, "prompt": secret})
        client.post("/v1/completions", json={**ask, "prompt": secret, "stream": is_streamed}).read()
        client.post("/v1/completions", content=b"{" + b"x" * 100_000)
    asked, again, broken = lines()
    text = whole.json()["choices"][0]["text"]
    assert asked["asked"] == {**ask, "prompt": "tm_0123456789ab_..."}
    assert asked["answered"]["choices"][0]["text"] == text
    assert again["answered"] == [text] if is_streamed else again["answered"]["choices"][0]["text"] == text
    assert broken["asked"].startswith("{xxx") and len(broken["asked"]) == LONGEST
    assert secret not in str(lines())


def test_no_line_holds_what_was_asked_or_answered_or_a_secret(
    client: TestClient, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    secret = key.split("_")[2]
    answer = client.post("/v1/completions", json={**ASK, "user": "me@example.com"}).json()["choices"][0]["text"]
    client.post("/v1/completions", json={**ASK, "n": PROMPT})
    client.post("/v1/completions", content=f'{{"{PROMPT}')
    client.get(f"/v1/models/{key}", params={"key": key}, headers={"x-request-id": key})
    client.get("/v1/models", headers={"authorization": f"Bearer {key}0"})
    logged = "\n".join(r.getMessage() for r in caplog.records if r.name.startswith(("llm_core", "uvicorn")))
    assert logged.count('"request_id"') == 5
    for text in (PROMPT, "Unspeakable", secret, "me@example.com", answer):
        assert text not in logged


def test_refusals_are_logged_too(client: TestClient, lines: Any) -> None:
    client.get("/v1/models", headers={"authorization": ""})
    (line,) = lines()
    assert (line["status"], line["key"], line["version"]) == (401, None, None)


def test_those_who_only_look_are_logged_when_something_is_wrong(client: TestClient, lines: Any, host: Host) -> None:
    for path in ("/health", "/ready", "/version"):
        assert client.get(path).status_code == 200
    assert lines() == []
    host.first.champion = None
    client.get("/ready")
    assert [(line["path"], line["status"]) for line in lines()] == [("/ready", 503)]


def test_charged_tokens_are_in_the_line(lines: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        from llm_core.serving.callers import Caller

        scope["state"]["caller"] = Caller()
        scope["state"]["caller"].charge(7, 3)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    TestClient(request_log.RequestLog(app)).get("/")
    (line,) = lines()
    assert (line["prompt_tokens"], line["completion_tokens"], line["bytes"]) == (7, 3, 5)


def test_a_request_that_breaks_the_server_is_logged_as_500(lines: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("broken")

    TestClient(request_log.RequestLog(app), raise_server_exceptions=False).get("/")
    assert [line["status"] for line in lines()] == [500]


@pytest.mark.parametrize(("given", "is_kept"), [("abc-1.2:3_x", True), ("", False), ("a b", False), ("x" * 129, False)])
def test_a_sane_id_of_the_callers_is_kept(client: TestClient, given: str, is_kept: bool) -> None:
    told = client.get("/v1/models", headers={"x-request-id": given}).headers["x-request-id"]
    assert (told == given) == is_kept and told
