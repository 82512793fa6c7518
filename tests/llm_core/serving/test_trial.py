"""A challenger beside the champion, through the HTTP API: who is answered by whom, and what is seen of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from torch import nn

from llm_core.serving.app import Service, create_app
from llm_core.serving.callers import Caller
from llm_core.serving.canary import Canary, Trial
from llm_core.serving.engine import Engine
from llm_core.serving.hosting import Host
from llm_core.serving.judging import FEWEST_TOKENS, _cut
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.samples import Samples
from tests.llm_core.serving.test_metrics import numbers

Script = Callable[..., LoadedModel]
USERS = [f"user {number}" for number in range(60)]
LONG = "The state of our union is strong, and fellow citizens know it."


@pytest.fixture
def service(engine: Engine, script: Script) -> Service:
    host = Host(["tiny"], {"gpt-4": "tiny"})
    host.first.install(script("old", ends=True, version="1"))
    return Service(host, engine)


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        yield client


def begin(service: Service, model: LoadedModel, **settings: Any) -> Trial:
    line = service.host.first
    trial = Trial(model, Canary(**{"percent": 50, "min_requests": 1000, **settings}), line.judge)
    line.begin(trial)
    return trial


def ask(client: TestClient, **values: Any) -> Any:
    return client.post("/v1/completions", json={"model": "tiny", "prompt": "The", "temperature": 0, **values})


def until(is_so: Callable[[], bool]) -> None:
    for _ in range(500):
        if is_so():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to that")


def test_each_asker_is_answered_by_one_version_and_told_which(
    service: Service, client: TestClient, script: Script
) -> None:
    trial = begin(service, script("new", ends=True, version="2"))
    for _ in range(2):
        for user in USERS:
            response = ask(client, user=user)
            expected = ("tiny@2", "new") if trial.takes(user) else ("tiny@1", "old")
            assert (response.headers["x-tidemill-version"], response.json()["choices"][0]["text"]) == expected
    taken = sum(map(trial.takes, USERS))
    assert trial.counts() == {"champion": 2 * (len(USERS) - taken), "challenger": 2 * taken} and taken > 10


def test_streams_chats_and_aliases_are_tried_too(service: Service, client: TestClient, script: Script) -> None:
    trial = begin(service, script("new", ends=True, version="2"))
    user = next(filter(trial.takes, USERS))
    chat = {"model": "gpt-4", "messages": [{"role": "user", "content": "Hello"}], "user": user}
    assert client.post("/v1/chat/completions", json=chat).headers["x-tidemill-version"] == "tiny@2"
    assert "tiny@2" in ask(client, user=user, stream=True).text
    assert trial.counts()["challenger"] == 2


def test_who_is_not_named_is_drawn_for_each_request(service: Service, client: TestClient, script: Script) -> None:
    begin(service, script("new", ends=True, version="2"))
    assert {ask(client).headers["x-tidemill-version"] for _ in range(40)} == {"tiny@1", "tiny@2"}


def test_a_version_asked_by_name_answers_and_is_not_compared(
    service: Service, client: TestClient, script: Script
) -> None:
    trial = begin(service, script("new", ends=True, version="2"))
    user = next(filter(trial.takes, USERS))
    for name in ("tiny@1", "tiny@2"):
        assert ask(client, model=name, user=user).headers["x-tidemill-version"] == name
    # Token ids go by the champion's vocabulary.
    assert ask(client, prompt=[5, 6], user=user).headers["x-tidemill-version"] == "tiny@1"
    assert trial.counts() == {"champion": 0, "challenger": 0}


class Broken(nn.Module):
    """A network that cannot compute."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.config, self.place = network.config, network.place

    def forward(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("damaged")

    def new_cache(self, batch_size: int, max_tokens: int) -> None:
        raise RuntimeError("damaged")


def test_what_the_challenger_cannot_answer_the_champion_does(
    service: Service, client: TestClient, script: Script
) -> None:
    fine = script("new", ends=True, version="2")
    small = script("new", version="3")
    small.network.config.context = 4
    for model in (replace(fine, network=Broken(fine.network)), small):
        trial = begin(service, model)
        user = next(filter(trial.takes, USERS))
        response = ask(client, prompt=LONG, user=user)
        assert (response.status_code, response.headers["x-tidemill-version"]) == (200, "tiny@1")
        assert [each.is_failed for each in trial._evidence.answers["challenger"]] == [True]


def test_what_neither_can_answer_is_nobodys_failure(service: Service, client: TestClient, script: Script) -> None:
    trial = begin(service, script("new", version="2"))
    user = next(filter(trial.takes, USERS))
    assert ask(client, prompt=LONG * 20, user=user).json()["error"]["code"] == "context_length_exceeded"
    assert trial.counts() == {"champion": 0, "challenger": 0}


def test_a_failing_challenger_is_reverted_and_no_request_has_failed(
    service: Service, client: TestClient, script: Script
) -> None:
    fine = script("new", ends=True, version="2")
    trial = begin(service, replace(fine, network=Broken(fine.network)), min_requests=20)
    statuses = {ask(client).status_code for _ in range(60)}
    until(lambda: trial.verdict.outcome == "reverted")
    assert statuses == {200} and "failures: 1 against" in trial.verdict.reason
    assert {ask(client).headers["x-tidemill-version"] for _ in range(20)} == {"tiny@1"}
    assert ask(client, model="tiny@2").status_code == 404
    found = numbers(client)
    assert found["tidemill:verdicts_total tiny reverted"] == 1 and found["tidemill:trial_share tiny tiny@2"] == 0
    shown = client.get("/version").json()["trial"]
    assert (shown["challenger"], shown["verdict"], shown["percent"]) == ("tiny@2", "reverted", 50)
    assert shown["comparisons"][0]["what"] == "failures" and shown["answers"]["challenger"] >= 20


def test_a_trial_is_in_the_metrics_and_its_model_in_the_list(
    service: Service, client: TestClient, script: Script
) -> None:
    trial = begin(service, script("new", ends=True, version="2"))
    ask(client, user=next(filter(trial.takes, USERS)))
    found = numbers(client)
    assert found["tidemill:trial_share tiny tiny@2"] == 0.5
    assert found["tidemill:trial_answers_total tiny challenger tiny@2"] == 1
    assert "tiny@2" in [entry["id"] for entry in client.get("/v1/models").json()["data"]]


@pytest.fixture
def other(publish: Any, registered: Any, tmp_path: Any) -> LoadedModel:
    """A model with other random weights, run by the kernel."""
    artifact = publish(tmp_path / "other", 7)
    return LoadedModel.load(registered(artifact, "2"), artifact.path)


def test_both_versions_read_what_users_wrote(
    service: Service, client: TestClient, model: LoadedModel, other: LoadedModel
) -> None:
    service.host.first.install(model)
    trial = begin(service, other)
    for prompt in (LONG, LONG, "Hi", "One, two and three. " + LONG):
        ask(client, prompt=prompt)
    until(lambda: trial.state()["texts"] == 2)  # a text counts once, a short one says too little
    first = trial._evidence._pairs[0]
    assert first.champion == pytest.approx(by_echo(client, "tiny@1"), abs=1e-4)
    assert first.challenger == pytest.approx(by_echo(client, "tiny@2"), abs=1e-4)
    assert first.champion != pytest.approx(first.challenger, abs=1e-3)


def test_a_long_text_is_read_as_far_as_both_can(model: LoadedModel, other: LoadedModel) -> None:
    text = _cut(LONG * 30, (model, replace(other, context=40)))
    assert LONG.startswith(text[:20]) and FEWEST_TOKENS < len(model.encode_prompt(text)) <= 40
    assert _cut("Hi", (model, other)) == ""


def by_echo(client: TestClient, name: str) -> float:
    """Bits per byte of the long text by the API's own log-probabilities."""
    body = ask(client, model=name, prompt=LONG, echo=True, logprobs=0, max_tokens=0).json()
    return -sum(body["choices"][0]["logprobs"]["token_logprobs"]) / 0.6931471805599453 / len(LONG.encode())


def test_a_shadow_answers_nobody_and_is_compared_by_copies(
    service: Service, client: TestClient, model: LoadedModel, other: LoadedModel
) -> None:
    service.host.first.install(model)
    trial = begin(service, other, shadow=True)
    sampled = [user for user in USERS if trial.side(user) == "challenger"]
    for user in USERS:
        response = ask(client, user=user, max_tokens=4)
        assert response.headers["x-tidemill-version"] == response.json()["model"] == "tiny@1"
        until(lambda: not service.judge._tasks)
    until(lambda: trial.counts() == {"champion": len(sampled), "challenger": len(sampled)})
    copied = trial._evidence.answers["challenger"]
    assert [each.asker for each in copied] == sampled and all(each.first is not None for each in copied)
    assert ask(client, model="tiny@2").status_code == 404
    assert numbers(client)["vllm:request_success_total length tiny"] == len(USERS)  # copies are no answers


def test_a_copy_gives_way_to_who_asks_and_begins_again(engine: Engine, service: Service, script: Script) -> None:
    gate = threading.Semaphore(2)
    slow = script("new", version="2", gate=gate)
    trial = begin(service, slow, shadow=True)
    service.judge.copy(trial, service.named("tiny", Caller()), "user", lambda model: jobs_of(model))
    until(lambda: slow.network.num_calls == 2)
    with TestClient(create_app(service)) as client:
        other = next(user for user in USERS if trial.side(user) != "challenger")
        asked = threading.Thread(target=ask, args=(client,), kwargs={"user": other})
        asked.start()
        until(lambda: engine.num_open == 1)
        gate.release(100)
        asked.join()
        until(lambda: trial.counts()["challenger"] == 1)
    assert slow.network.num_calls > 2 + 3  # it was begun twice


def jobs_of(model: LoadedModel) -> Any:
    from llm_core.serving.answering import completion
    from llm_core.serving.schema import CompletionRequest

    return completion(model, CompletionRequest(model="tiny", prompt="The", max_tokens=4))[0]


def test_feedback_counts_for_the_version_that_wrote_the_response(
    service: Service, script: Script, tmp_path: Path
) -> None:
    trial = begin(service, script("new", ends=True, version="2"))
    samples = Samples(tmp_path)
    with TestClient(create_app(service, samples=samples)) as client:
        for user in USERS:
            given = ask(client, user=user).json()
            opinion = {"stars": 1} if given["model"] == "tiny@2" else {"rating": 1}
            assert client.post("/v1/feedback", json={"id": given["id"], **opinion}).status_code == 200
        client.post("/v1/feedback", json={"id": "cmpl-unknown", "rating": -1})
    samples.close()
    taken = sum(map(trial.takes, USERS))
    (rated,) = [each for each in trial._evidence.compare(1.5, 0.0) if each.what == "ratings"]
    assert (rated.champion, rated.challenger, rated.num_champion) == (1, -1, len(USERS) - taken)
    assert rated.p_value < 1e-6


def test_another_champion_ends_the_trial(service: Service, script: Script) -> None:
    begin(service, script("new", version="2"))
    service.host.first.install(script("newest", version="3"))
    assert service.host.first.trial is None and service.state()["trial"] is None
