from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from llm_core.labels.champion import Champion, chosen_label
from llm_core.labels.label_studio import Draft, Proposed, tasks_json
from llm_core.labels.task import Kind, LabelError, Task
from llm_core.serving.app import Service, create_app
from llm_core.serving.engine import Engine
from llm_core.serving.hosting import Host
from llm_core.serving.loaded import LoadedModel
from tests.llm_core.labels.tasks import make_task
from tests.llm_core.serving.conftest import (  # noqa: F401 - fixtures: a tiny model behind the real routes
    artifact,
    engine,
    host,
    model,
    publish,
    registered,
    script,
    tokenizer,
)

LABELS = ("good", "bad")


@dataclass
class Server:
    """A small OpenAI-compatible server: it writes what a test wants and remembers what it was asked."""

    texts: list[str] = field(default_factory=lambda: ["good"])
    top: dict[str, float] = field(default_factory=dict)
    has_chat_template: bool = False
    context_characters: int = 10_000
    status: int = 200
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            described = {"name": "demo@3", "has_chat_template": self.has_chat_template}
            return httpx.Response(200, json={"data": [{"id": "demo", "tidemill": described}]})
        body = json.loads(request.content)
        self.asked.append((request.url.path, body))
        if self.status != 200:
            return httpx.Response(self.status, json={"error": {"message": "no such model", "code": "model_not_found"}})
        if len(json.dumps(body.get("prompt", body.get("messages")))) > self.context_characters:
            return httpx.Response(400, json={"error": {"message": "too long", "code": "context_length_exceeded"}})
        logprobs = {"top_logprobs": [self.top]} if "logprobs" in body else None
        named = "messages" in body
        answers = [
            {"message": {"content": text}} if named else {"text": text, "logprobs": logprobs} for text in self.texts
        ]
        return httpx.Response(200, json={"choices": answers[: body.get("n", 1)]})


def propose(server: Callable[[httpx.Request], httpx.Response], *tasks: Task, told: str = "") -> list[Proposed]:
    with httpx.Client(transport=httpx.MockTransport(server), base_url="http://model") as client:
        return list(Champion(client).propose(tasks, LABELS, told))


def prompt_task(prompt: str = "Why?") -> Task:
    return Task("preference", {"prompt": prompt}, "ab" * 32, "a")


def test_a_label_that_is_written_is_proposed_with_its_probability() -> None:
    server = Server([" Good, I think"], {" Go": math.log(0.5), " good": math.log(0.25), " ba": math.log(0.125)})
    (proposed,) = propose(server, make_task())
    assert (proposed.draft, proposed.model_version) == (Draft("good", 0.75), "demo@3")
    ((path, body),) = server.asked
    assert (path, body["model"], body["temperature"], body["logprobs"]) == ("/v1/completions", "demo@3", 0, 5)
    assert body["prompt"].startswith(make_task().text) and body["prompt"].endswith("good, bad\nLabel:")


@pytest.mark.parametrize(
    ("labels", "text", "top", "draft"),
    [
        (("good", "bad"), "the", {" the": -0.1, " b": math.log(0.2), " g": math.log(0.1)}, Draft("bad", 0.2)),
        (("place", "plan"), "x", {"pl": math.log(0.9), "plan": math.log(0.05)}, Draft("plan", 0.05)),
        (("plan", "planet"), "Planet Earth", {}, Draft("planet", None)),
        (("good", "bad"), "the", {" the": -0.1, " ": -0.2}, None),
        (("good", "bad"), "", None, None),
    ],
)
def test_a_label_is_told_from_the_first_tokens_alternatives_where_none_is_written(
    labels: tuple[str, ...], text: str, top: dict[str, float] | None, draft: Draft | None
) -> None:
    assert chosen_label(labels, {"text": text, "logprobs": {"top_logprobs": [top] if top else None}}) == draft
    if not top:
        assert chosen_label(labels, {"text": text, "logprobs": None}) == draft


@pytest.mark.parametrize("kind", ["pairs", "chat"])
@pytest.mark.parametrize("has_chat_template", [True, False])
def test_a_text_is_drafted_by_chat_where_the_model_knows_how(kind: Kind, has_chat_template: bool) -> None:
    server = Server([" Good day. "], has_chat_template=has_chat_template)
    (proposed,) = propose(server, make_task(kind), told="Translate" if kind == "pairs" else "")
    assert proposed.draft == Draft("Good day.", None)
    ((path, body),) = server.asked
    asked = {
        ("pairs", True): [{"role": "user", "content": "Translate\n\nGuten Tag"}],
        ("pairs", False): "Guten Tag\n\nTranslate\n",
        ("chat", True): make_task("chat").content["messages"],
        ("chat", False): "system: Be brief.\n\nuser: Who are you?\n\nassistant:",
    }
    assert path == ("/v1/chat/completions" if has_chat_template else "/v1/completions")
    assert body["messages" if has_chat_template else "prompt"] == asked[kind, has_chat_template]


def test_an_empty_draft_is_none() -> None:
    assert propose(Server([" \n"]), make_task("pairs"))[0].draft is None


def test_a_preference_gets_two_samples_and_no_opinion() -> None:
    server = Server(["One.", "Two."])
    (proposed,) = propose(server, prompt_task())
    assert proposed.task.content == {"prompt": "Why?", "left": "One.", "right": "Two."}
    ((_, body),) = server.asked
    assert (body["n"], body["temperature"]) == (2, 1.0)
    (exported,) = json.loads(tasks_json([proposed]))
    assert (exported["predictions"], exported["data"]["model_version"]) == ([], "demo@3")


@pytest.mark.parametrize("texts", [["One.", "One. "], ["One.", ""]])
def test_a_preference_without_two_different_answers_is_left_out(texts: list[str]) -> None:
    assert propose(Server(texts), prompt_task()) == []


def test_an_answer_of_null_is_no_draft() -> None:
    server = Server([None], has_chat_template=True)  # type: ignore[list-item]  # as OpenAI's API may say
    assert propose(server, make_task("pairs"))[0].draft is None


def test_a_server_that_gives_fewer_answers_than_asked_for_is_named() -> None:
    with pytest.raises(LabelError, match="http://model: gave 1 of 2 answers; name a server that knows"):
        propose(Server(["One."]), prompt_task())


def test_spans_and_given_answers_are_not_asked_for() -> None:
    server = Server()
    tasks = [make_task("sequence"), make_task("preference")]
    assert propose(server, *tasks) == [Proposed(task) for task in tasks]
    assert server.asked == []


def test_a_text_that_is_too_long_is_read_from_its_beginning() -> None:
    server = Server(context_characters=200)
    text = "".join(f"{number:03} " for number in range(300))
    (proposed,) = propose(server, make_task("classification", text))
    assert proposed.draft is not None and proposed.task.text == text
    taken = server.asked[-1][1]["prompt"].partition("\n\n")[0]
    assert len(taken) == 75 and text.startswith(taken)


def test_a_conversation_that_is_too_long_is_asked_from_its_beginning() -> None:
    server = Server(context_characters=200, has_chat_template=True)
    turns = [{"role": "user", "content": "word " * 100}]
    (proposed,) = propose(server, Task("chat", {"messages": turns}, "ab" * 32, "a"))
    assert proposed.draft == Draft("good", None)
    (turn,) = server.asked[-1][1]["messages"]
    assert turn["role"] == "user" and turn["content"].startswith("user: word word")


def test_a_context_that_is_too_short_for_the_instruction_is_an_error() -> None:
    with pytest.raises(LabelError, match="too long; give a shorter instruction or fewer labels"):
        propose(Server(context_characters=20), make_task())


def refusing(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (refusing, r"http://model: no model server answers \(refused\); start it with tidemill serve"),
        (lambda request: httpx.Response(200, json={"data": []}), "serves no model yet"),
        (lambda request: httpx.Response(200, json=[]), "speaks no OpenAI-compatible API"),
        (lambda request: httpx.Response(200, text="<html>"), "speaks no OpenAI-compatible API"),
        (lambda request: httpx.Response(502, text="bad gateway"), r"answered 502 \(bad gateway\); export again"),
        (Server(status=404), r"answered 404 \(no such model\); another version was promoted meanwhile"),
    ],
)
def test_a_server_that_cannot_answer_is_a_clear_error(
    server: Callable[[httpx.Request], httpx.Response], message: str
) -> None:
    with pytest.raises(LabelError, match=message):
        propose(server, make_task())


@pytest.fixture
def served(engine: Engine, host: Host) -> Any:  # noqa: F811
    with TestClient(create_app(Service(host, engine))) as client:
        yield client


def test_our_own_server_drafts_and_the_same_export_gives_the_same_bytes(served: Any) -> None:
    tasks = [
        make_task("pairs"),
        make_task("chat"),
        prompt_task("The state of our union"),
        make_task("pairs", "word " * 200),
    ]
    first, again = (list(Champion(served).propose(tasks, (), "")) for _ in range(2))
    assert tasks_json(first) == tasks_json(again)
    assert {each.model_version for each in first} == {"tiny@1"}
    assert len(first) == len(tasks) and first[2].task.content["left"] != first[2].task.content["right"]


def test_our_own_servers_log_probabilities_choose_a_label(
    served: Any,
    host: Host,  # noqa: F811
    script: Callable[..., LoadedModel],  # noqa: F811
) -> None:
    host.first.install(script("bad film", ends=True))
    (proposed,) = Champion(served).propose([make_task("classification", "So so.")], LABELS)
    assert proposed.draft is not None and proposed.draft.answer == "bad"
    assert proposed.draft.score == pytest.approx(1.0, abs=1e-3)
