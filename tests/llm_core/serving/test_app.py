from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import pytest
from fastapi.testclient import TestClient

from llm_core.serving.app import Service, create_app
from llm_core.serving.engine import Engine
from llm_core.serving.hosting import Host
from llm_core.serving.loaded import LoadedModel

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Script = Callable[..., LoadedModel]
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def client(engine: Engine, host: Host) -> Iterator[TestClient]:
    with TestClient(create_app(Service(host, engine)), raise_server_exceptions=False) as client:
        yield client


def ask(client: TestClient, **values: Any) -> Any:
    return client.post(COMPLETIONS, json={"model": "tiny", "prompt": "The", "max_tokens": 5, **values})


def streamed(text: str) -> list[dict[str, Any]]:
    """The events of a stream that ended properly."""
    blocks = text.removesuffix("\n\n").split("\n\n")
    assert blocks[-1] == "data: [DONE]"
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-1]]


def test_a_completion_names_the_version_and_counts_tokens(client: TestClient, model: LoadedModel) -> None:
    response = ask(client, temperature=0)  # a sampled answer may end early by chance
    body = response.json()
    assert response.status_code == 200
    assert response.headers["x-tidemill-version"] == body["system_fingerprint"] == body["model"] == "tiny@1"
    assert body["usage"] == {"prompt_tokens": len(model.encode_prompt("The")), "completion_tokens": 5} | {
        "total_tokens": len(model.encode_prompt("The")) + 5,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert body["choices"][0]["finish_reason"] == "length"


def test_the_stream_is_the_whole_answer_in_pieces(client: TestClient) -> None:
    whole = ask(client, seed=3, max_tokens=30).json()
    response = ask(client, seed=3, max_tokens=30, stream=True, stream_options={"include_usage": True})
    *chunks, usage = streamed(response.text)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    assert usage["choices"] == [] and usage["usage"] == whole["usage"]
    assert {chunk["system_fingerprint"] for chunk in chunks} == {"tiny@1"}


def test_a_chat_streams_a_role_then_text_then_why_it_ended(client: TestClient, host: Host, script: Script) -> None:
    host.first.install(script("Hello 😀", ends=True))
    chunks = streamed(client.post(CHAT, json={"model": "tiny", "messages": HELLO, "stream": True}).text)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""} and deltas[-1] == {}
    assert "".join(delta.get("content", "") for delta in deltas) == "Hello 😀"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_equal_seeds_give_equal_answers_and_n_gives_different_ones(client: TestClient) -> None:
    first, again = (ask(client, n=3, seed=11, max_tokens=20).json()["choices"] for _ in range(2))
    assert first == again
    assert len({choice["text"] for choice in first}) == 3
    assert [choice["index"] for choice in first] == [0, 1, 2]


def test_several_prompts_get_answers_in_order(client: TestClient, model: LoadedModel) -> None:
    texts, ids = ["The", "One"], [list(model.encode_prompt(text)) for text in ("The", "One")]
    answers = [[c["text"] for c in ask(client, prompt=p, temperature=0).json()["choices"]] for p in (texts, ids)]
    assert answers[0] == answers[1] and len(answers[0]) == 2


def test_log_probabilities_belong_to_the_text(client: TestClient, host: Host, script: Script) -> None:
    host.first.install(script("Zoë", ends=True))
    found = ask(client, max_tokens=20, temperature=0, logprobs=2).json()["choices"][0]["logprobs"]
    assert found["tokens"][-2:] == ["bytes:\\xc3", "bytes:\\xab"]
    assert found["text_offset"] == [0, 1, 2, 2]
    assert all(logprob == pytest.approx(0, abs=1e-3) for logprob in found["token_logprobs"])
    assert all(len(top) == 2 for top in found["top_logprobs"])


def test_chat_log_probabilities_hold_exact_bytes(client: TestClient, host: Host, script: Script) -> None:
    host.first.install(script("Zoë", ends=True))
    body = {"model": "tiny", "messages": HELLO, "temperature": 0, "logprobs": True, "top_logprobs": 1}
    content = client.post(CHAT, json=body).json()["choices"][0]["logprobs"]["content"]
    assert bytes(byte for token in content for byte in token["bytes"]).decode() == "Zoë"


@pytest.mark.parametrize(
    ("values", "code", "param", "message"),
    [
        ({"temperature": 3}, "invalid_value", "temperature", "less than or equal to 2"),
        ({"n": 33}, "invalid_value", "n", "less than or equal to 32"),
        ({"n": 20, "prompt": ["a", "b"]}, "invalid_value", "prompt", "at most 32 answers"),
        ({"wrong": 1}, "unknown_parameter", "wrong", "unknown parameter"),
        ({"best_of": 2, "n": 3}, "invalid_value", "best_of", "at least n"),
        ({"best_of": 3, "stream": True}, "invalid_value", "best_of", "cannot be streamed"),
        ({"logit_bias": {"foo": 5}}, "invalid_value", "logit_bias", "'foo' is no token id"),
        ({"logit_bias": {"99999": 5}}, "invalid_value", "logit_bias", "99999 is no token id"),
        ({"logit_bias": {"1": 101}}, "invalid_value", None, "less than or equal to 100"),
        ({"frequency_penalty": 2.5}, "invalid_value", "frequency_penalty", "less than or equal to 2"),
        ({"suffix": "text", "tools": [1]}, "unsupported_parameter", "tools", "leave it out"),
        ({"prompt": "word " * 90}, "context_length_exceeded", "prompt", "context is 96 tokens"),
        ({"prompt": [99999]}, "invalid_value", "prompt", "99999 is no token id"),
        ({"prompt": "\ud800"}, "invalid_value", "prompt", "lone surrogate"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens", "needs echo"),
        ({"stop": [""]}, "invalid_value", None, "at least 1 character"),
    ],
)
def test_a_bad_request_says_what_is_wrong(
    client: TestClient, values: dict[str, Any], code: str, param: str | None, message: str
) -> None:
    body = json.dumps({"model": "tiny", "prompt": "The", **values})
    response = client.post(COMPLETIONS, content=body, headers={"content-type": "application/json"})
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (400, "invalid_request_error", code)
    assert param is None or error["param"] == param
    assert message in error["message"]


def test_values_that_ask_for_nothing_are_taken(client: TestClient) -> None:
    response = ask(client, echo=False, best_of=0, logit_bias={"foo": 0}, tools=[], suffix=None, user="me", stop=None)
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "no"}}}}, "response_format"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
    ],
)
def test_a_chat_refuses_what_it_cannot_do(client: TestClient, values: dict[str, Any], param: str) -> None:
    response = client.post(CHAT, json={"model": "tiny", "messages": HELLO, **values})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "unknown_url"),
        ("GET", COMPLETIONS, 405, "method_not_allowed"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("GET", "/docs", 404, "unknown_url"),
    ],
)
def test_every_error_has_openais_shape(client: TestClient, method: str, path: str, status: int, code: str) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.json()["error"].keys() == {"message", "type", "param", "code"}
    assert response.headers["x-tidemill-version"] == "tiny@1"


def test_a_body_that_is_not_json_or_too_large_is_refused(client: TestClient) -> None:
    headers = {"content-type": "application/json"}
    assert "not JSON" in client.post(COMPLETIONS, content=b"{no", headers=headers).json()["error"]["message"]
    large = client.post(COMPLETIONS, content=b" " * 5_000_000, headers=headers)
    assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")


def test_another_models_name_is_not_found(client: TestClient) -> None:
    response = ask(client, model="gpt-4")
    assert response.status_code == 404
    assert "'tiny', 'tiny@1'" in response.json()["error"]["message"]


def test_models_are_listed_by_line_and_found_by_version(client: TestClient) -> None:
    assert [entry["id"] for entry in client.get("/v1/models").json()["data"]] == ["tiny", "tiny@1"]
    assert client.get("/v1/models/tiny@1").json()["tidemill"]["context"] == 96


def test_without_a_model_the_server_is_healthy_but_not_ready() -> None:
    with Engine() as engine, TestClient(create_app(Service(Host(["tiny"]), engine))) as client:
        assert client.get("/health").status_code == 200
        for response in (client.get("/ready"), ask(client)):
            assert response.status_code == 503 and response.headers["retry-after"] == "2"
        assert ask(client).json()["error"]["code"] == "model_not_ready"
        assert client.get("/v1/models").json()["data"] == []


def test_a_full_engine_refuses_before_the_body_is_read() -> None:
    broken, large = b"{no", b" " * 5_000_000
    with Engine(max_open=0) as engine, TestClient(create_app(Service(Host(["tiny"]), engine))) as client:
        for path in (COMPLETIONS, "/chat/completions", "/v1/summarize", "/v1/translate"):
            refused = client.post(path, content=broken)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
            assert refused.headers["retry-after"] == "2" and "connection" not in refused.headers
        assert client.post(COMPLETIONS, content=large).headers["connection"] == "close"
        assert client.post("/v1/classify", content=broken).status_code == 400
        counted = client.get("/metrics").text
    assert 'http_responses_total{route="/v1/completions",status="503"} 2.0' in counted


def test_a_draining_server_refuses_new_work_and_says_so(client: TestClient, engine: Engine) -> None:
    engine.drain()
    refused = ask(client)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    assert refused.headers["retry-after"] == "2"
    assert client.get("/ready").json()["status"] == "draining"


def test_an_error_after_the_stream_began_is_its_last_event(client: TestClient, host: Host, script: Script) -> None:
    failing = script("a")
    forward = failing.network.forward
    calls = iter([forward, forward])
    failing.network.forward = lambda *args, **names: next(calls)(*args, **names)  # type: ignore[method-assign]
    host.first.install(failing)
    response = ask(client, stream=True)
    assert response.status_code == 200
    assert "[DONE]" not in response.text
    last = json.loads(response.text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert (last["error"]["type"], last["error"]["code"]) == ("server_error", "generation_failed")
    assert ask(client).status_code == 500


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_the_engine(engine: Engine, host: Host, script: Script, stream: bool) -> None:
    gate = threading.Semaphore(3)
    slow = script("a", gate=gate)
    host.first.install(slow)
    app = create_app(Service(host, engine))
    asyncio.run(asyncio.wait_for(_ask_and_leave(app, slow, stream), 20))
    gate.release(100)
    _await_nothing_open(engine)
    assert slow.network.num_calls <= 5  # type: ignore[operator]


def test_a_client_that_is_gone_before_its_stream_begins_costs_no_more_tokens(
    engine: Engine, host: Host, script: Script
) -> None:
    gate = threading.Semaphore(3)
    slow = script("a", gate=gate)
    host.first.install(slow)

    async def broken(message: Mapping[str, Any]) -> None:
        raise OSError("the connection is gone")

    with pytest.raises(OSError, match="the connection is gone"):
        asyncio.run(_ask_and_leave(create_app(Service(host, engine)), slow, stream=True, send=broken))
    gate.release(100)
    _await_nothing_open(engine)
    assert slow.network.num_calls <= 5  # type: ignore[operator]


def _await_nothing_open(engine: Engine) -> None:
    for _ in range(500):
        if engine.num_open == 0:
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"{engine.num_open} answers are still open")


async def _nothing(message: Mapping[str, Any]) -> None:
    pass


async def _ask_and_leave(app: Any, model: LoadedModel, stream: bool, send: Send = _nothing) -> None:
    """One request as uvicorn would make it, whose client leaves after the model's third call."""
    body = json.dumps({"model": "tiny", "prompt": "The", "max_tokens": 80, "stream": stream}).encode()
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Mapping[str, Any]:
        if message := next(messages, None):
            return message
        while model.network.num_calls < 3:  # type: ignore[operator]
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "method": "POST", "headers": headers}
    scope |= {"path": COMPLETIONS, "raw_path": COMPLETIONS.encode(), "query_string": b"", "http_version": "1.1"}
    scope |= {"scheme": "http", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "root_path": ""}
    await app(scope, receive, send)


def test_the_schema_documents_errors_as_they_are(client: TestClient) -> None:
    responses = client.get("/openapi.json").json()["paths"][COMPLETIONS]["post"]["responses"]
    assert set(responses) == {"200", "4XX", "5XX"}


def test_a_page_elsewhere_cannot_make_a_browser_ask(client: TestClient) -> None:
    # text/plain is what a browser sends to another origin without asking it first.
    body = json.dumps({"model": "tiny", "prompt": "The"})
    refused = client.post(
        COMPLETIONS, content=body, headers={"content-type": "text/plain", "origin": "https://evil.example"}
    )
    assert refused.status_code == 400 and "access-control-allow-origin" not in refused.headers


SCHEMA = {
    "type": "object",
    "properties": {"year": {"type": "integer", "minimum": 0, "maximum": 9999}},
    "required": ["year"],
}
STRICT = {**SCHEMA, "additionalProperties": False}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_keeps_to_its_schema_however_the_model_was_trained(client: TestClient, temperature: float) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "date", "schema": STRICT}}
    ask = {"model": "tiny", "messages": HELLO, "response_format": form, "temperature": temperature, "n": 4, "seed": 1}
    choices = client.post(CHAT, json=ask).json()["choices"]
    for choice in choices:
        assert choice["finish_reason"] == "stop"
        ((key, year),) = json.loads(choice["message"]["content"]).items()
        assert key == "year" and isinstance(year, int) and year <= 9999
    free = client.post(CHAT, json={**ask, "response_format": {"type": "text"}}).json()["choices"]
    assert not any(choice["message"]["content"].startswith("{") for choice in free)


def test_any_object_begins_as_one(client: TestClient) -> None:
    formed, free = (
        ask(client, temperature=0, response_format={"type": kind}).json()["choices"][0]["text"]
        for kind in ("json_object", "text")
    )
    assert formed.startswith("{") and not free.startswith("{")


def logprob_of(client: TestClient, text: str, ending: str) -> float:
    """How likely the model finds the ending behind the text, by the echoed log-probabilities."""
    told = ask(client, prompt=text + ending, echo=True, logprobs=0, max_tokens=0).json()["choices"][0]["logprobs"]
    pairs = zip(told["text_offset"], told["token_logprobs"], strict=True)
    return sum(logprob for offset, logprob in pairs if offset >= len(text))


def test_of_several_answers_the_likeliest_are_given(client: TestClient) -> None:
    values = {"seed": 3, "temperature": 1.5, "max_tokens": 6, "logprobs": 0}
    every = ask(client, n=8, **values).json()["choices"]
    best = ask(client, best_of=8, n=2, **values).json()
    means = [sum(each["logprobs"]["token_logprobs"]) / len(each["logprobs"]["tokens"]) for each in every]
    ranked = [every[place]["text"] for place in sorted(range(8), key=lambda place: -means[place])]
    assert [each["text"] for each in best["choices"]] == ranked[:2]
    assert [each["index"] for each in best["choices"]] == [0, 1]
    assert best["usage"]["completion_tokens"] == sum(len(each["logprobs"]["tokens"]) for each in every)


def test_with_a_suffix_the_answers_that_it_follows_best_are_given(client: TestClient) -> None:
    # Plain characters, so that text and tokens are one to one.
    letters = {str(token_id): 100.0 for token_id in range(66, 80)}
    values = {"seed": 3, "temperature": 2.0, "max_tokens": 3, "logit_bias": letters, "prompt": "The"}
    every = [each["text"] for each in ask(client, n=8, **values).json()["choices"]]
    scores = [logprob_of(client, "The" + text, "xq") for text in every]
    (given,) = ask(client, best_of=8, suffix="xq", **values).json()["choices"]
    assert len(set(every)) > 1 and given["text"] == every[scores.index(max(scores))]


def test_an_echo_has_the_prompt_in_front_and_its_logprobs(client: TestClient, model: LoadedModel) -> None:
    plain = ask(client, temperature=0, logprobs=1).json()["choices"][0]
    echoed = ask(client, temperature=0, logprobs=1, echo=True).json()["choices"][0]
    assert echoed["text"] == "The" + plain["text"]
    assert echoed["logprobs"]["tokens"][-5:] == plain["logprobs"]["tokens"]
    assert None not in echoed["logprobs"]["token_logprobs"]  # a hidden token stands before a text
    ids = list(model.encode_prompt("The"))
    given = ask(client, prompt=ids, temperature=0, logprobs=1, echo=True).json()["choices"][0]["logprobs"]
    assert given["token_logprobs"][0] is None and given["top_logprobs"][0] is None
    assert given["token_logprobs"][1:] == echoed["logprobs"]["token_logprobs"]


def test_an_echoed_stream_adds_up_to_the_whole(client: TestClient) -> None:
    values = {"temperature": 0, "logprobs": 1, "echo": True, "n": 2}
    whole = ask(client, **values).json()["choices"]
    events = streamed(ask(client, stream=True, **values).text)
    for number, choice in enumerate(whole):
        mine = [event["choices"][0] for event in events if event["choices"][0]["index"] == number]
        assert "".join(each["text"] for each in mine) == choice["text"]
        for name in ("tokens", "token_logprobs", "text_offset"):
            parts = [value for each in mine if each["logprobs"] for value in each["logprobs"][name]]
            assert parts == choice["logprobs"][name]


def test_penalties_bans_and_lengths_reach_the_answer(client: TestClient, model: LoadedModel) -> None:
    plain = ask(client, temperature=0, max_tokens=20, logprobs=0).json()["choices"][0]["logprobs"]["tokens"]
    punished = ask(client, temperature=0, max_tokens=20, logprobs=0, repetition_penalty=8.0).json()["choices"][0]
    assert len(set(punished["logprobs"]["tokens"])) > len(set(plain))
    first = model.tokenizer.encode(plain[0])[0]
    banned = ask(client, temperature=0, logit_bias={str(first): -100}).json()["choices"][0]["text"]
    assert not banned.startswith(plain[0])
    forced = {"logit_bias": {str(model.tokenizer.end_id): 100.0}, "temperature": 0, "max_tokens": 9}
    usage = [ask(client, **forced, **more).json()["usage"] for more in ({}, {"min_tokens": 4}, {"ignore_eos": True})]
    assert [each["completion_tokens"] for each in usage] == [0, 4, 9]


def test_a_stop_text_can_be_kept(client: TestClient, host: Host, script: Script) -> None:
    host.first.install(script("one two three", ends=True))
    texts = [ask(client, stop=["two"], max_tokens=40, include_stop_str_in_output=kept) for kept in (False, True)]
    assert [each.json()["choices"][0]["text"] for each in texts] == ["one ", "one two"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_ends_with_an_error(
    engine: Engine, host: Host, script: Script, stream: bool
) -> None:
    gate = threading.Semaphore(2)
    host.first.install(script("a", gate=gate))
    with TestClient(create_app(Service(host, engine, most_seconds=0.2))) as client:
        response = ask(client, max_tokens=80, stream=stream)
    error = json.loads(response.text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]
    assert response.status_code == (200 if stream else 504)
    assert (error["type"], error["code"]) == ("server_error", "timeout") and "longer than 0.2 s" in error["message"]
    gate.release(100)
    _await_nothing_open(engine)
