from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import openai
import pytest
import torch

from llm_core.artifact import Artifact, Draft
from llm_core.config import Model
from llm_core.models import build, save_pretrained
from llm_core.serving.keys import Limits, create_key, revoke_key
from llm_core.serving.server import OpenToOthers, PortTaken, open_listener, require_loopback
from llm_core.tokenizer import Tokenizer

# Large enough that an answer of 2,000 tokens takes seconds.
SLOW = Model(num_layers=8, width=256, num_heads=4, num_kv_heads=4, mlp_width=512, context=4096)
PROGRAM = """
import sys
from pathlib import Path
from llm_core.serving.hosting import Host
from llm_core.serving.registry import FolderRegistry
from llm_core.serving.server import serve
assert "mlflow" not in sys.modules
serve(Host(["tiny"]), FolderRegistry(Path(sys.argv[1])), lambda version: None, port=int(sys.argv[2]),
      drain_seconds=float(sys.argv[3]), keys=Path(sys.argv[4]) if len(sys.argv) > 4 else None)
"""


def test_a_taken_port_is_named_with_the_option_that_changes_it() -> None:
    with open_listener("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"port {port} on 127\.0\.0\.1 is taken .* --port"):
            open_listener("127.0.0.1", port)


def test_a_host_that_is_not_ours_is_named() -> None:
    with pytest.raises(PortTaken, match=r"192\.0\.2\.1 cannot be opened .* --host"):
        open_listener("192.0.2.1", 0)


def test_only_this_machine_reaches_a_loopback_address() -> None:
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        require_loopback(host)
    for host in ("0.0.0.0", "::", "192.168.0.1", "localhost.example.com", ""):
        with pytest.raises(OpenToOthers, match="--keys FILE"):
            require_loopback(host)


@pytest.fixture(scope="module")
def slow_artifact(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model whose greedy answers never end by themselves: some other token's logit is above the end's, which is 0."""
    model: Any = build(SLOW, tokenizer.vocab_size, tokenizer.end_id, 1)
    torch.nn.init.zeros_(model.lm_head.weight[tokenizer.end_id])
    with Draft(tmp_path_factory.mktemp("slow") / "train", kind="model", stage="train") as out:
        save_pretrained(model, out.path)
        tokenizer.save(out.path)
        return out.publish({})


@contextmanager
def server(
    artifact: Artifact, drain_seconds: float = 60.0, keys: Path | None = None, stderr: IO[bytes] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server process on a free port, ready to answer; killed in the end if a test left it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", PROGRAM, str(artifact.path), str(port), str(drain_seconds)]
    command += [str(keys)] if keys else []
    process, url = subprocess.Popen(command, stderr=stderr), f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: is_ready(url), seconds=60)
        yield process, url
    finally:
        process.kill()
        process.wait()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").status_code == 200
    except httpx.TransportError:
        return False


def wait_until(is_true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, f"still not so after {seconds} seconds"
        time.sleep(0.05)


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.mark.e2e
def test_the_official_client_completes_chats_and_streams(artifact: Artifact) -> None:
    with server(artifact) as (process, url):
        client = client_of(url)
        name = client.models.list().data[0].id
        whole = client.completions.create(model=name, prompt="The", max_tokens=20, seed=5)
        pieces = list(client.completions.create(model=name, prompt="The", max_tokens=20, seed=5, stream=True))
        assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
        assert whole.system_fingerprint == f"tiny@{artifact.digest[:12]}"

        ask = {"model": name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 10, "seed": 5}
        answer = client.chat.completions.create(**ask)
        stream = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
        said = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        assert said == answer.choices[0].message.content
        assert stream[-1].usage.total_tokens == answer.usage.total_tokens
        with pytest.raises(openai.BadRequestError, match="does not support tools"):
            client.chat.completions.create(**ask, tools=[{"type": "function", "function": {"name": "f"}}])
        process.terminate()
        assert process.wait(timeout=20) == 0


@pytest.mark.e2e
def test_the_official_client_is_let_in_with_a_key_and_logged_without_its_words(
    artifact: Artifact, tmp_path: Path
) -> None:
    keys, log = tmp_path / "keys.json", tmp_path / "log"
    record, key = create_key(keys, "ci", limits=Limits(requests_per_minute=3))
    ask = {"model": "tiny", "prompt": "Unspeakable", "max_tokens": 3}
    with log.open("wb") as stderr, server(artifact, keys=keys, stderr=stderr) as (process, url):
        with pytest.raises(openai.AuthenticationError, match="not known here"):
            client_of(url).completions.create(**ask)
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
        raw = client.completions.with_raw_response.create(**ask, extra_headers={"x-request-id": "mine-1"})
        assert raw.headers["x-ratelimit-remaining-requests"] == "2" and raw.headers["x-request-id"] == "mine-1"
        assert len(list(client.completions.create(**ask, stream=True))) > 0
        with pytest.raises(openai.RateLimitError, match="3 requests a minute"):
            for _ in range(2):
                client.completions.create(**ask)
        revoke_key(keys, "ci")
        with pytest.raises(openai.AuthenticationError, match="is revoked"):
            client.completions.create(**ask)
        process.terminate()
        assert process.wait(timeout=20) == 0
    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert [line["status"] for line in lines if line["path"] == "/v1/completions"] == [401, 200, 200, 200, 429, 401]
    assert [line["key"] for line in lines if line["request_id"] == "mine-1"] == [record.id]
    assert "Unspeakable" not in text and key.split("_")[2] not in text and "uvicorn.access" not in text


@pytest.mark.e2e
def test_sigterm_finishes_what_runs_refuses_what_is_new_and_exits_0(slow_artifact: Artifact) -> None:
    with server(slow_artifact) as (process, url):
        client = client_of(url)
        stream = client.completions.create(model="tiny", prompt="The", max_tokens=150, temperature=0, stream=True)
        next(stream)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{url}/ready").json()["status"] == "draining", seconds=5)
        with pytest.raises(openai.InternalServerError, match="shutting down") as refused:
            client.completions.create(model="tiny", prompt="The")
        assert refused.value.status_code == 503 and refused.value.response.headers["retry-after"] == "2"
        *_, last = stream
        assert last.choices[0].finish_reason == "length"
        assert process.wait(timeout=60) == 0


@pytest.mark.e2e
def test_sigterm_lets_work_beside_the_engine_finish(slow_artifact: Artifact) -> None:
    with server(slow_artifact) as (process, url), ThreadPoolExecutor() as pool:
        texts = ["The state of our union is strong. " * 30] * 60
        body = {"model": "tiny", "input": texts}
        asking = pool.submit(httpx.post, f"{url}/v1/embeddings", json=body, timeout=60)
        wait_until(lambda: "tidemill_num_tasks_open 1.0" in httpx.get(f"{url}/metrics").text, seconds=10)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{url}/ready").json()["status"] == "draining", seconds=5)
        assert httpx.post(f"{url}/v1/embeddings", json={**body, "input": "The"}).status_code == 503
        assert len(asking.result().json()["data"]) == len(texts)
        assert process.wait(timeout=20) == 0


@pytest.mark.e2e
def test_an_answer_beyond_the_drain_time_is_told_and_the_exit_is_0(slow_artifact: Artifact) -> None:
    with server(slow_artifact, drain_seconds=0.5) as (process, url):
        ask = {"model": "tiny", "prompt": "The", "max_tokens": 4000, "temperature": 0}
        stream = client_of(url).completions.create(**ask, stream=True)
        next(stream)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="shut down before the answer was complete"):
            list(stream)
        assert process.wait(timeout=20) == 0


@pytest.mark.e2e
def test_a_client_that_hangs_up_frees_a_running_server(slow_artifact: Artifact) -> None:
    with server(slow_artifact) as (process, url):
        body = {"model": "tiny", "prompt": "The", "max_tokens": 4000, "temperature": 0}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/completions", json=body, timeout=0.5)
        with httpx.stream("POST", f"{url}/v1/completions", json={**body, "stream": True}) as response:
            next(response.iter_bytes())
        # Neither answer holds the server up: with nothing running it ends at once.
        process.terminate()
        assert process.wait(timeout=3) == 0
