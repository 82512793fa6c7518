"""The API's document is whole, and what it says is what the server says and takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator

from llm_core.serving.app import Service, create_app
from llm_core.serving.engine import Engine
from llm_core.serving.hosting import Host
from llm_core.serving.reply_schema import ChatReply, CompletionReply
from llm_core.serving.state_schema import HealthReply, ModelEntry, ModelList, ReadyReply, VersionReply
from tests.llm_core.serving.families import fits, refusal

HELLO = [{"role": "user", "content": "Hello"}]
STREAMING = ("completions", "chat/completions", "translate", "summarize")


@pytest.fixture
def client(engine: Engine, host: Host) -> Iterator[TestClient]:
    with TestClient(create_app(Service(host, engine)), raise_server_exceptions=False) as client:
        yield client


def operations(client: TestClient) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for operation in methods.values():
            yield path, operation


def test_every_route_tells_what_it_takes_gives_and_refuses(client: TestClient) -> None:
    found = list(operations(client))
    assert len({operation["operationId"] for _, operation in found}) == len(found) > 20
    for path, operation in found:
        assert operation["summary"] and operation["description"], path
        assert {"200", "4XX", "5XX"} <= operation["responses"].keys(), path
        content = operation["responses"]["200"]["content"]
        assert all(kind["schema"] for kind in content.values()), path
        assert ("text/event-stream" in content) == path.endswith(STREAMING), path
        if path.startswith("/v1/"):
            assert any(path.removeprefix("/v1") == other for other, _ in found)


def test_replies_are_as_the_document_says(client: TestClient) -> None:
    ask = {"model": "tiny", "max_tokens": 3}
    fits(client.post("/v1/completions", json={**ask, "prompt": "The", "logprobs": 2}), CompletionReply)
    fits(client.post("/v1/completions", json={**ask, "prompt": "The", "logprobs": 0, "echo": True}), CompletionReply)
    talk = {**ask, "messages": HELLO}
    fits(client.post("/v1/chat/completions", json={**talk, "logprobs": True, "top_logprobs": 2}), ChatReply)
    fits(client.post("/v1/chat/completions", json=talk), ChatReply)
    fits(client.get("/v1/models"), ModelList)
    fits(client.get("/v1/models/tiny"), ModelEntry)
    fits(client.get("/health"), HealthReply)
    fits(client.get("/ready"), ReadyReply)
    fits(client.get("/version"), VersionReply)


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("/v1/completions", {"prompt": "The", "max_tokens": 0, "echo": True}),
        ("/v1/completions", {"prompt": "The", "max_tokens": 2.0, "temperature": 0, "seed": 2**70, "stop": None}),
        ("/v1/completions", {"prompt": [1.0, 2], "max_tokens": 1, "tools": [], "response_format": {"type": "text"}}),
        ("/v1/completions", {"prompt": "The", "max_tokens": 1, "logit_bias": {"7": 3}}),
        ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 1, "logprobs": True, "top_logprobs": 1}),
        ("/v1/embeddings", {"input": ["The"], "encoding_format": "base64", "dimensions": None}),
        ("/v1/explain", {"input": "The", "steps": 4, "target": None}),
        ("/tokenize", {"prompt": "The", "messages": None}),
    ],
)
def test_what_the_document_allows_is_taken(client: TestClient, path: str, values: dict[str, Any]) -> None:
    assert allowed(client, path, values)
    assert client.post(path, json={"model": "tiny", **values}).status_code == 200


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("/v1/completions", {"prompt": "The", "max_tokens": 0}),
        ("/v1/completions", {"prompt": "The", "max_tokens": "2"}),
        ("/v1/completions", {"prompt": "The", "n": True}),
        ("/v1/completions", {"prompt": "The", "max_tokens": 1.5}),
        ("/v1/completions", {"prompt": "The", "stream": "false"}),
        ("/v1/completions", {"prompt": "The", "tools": [1]}),
        ("/v1/completions", {"prompt": "The", "logit_bias": {"the": 3}}),
        ("/v1/completions", {"prompt": None}),
        ("/v1/chat/completions", {"messages": HELLO, "top_logprobs": 1}),
        ("/v1/embeddings", {"input": ""}),
        ("/v1/translate", {"input": "The", "num_beams": 2, "stream": True}),
        ("/tokenize", {"prompt": "The", "messages": HELLO}),
        ("/tokenize", {}),
        ("/v1/feedback", {"id": "cmpl-1"}),
        ("/v1/feedback", {"id": "cmpl-1", "rating": None}),
    ],
)
def test_what_the_document_forbids_is_refused(client: TestClient, path: str, values: dict[str, Any]) -> None:
    assert not allowed(client, path, values)
    assert client.post(path, json={"model": "tiny", **values}).status_code == 400


def allowed(client: TestClient, path: str, values: dict[str, Any]) -> bool:
    document = client.get("/openapi.json").json()
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return Draft202012Validator({**schema, "components": document["components"]}).is_valid({"model": "tiny", **values})


def test_who_asks_for_no_model_of_ours_learns_that_first(client: TestClient) -> None:
    response = client.post("/v1/completions", json={"model": "gpt-4", "prompt": 3})
    assert refusal(response)[:3] == (404, "model_not_found", "model")


def test_a_thousand_wrong_values_are_told_in_a_few_words(client: TestClient) -> None:
    response = client.post("/v1/completions", json={"model": "tiny", "prompt": [[]] * 1000})
    assert refusal(response)[0] == 400 and len(response.text) < 2000


@pytest.mark.parametrize(
    "body", ["[" * 100_000, '{"model": "tiny", "prompt": ' + "[" * 900 + "]" * 900 + "}", "1e999", '"', ""]
)
def test_strange_json_is_refused(client: TestClient, body: str) -> None:
    response = client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert refusal(response)[0] == 400


def test_huge_numbers_are_refused(client: TestClient) -> None:
    for values in ({"n": 10**30}, {"temperature": 10**400}, {"max_tokens": -(10**30)}, {"prompt": [10**100]}):
        response = client.post("/v1/completions", content=json.dumps({"model": "tiny", "prompt": "The", **values}))
        assert refusal(response)[0] == 400, values
