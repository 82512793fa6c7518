"""The API through another engine's program: what our own engine answers, in the same words."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi.testclient import TestClient

from llm_core.generate import Sampling
from llm_core.serving.app import Service, create_app
from llm_core.serving.engine import Engine
from llm_core.serving.evidence import Answered
from llm_core.serving.follower import Follower
from llm_core.serving.hosting import Host
from llm_core.serving.jobs import Job
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.registry import RegisteredVersion
from llm_core.serving.settings import RunnerSettings
from tests.llm_core.serving.backends.conftest import Play, Programs, Rehearse
from tests.llm_core.serving.conftest import Publish
from tests.llm_core.serving.test_app import ask, streamed
from tests.llm_core.serving.test_engine import wait_until

pytestmark = pytest.mark.e2e  # real processes

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def client(engine: Engine, host: Host) -> Iterator[TestClient]:
    with TestClient(create_app(Service(host, engine)), raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize(
    "values",
    [
        {"max_tokens": 20},
        {"max_tokens": 20, "logprobs": 0},
        {"max_tokens": 20, "logprobs": 5, "n": 2},
        {"max_tokens": 8, "echo": True, "logprobs": 2},
        {"max_tokens": 0, "echo": True, "logprobs": 1},
        {"max_tokens": 0, "echo": True},
        {"max_tokens": 90, "ignore_eos": True},
        {"max_tokens": 8, "prompt": ["The", "One"]},
        {"max_tokens": 8, "best_of": 2},
    ],
    ids=str,
)
def test_a_completion_is_that_of_our_own_engine(
    client: TestClient, host: Host, loaded: LoadedModel, values: dict[str, Any]
) -> None:
    ours = ask(client, temperature=0, **values).json()
    host.first.install(loaded)
    theirs = ask(client, temperature=0, **values)
    assert theirs.headers["x-tidemill-version"] == "tiny@1"
    assert_alike(theirs.json(), ours)


def assert_alike(one: Any, other: Any) -> None:
    """Equal, ids and times aside, with numbers as equal as two ways of adding up make them."""
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys()
        for key in one.keys() - {"id", "created"}:
            assert_alike(one[key], other[key])
    elif isinstance(one, list) and isinstance(other, list):
        assert len(one) == len(other)
        for each, its in zip(one, other, strict=True):
            assert_alike(each, its)
    else:
        assert one == pytest.approx(other, abs=1e-3)


def test_the_stream_is_the_whole_answer_in_pieces(client: TestClient, host: Host, play: Play) -> None:
    host.first.install(play("Zoë 😀 state"))
    whole = ask(client, seed=3, max_tokens=30).json()
    response = ask(client, seed=3, max_tokens=30, stream=True, stream_options={"include_usage": True})
    *chunks, usage = streamed(response.text)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    assert usage["usage"] == whole["usage"] and usage["usage"]["completion_tokens"] == 30
    assert {chunk["system_fingerprint"] for chunk in chunks} == {"tiny@1"}


def test_a_chat_ends_at_any_control_token(client: TestClient, host: Host, play: Play, model: LoadedModel) -> None:
    turn_end = model.tokenizer.special_ids["<|im_end|>"]
    host.first.install(
        play(ids=[*model.tokenizer.encode("Hello 😀"), turn_end, 9], offset=len(model.encode_chat(HELLO)))
    )
    chunks = streamed(
        client.post(CHAT, json={"model": "tiny", "messages": HELLO, "stream": True, "temperature": 0}).text
    )
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas) == "Hello 😀"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_seeds_decide_and_n_gives_different_answers(
    client: TestClient, host: Host, play: Play, programs: Programs
) -> None:
    host.first.install(play("abcdefghijklmnopqrstuvwxyz"))
    first, again = (ask(client, n=3, seed=11, max_tokens=20).json()["choices"] for _ in range(2))
    assert first == again and len({choice["text"] for choice in first}) == 3
    assert len({body["seed"] for body in programs.asked()}) == 3


def test_log_probabilities_belong_to_the_text(client: TestClient, host: Host, play: Play) -> None:
    host.first.install(play("Zoë", ends=True))
    found = ask(client, max_tokens=20, temperature=0, logprobs=2).json()["choices"][0]["logprobs"]
    assert found["tokens"][-2:] == ["bytes:\\xc3", "bytes:\\xab"]
    assert found["text_offset"] == [0, 1, 2, 2]
    assert all(len(top) == 2 for top in found["top_logprobs"])


def test_a_stop_text_ends_the_answer_and_the_program_is_left(
    client: TestClient, host: Host, play: Play, programs: Programs
) -> None:
    host.first.install(play("one two three", delay=0.01))
    choice = ask(client, max_tokens=90, temperature=0, stop="two").json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("one ", "stop")
    wait_until(lambda: any("left" in entry for entry in programs.log()))


def test_the_end_waits_for_min_tokens(client: TestClient, host: Host, play: Play) -> None:
    host.first.install(play("", ends=True))
    for count in (0, 3, 5):
        body = ask(client, max_tokens=5, temperature=0, min_tokens=count).json()
        assert body["usage"]["completion_tokens"] == count
        assert body["choices"][0]["finish_reason"] == ("length" if count == 5 else "stop")


def test_an_end_that_is_ignored_is_a_token_like_others(client: TestClient, host: Host, play: Play) -> None:
    host.first.install(play("ab", ends=True))
    choice = ask(client, max_tokens=8, temperature=0, ignore_eos=True).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("ababab", "length")


def test_what_needs_the_weights_here_is_not_offered(client: TestClient, host: Host, loaded: LoadedModel) -> None:
    host.first.install(loaded)
    assert client.get("/ready").json()["model"]["routes"] == [
        "completions",
        "chat/completions",
        "tokenize",
        "detokenize",
    ]
    refused = client.post("/v1/embeddings", json={"model": "tiny", "input": "The"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unsupported_task")
    assert f"is a causal_lm model in {loaded.backend} and cannot do embeddings" in refused.json()["error"]["message"]
    assert client.post("/tokenize", json={"model": "tiny", "prompt": "The"}).status_code == 200


SENT = {
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.05,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
}


def test_every_setting_reaches_the_program_in_its_words(
    client: TestClient, host: Host, play: Play, programs: Programs, settings: RunnerSettings, model: LoadedModel
) -> None:
    host.first.install(play("a"))
    more = {"repetition_penalty": 1.2, "logit_bias": {"7": -3}, "seed": 5, "min_tokens": 2, "logprobs": 4}
    assert ask(client, max_tokens=6, **SENT, **more).status_code == 200
    first, *others = programs.asked()
    assert SENT.items() <= first.items() and first["prompt"] == list(model.encode_prompt("The"))
    end = model.tokenizer.end_id
    if settings.backend == "vllm":
        own = {"repetition_penalty": 1.2, "logit_bias": {"7": -3}, "seed": 5, "min_tokens": 2, "stop_token_ids": [end]}
        assert own.items() <= first.items() and (first["max_tokens"], first["logprobs"], others) == (6, 4, [])
    else:
        assert (first["repeat_penalty"], first["n_probs"], first["n_predict"]) == (1.2, 4, 2)
        assert first["samplers"] == ["penalties", "temperature", "top_k", "top_p", "min_p"]
        assert [body["logit_bias"] for body in (first, *others)] == [[[7, -3], [end, False]], [[7, -3]]]
        assert others[0]["n_predict"] == 4 and len(others[0]["prompt"]) == len(first["prompt"]) + 2


def test_log_probabilities_that_nobody_asks_for_are_not_computed(
    client: TestClient, host: Host, play: Play, programs: Programs
) -> None:
    host.first.install(play("a"))
    assert ask(client).status_code == 200
    (body,) = programs.asked()
    assert not body.get("logprobs") and not body.get("n_probs")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_the_program(
    engine: Engine, host: Host, play: Play, programs: Programs, stream: bool
) -> None:
    host.first.install(play("a", delay=0.05))
    asyncio.run(asyncio.wait_for(ask_and_leave(create_app(Service(host, engine)), programs, stream), 20))
    wait_until(lambda: engine.num_open == 0 and any("left" in entry for entry in programs.log()))
    (num_sent,) = (entry["left"] for entry in programs.log() if "left" in entry)
    assert num_sent < 40


async def ask_and_leave(app: Any, programs: Programs, stream: bool) -> None:
    """One request as uvicorn would make it, whose client leaves soon after the program has begun."""
    body = json.dumps({"model": "tiny", "prompt": "The", "max_tokens": 80, "stream": stream}).encode()
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Mapping[str, Any]:
        if message := next(messages, None):
            return message
        while not programs.asked():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        return {"type": "http.disconnect"}

    async def send(message: Mapping[str, Any]) -> None:
        pass

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "method": "POST", "headers": headers}
    path = "/v1/completions"
    scope |= {"path": path, "raw_path": path.encode(), "query_string": b"", "http_version": "1.1", "scheme": "http"}
    scope |= {"server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "root_path": ""}
    await app(scope, receive, send)


def test_a_slow_program_holds_up_nobody_else(
    client: TestClient, host: Host, play: Play, programs: Programs, script: Any
) -> None:
    host.first.install(play("a", delay=0.2))
    waiting = threading.Thread(target=lambda: ask(client, max_tokens=10))
    waiting.start()
    wait_until(lambda: bool(programs.asked()))
    host.first.install(script("b", version="2"))
    began = time.monotonic()
    assert ask(client, max_tokens=20, temperature=0).json()["choices"][0]["text"] == "b" * 20
    assert time.monotonic() - began < 1.5 and waiting.is_alive()
    waiting.join()


def test_answers_beyond_max_running_wait_for_their_turn(
    engine: Engine, client: TestClient, host: Host, play: Play, programs: Programs
) -> None:
    host.first.install(play("a", delay=0.02))
    running: list[int] = []
    asking = threading.Thread(target=lambda: running.append(ask(client, n=20, max_tokens=5).status_code))
    asking.start()
    wait_until(lambda: engine.num_waiting == 12)
    asking.join()
    assert running == [200] and len(programs.asked()) == 20


def test_draining_finishes_what_runs_and_closing_tells_the_rest(host: Host, play: Play, programs: Programs) -> None:
    host.first.install(play("a", delay=0.02))
    found: list[Any] = []
    with Engine() as engine, TestClient(create_app(Service(host, engine))) as client:
        askers = [threading.Thread(target=lambda n=n: found.append(ask(client, max_tokens=n))) for n in (3, 80)]
        for asker in askers:
            asker.start()
        wait_until(lambda: len(programs.asked()) == 2)
        engine.drain()
        assert ask(client).json()["error"]["code"] == "shutting_down"
        wait_until(lambda: engine.num_open == 1)
        engine.close()
        for asker in askers:
            asker.join()
    statuses = [(response.status_code, response.json().get("error", {}).get("code")) for response in found]
    assert sorted(statuses) == [(200, None), (503, "shutting_down")]  # either asker's thread may be first to say so
    wait_until(lambda: any("left" in entry for entry in programs.log()))


@pytest.fixture
def versions(
    publish: Publish, registered: Callable[..., RegisteredVersion], rehearse: Rehearse, tmp_path: Path
) -> list[tuple[RegisteredVersion, Path]]:
    """Three versions of the line with different weights."""
    made = []
    for seed in (1, 2, 3):
        artifact = publish(tmp_path / f"model-{seed}", seed)
        made.append((registered(artifact, str(seed)), artifact.path))
        rehearse(*made[-1])
    return made


def test_a_swap_under_load_fails_no_request_and_the_old_program_ends_last(
    registry: Any, versions: Any, settings: RunnerSettings
) -> None:
    host, before = Host(["tiny"]), set(children())
    registry.promote(*versions[0])
    with Engine() as engine, TestClient(create_app(Service(host, engine))) as client:
        follower = Follower(host.first, registry, lambda version: None, settings)
        follower.check()
        texts: dict[str, set[str]] = {f"tiny@{number}": set() for number in (1, 2, 3)}
        statuses: Counter[int] = Counter()
        is_over = threading.Event()

        def ask_until_over() -> None:
            while not is_over.is_set():
                response = ask(client, max_tokens=12, temperature=0)
                statuses[response.status_code] += 1
                texts[response.headers["x-tidemill-version"]].add(response.json()["choices"][0]["text"])

        askers = [threading.Thread(target=ask_until_over) for _ in range(4)]
        for asker in askers:
            asker.start()
        for place in (1, 2):
            is_over.wait(0.3)
            registry.promote(*versions[place])
            follower.check()
        is_over.wait(0.3)
        assert client.get("/ready").json()["model"]["backend"] == settings.backend
        is_over.set()
        for asker in askers:
            asker.join()
        # The champion's and the one before; that of the first version ended with its last answer.
        wait_until(lambda: len(set(children()) - before) == 2)
    assert statuses.keys() == {200} and statuses[200] > 8
    assert all(len(said) == 1 for said in texts.values()) and len(set.union(*texts.values())) == 3


def children() -> list[psutil.Process]:
    """The programs that this process has started."""
    return [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


def test_a_trial_times_a_program_by_the_clock_on_the_wall(engine: Engine, play: Play) -> None:
    slow = play(delay=0.05)
    job = Job(slow, slow.encode_prompt("The"), max_tokens=4, sampling=Sampling(temperature=0.0))
    answer = engine.submit(job, lambda event: None)
    wait_until(lambda: answer.times.ended > 0)
    seen = Answered.of("user", answer, "length")
    assert seen.each is not None and 0.04 < seen.each < 1
