from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_core.serving import access
from llm_core.serving.access import Gate
from llm_core.serving.app import Service, create_app
from llm_core.serving.engine import Engine
from llm_core.serving.hosting import Host
from llm_core.serving.keys import Keys, Limits, create_key, revoke_key
from llm_core.serving.limits import Limiter
from tests.llm_core.serving.probes import basic, let_in, not_open, with_a_wrong_key
from tests.llm_core.serving.wire import Answer, listening, request, speak

HELLO = {"model": "tiny", "prompt": "The", "max_tokens": 3}
MESSAGES = [{"role": "user", "content": "Hello"}]
Ask = Callable[..., Answer]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "api.json"


@pytest.fixture
def key(file: Path) -> str:
    return create_key(file, "mine")[1]


@pytest.fixture
def port(file: Path, key: str, engine: Engine, host: Host) -> Iterator[int]:
    """A server that knows one key without limits, and those that a test adds to the file."""
    with listening(create_app(Service(host, engine), Gate(Keys(file), Limiter()))) as port:
        yield port


@pytest.fixture
def ask(port: int) -> Ask:
    def send(key: str, path: str = "/v1/models", body: dict[str, Any] | None = None, *headers: str) -> Answer:
        lines = (f"authorization: Bearer {key}", "content-type: application/json", *headers)
        raw = b"" if body is None else json.dumps(body).encode()
        return speak(port, request("GET" if body is None else "POST", path, *lines, body=raw))

    return send


def test_nothing_but_health_and_ready_is_open(port: int) -> None:
    probes = not_open()
    assert len(probes) > 600 and let_in(port, probes) == []


def test_health_and_ready_are_open(port: int) -> None:
    for target in ("/health", "/health?x=/v1/models", "/health?"):
        assert speak(port, request("GET", target)).json() == {"status": "ok"}
    assert speak(port, request("GET", "/ready")).json()["status"] == "ready"


def test_nothing_but_a_valid_key_lets_in(port: int, key: str) -> None:
    probes = list(with_a_wrong_key(key, f"tm_{'a' * 12}_{'b' * 64}"))
    assert len(probes) > 150 and let_in(port, probes) == []
    for value in (f"Bearer {key}", f"bearer   {key} ", f"Basic {basic(key)}", f"basic {basic(key)}"):
        assert speak(port, request("GET", "/v1/models", f"authorization: {value}")).status == 200


@pytest.mark.parametrize(
    "wrong",
    [
        lambda scope: scope["raw_path"].startswith((b"/health", b"/ready")),
        lambda scope: scope["raw_path"].endswith((b"/health", b"/ready")),
        lambda scope: scope["path"] in ("/health", "/ready"),
        lambda scope: scope["raw_path"].lower() in access.OPEN_PATHS,
        lambda scope: scope["raw_path"].rstrip(b"/") in access.OPEN_PATHS,
        lambda scope: scope["raw_path"].replace(b"//", b"/") in access.OPEN_PATHS,
        lambda scope: scope["raw_path"].removeprefix(b"http://127.0.0.1") in access.OPEN_PATHS,
        lambda scope: scope["raw_path"] in access.OPEN_PATHS,
        lambda scope: any(value in access.OPEN_PATHS for _, value in scope["headers"]),
        lambda scope: access._header(scope, b"x-forwarded-for") == [b"127.0.0.1"],
    ],
    ids=["prefix", "suffix", "decoded", "case", "slash", "slashes", "absolute", "any-method", "header", "forwarded"],
)
def test_the_probes_find_a_door_that_is_ajar(port: int, monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    monkeypatch.setattr(access, "_is_open", wrong)
    assert let_in(port, not_open()) != []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda keys, text: next((each for each in keys.current().values() if each.id in text), None),
        lambda keys, text: next((each for each in keys.current().values() if text.startswith("tm_")), None),
    ],
    ids=["id-only", "form-only"],
)
def test_the_probes_find_a_key_that_is_not_checked(
    port: int, key: str, monkeypatch: pytest.MonkeyPatch, wrong: Any
) -> None:
    monkeypatch.setattr(Keys, "find", wrong)
    assert let_in(port, list(with_a_wrong_key(key, f"tm_{'a' * 12}_{'b' * 64}"))) != []


def test_a_refusal_has_openais_shape_and_says_how_to_get_in(port: int) -> None:
    answer = speak(port, request("GET", "/v1/models"))
    assert answer.status == 401 and "x-tidemill-version" not in answer.headers
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"} and error["code"] == "invalid_api_key"
    assert "access-control-allow-origin" not in answer.headers


def test_browsers_are_asked_for_the_key_as_a_password(port: int, key: str) -> None:
    raw = speak(port, request("GET", "/"))
    assert raw.headers["www-authenticate"] == 'Basic realm="tidemill"'  # the last of two; the first is Bearer
    page = speak(port, request("GET", "/", f"authorization: Basic {basic(key)}"))
    assert page.status == 200 and b"playground" in page.body


@pytest.mark.parametrize(
    ("site", "status"), [("same-origin", 200), ("none", 200), ("cross-site", 403), ("same-site", 403)]
)
def test_a_page_elsewhere_cannot_use_a_browsers_password(port: int, key: str, site: str, status: int) -> None:
    lines = (f"authorization: Basic {basic(key)}", "content-type: application/json", f"sec-fetch-site: {site}")
    assert speak(port, request("POST", "/v1/completions", *lines, body=json.dumps(HELLO).encode())).status == status


def test_a_revoked_key_is_refused_at_once_and_told_why(file: Path, ask: Ask) -> None:
    _, doomed = create_key(file, "doomed")
    assert ask(doomed).status == 200
    revoke_key(file, "doomed")
    refused = ask(doomed)
    assert refused.status == 401 and "is revoked" in refused.json()["error"]["message"]


def test_an_expired_key_is_refused(file: Path, key: str, ask: Ask) -> None:
    file.write_text(file.read_text().replace('"expires": null', '"expires": "2020-01-01T00:00:00Z"'))
    refused = ask(key)
    assert refused.status == 401 and "is expired" in refused.json()["error"]["message"]


def test_without_its_key_file_the_server_lets_nobody_in(file: Path, key: str, ask: Ask, port: int) -> None:
    file.unlink()
    refused = ask(key)
    assert (refused.status, refused.json()["error"]["code"]) == (503, "keys_unavailable")
    assert refused.headers["retry-after"] == "2" and str(file) not in refused.body.decode()
    assert speak(port, request("GET", "/health")).status == 200


def test_a_key_asks_only_the_models_it_may(file: Path, ask: Ask) -> None:
    _, other = create_key(file, "other", limits=Limits(models=("large",)))
    _, mine = create_key(file, "this", limits=Limits(models=("large", "tiny")))
    for path, body in (("/v1/completions", HELLO), ("/v1/chat/completions", {"model": "tiny@1", "messages": MESSAGES})):
        refused = ask(other, path, body)
        assert (refused.status, refused.json()["error"]["code"]) == (403, "model_not_allowed")
        assert ask(mine, path, {**body, "max_tokens": 2}).status == 200
    assert [ask(other, f"/v1/models/{name}").status for name in ("tiny", "tiny@1", "tiny/card")] == [403] * 3
    assert [len(ask(key, "/v1/models").json()["data"]) for key in (other, mine)] == [0, 2]


@pytest.mark.parametrize(
    ("values", "param"),
    [({"n": 3}, "n"), ({"best_of": 3}, "best_of"), ({"max_tokens": 6}, "max_tokens")],
)
def test_a_request_over_the_keys_bounds_is_refused(file: Path, ask: Ask, values: dict[str, int], param: str) -> None:
    _, small = create_key(file, "small", limits=Limits(max_tokens=5, max_n=2))
    assert ask(small, "/v1/completions", {**HELLO, "n": 2, "max_tokens": 5}).status == 200
    refused = ask(small, "/v1/completions", {**HELLO, **values})
    assert (refused.status, refused.json()["error"]["param"]) == (400, param)


def test_an_answer_without_a_bound_of_its_own_gets_the_keys(file: Path, ask: Ask) -> None:
    _, small = create_key(file, "small", limits=Limits(max_tokens=5))
    without = {name: value for name, value in HELLO.items() if name != "max_tokens"}
    whole = ask(small, "/v1/completions", {**without, "temperature": 0}).json()
    talk = ask(small, "/v1/chat/completions", {"model": "tiny", "messages": MESSAGES, "temperature": 0}).json()
    assert whole["usage"]["completion_tokens"] <= 5 and talk["usage"]["completion_tokens"] <= 5
    over = ask(small, "/v1/chat/completions", {"model": "tiny", "messages": MESSAGES, "max_completion_tokens": 6})
    assert over.status == 400 and over.json()["error"]["param"] == "max_completion_tokens"


def test_a_request_too_many_gets_429_and_is_told_when_to_come_again(file: Path, ask: Ask) -> None:
    _, slow = create_key(file, "slow", limits=Limits(requests_per_minute=2, tokens_per_minute=1000))
    first = ask(slow)
    assert first.headers["x-ratelimit-limit-requests"] == "2" and first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-limit-tokens"] == "1000"
    ask(slow)
    refused = ask(slow)
    assert (refused.status, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 25 <= int(refused.headers["retry-after"]) <= 30 and refused.json()["error"]["type"] == "requests"
    assert ask(slow, "/version").status == 200  # the page asks for it all the time


def test_what_is_charged_to_a_caller_is_what_the_next_request_lacks(file: Path) -> None:
    record, text = create_key(file, "ci", limits=Limits(tokens_per_day=10))
    gate = Gate(Keys(file), Limiter())
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"authorization", f"Bearer {text}".encode())]}
    caller, _ = gate.admit(scope)
    assert (caller.key_id, caller.limits, caller.is_admin) == (record.id, record.limits, False)
    caller.charge(7, 3)
    with pytest.raises(access.Refusal, match="quota of 10 tokens a day") as refused:
        gate.admit(scope)
    assert refused.value.status == 429 and refused.value.body["error"]["code"] == "insufficient_quota"


def test_numbers_of_all_callers_are_for_admins(file: Path, key: str, ask: Ask) -> None:
    _, admin = create_key(file, "prometheus", admin=True)
    assert ask(admin, "/metrics").status == 200
    refused = ask(key, "/metrics")
    assert (refused.status, refused.json()["error"]["code"]) == (403, "admin_only")


def test_without_keys_everything_is_open(engine: Engine, host: Host) -> None:
    with listening(create_app(Service(host, engine))) as port:
        for path in ("/", "/v1/models", "/metrics", "/version"):
            assert speak(port, request("GET", path)).status == 200


def test_a_body_without_a_key_is_never_read(file: Path, key: str) -> None:
    async def receive() -> Any:
        raise AssertionError("the body was read")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def inside(*arguments: Any) -> None:
        raise AssertionError("the application was called")

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "raw_path": b"/v1/completions", "headers": []}
    door = access.Access(inside, Gate(Keys(file), Limiter()))
    asyncio.run(door(scope, receive, send))
    assert sent[0]["status"] == 401
    for more in ((b"content-length", b"100000000"), (b"transfer-encoding", b"chunked")):
        sent.clear()
        asyncio.run(door({**scope, "headers": [more]}, receive, send))
        assert (b"connection", b"close") in sent[0]["headers"]


def test_a_websocket_without_a_key_is_closed_before_it_opens(file: Path, key: str) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def inside(scope: Any, *arguments: Any) -> None:
        sent.append(scope["type"])

    door = access.Access(inside, Gate(Keys(file), Limiter()))
    scope = {"type": "websocket", "path": "/health", "raw_path": b"/health", "headers": []}
    asyncio.run(door(scope, None, send))  # type: ignore[arg-type]
    assert [message["type"] for message in sent] == ["websocket.close"]
    sent.clear()
    asyncio.run(door({**scope, "headers": [(b"authorization", f"Bearer {key}".encode())]}, None, send))  # type: ignore[arg-type]
    asyncio.run(door({"type": "lifespan"}, None, send))  # type: ignore[arg-type]
    assert sent == ["websocket", "lifespan"]


def test_two_requests_on_one_connection_are_judged_each(port: int, key: str) -> None:
    def line(*headers: str) -> bytes:
        return "\r\n".join(("GET /v1/models HTTP/1.1", "host: x", *headers)).encode() + b"\r\n\r\n"

    answer = speak(port, line(f"authorization: Bearer {key}") + line("connection: close"))
    assert answer.status == 200 and b"HTTP/1.1 401" in answer.body


@pytest.mark.e2e
def test_the_page_opens_in_a_browser_with_the_key_as_password(port: int, key: str) -> None:
    from playwright.sync_api import expect

    from tests.e2e.browser import chromium

    with chromium() as (context, _):
        assert context.browser is not None
        url = f"http://127.0.0.1:{port}/"
        stranger = context.browser.new_context(http_credentials={"username": "me", "password": "guessed"})
        response = stranger.new_page().goto(url)
        assert response is not None and response.status == 401
        page = context.browser.new_context(http_credentials={"username": "me", "password": key}).new_page()
        page.goto(url)
        expect(page.locator("#state[data-status=ready]")).to_be_visible(timeout=20_000)
        expect(page.locator(".model option").first).to_be_attached()
        page.get_by_role("textbox", name=re.compile("Prompt|Message", re.I)).first.fill("The")
        page.keyboard.press("Control+Enter")
        expect(page.locator(".figures").first).to_contain_text("seed", timeout=20_000)
