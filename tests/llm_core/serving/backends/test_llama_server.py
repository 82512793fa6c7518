"""The real llama-server, where TIDEMILL_LLAMA_SERVER or the PATH has one: it writes what our own generation writes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from llm_core.artifact import Artifact, Draft
from llm_core.config import Model
from llm_core.generate import generate
from llm_core.models import build, load_pretrained, save_pretrained
from llm_core.models.gguf_export import write_gguf
from llm_core.models.transfer import export_gguf
from llm_core.serving import backends
from llm_core.serving.app import Service, create_app
from llm_core.serving.backends import llama_cpp
from llm_core.serving.engine import Engine
from llm_core.serving.hosting import Host
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.registry import RegisteredVersion
from llm_core.serving.settings import RunnerSettings
from llm_core.tokenizer import Tokenizer
from tasks.processes import free_port
from tests.llm_core.serving import fake_backends
from tests.llm_core.serving.backends.test_api import assert_alike
from tests.llm_core.serving.test_app import ask, streamed

pytest.importorskip("gguf")
pytestmark = pytest.mark.e2e

try:
    PROGRAM = llama_cpp.find()
except backends.NotInstalled as missing:
    pytest.skip(f"{missing} (set TIDEMILL_LLAMA_SERVER to run these)", allow_module_level=True)

SETTINGS = RunnerSettings(backend="llama.cpp", max_running=4)
PROMPTS = ("The state of our union", "One, two and three.", "Zoë 😀")
VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "tied": {"tie_embeddings": True},
    "qwen2": {"attention_bias": True},
    "qwen3": {"qk_norm": True},
}
GPT2_TEXT = "I'LL say: don't\n\n  a  b\tc\r\nnaïve—“quotes”… x² 北京 😀 12 3 $4.56   "


@pytest.fixture(scope="module", params=VARIANTS)
def artifact(
    request: pytest.FixtureRequest, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    """A random model of each variant, large enough in its numbers that its likeliest tokens are clear."""
    shape = {"num_layers": 2, "width": 64, "num_heads": 4, "num_kv_heads": 2, "mlp_width": 128, "context": 96}
    network = build(Model(**shape, **VARIANTS[request.param]), tokenizer.vocab_size, tokenizer.end_id, 1)
    for weights in network.parameters():
        if weights.dim() > 1:
            weights.data.mul_(4)
    with Draft(tmp_path_factory.mktemp("variant") / "train", kind="model", stage="train") as out:
        save_pretrained(network, out.path)
        tokenizer.save(out.path)
        return out.publish({})


@pytest.fixture(scope="module")
def both(artifact: Artifact) -> Iterator[tuple[LoadedModel, LoadedModel]]:
    """The model in our own engine and in llama-server."""
    version = RegisteredVersion("tiny", "1", artifact=artifact.digest, key=artifact.key)
    theirs = LoadedModel.load(version, artifact.path, SETTINGS)
    yield LoadedModel.load(version, artifact.path), theirs
    theirs.runner.close()


@contextmanager
def serving(model: LoadedModel) -> Iterator[TestClient]:
    host = Host(["tiny"])
    host.first.install(model)
    with Engine() as engine, TestClient(create_app(Service(host, engine))) as client:
        yield client


def test_greedy_tokens_are_those_of_generate(both: tuple[LoadedModel, LoadedModel], artifact: Artifact) -> None:
    ours, theirs = both
    network = load_pretrained(artifact.path)
    with serving(theirs) as client:
        for prompt in PROMPTS:
            ids = ours.encode_prompt(prompt)
            written = list(generate(network, ids, max_tokens=60, temperature=0.0))
            choice = ask(client, prompt=list(ids), max_tokens=60, temperature=0, ignore_eos=True, logprobs=0).json()[
                "choices"
            ][0]
            assert choice["text"] == ours.tokenizer.decode(written)
            assert len(choice["logprobs"]["tokens"]) == len(written)


@pytest.mark.parametrize(
    "values",
    [
        {"logprobs": 3, "n": 2},
        {"echo": True, "logprobs": 2},
        {"echo": True, "logprobs": 1, "max_tokens": 0},
        {"min_tokens": 25},
        {"stop": ["e", "x"]},
        {"repetition_penalty": 1.3},
        {"logit_bias": {"0": 100}, "min_tokens": 4},
        {"logit_bias": {"0": 100}, "ignore_eos": True},
    ],
    ids=str,
)
def test_answers_are_those_of_our_own_engine(both: tuple[LoadedModel, LoadedModel], values: dict[str, Any]) -> None:
    bodies = []
    for model in both:
        with serving(model) as client:
            bodies.append(ask(client, **{"max_tokens": 30, "temperature": 0, **values}).json())
    assert_alike(*bodies)


def test_seeds_decide_and_streams_are_whole(both: tuple[LoadedModel, LoadedModel]) -> None:
    with serving(both[1]) as client:
        first, again, other = (ask(client, n=3, seed=seed, max_tokens=20).json()["choices"] for seed in (5, 5, 6))
        assert first == again != other and len({choice["text"] for choice in first}) == 3
        chunks = streamed(ask(client, seed=5, max_tokens=20, stream=True).text)
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == first[0]["text"]


def test_the_fake_speaks_as_the_real_one_does(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.json").write_text(json.dumps({"ids": [20, 21, 22]}))
    monkeypatch.setenv(fake_backends.FOLDER_VARIABLE, str(tmp_path))
    write_gguf(load_pretrained(artifact.path), None, tmp_path / "model.gguf")
    body = {
        "prompt": [0, 20],
        "n_predict": 2,
        "n_probs": 2,
        "temperature": 0,
        "seed": 1,
        "logit_bias": [],
        "stream": True,
    }
    fake = ["python", fake_backends.__file__, "llama-server"]
    shapes = []
    for command in ([PROGRAM], fake):
        with running(command, tmp_path / "model.gguf", "--alias", "tiny") as client:
            with client.stream("POST", "/completion", json=body) as response:
                lines = [line for line in response.read().decode().split("\n") if line.startswith("data: {")]
            shapes.append([shape(json.loads(line.removeprefix("data: "))) for line in lines])
            assert client.post("/completion", json=body, headers={"authorization": "Bearer x"}).status_code == 401
    real, ours = shapes
    assert len(real) == len(ours) == 3
    assert all(theirs.items() >= fake.items() for theirs, fake in zip(real, ours, strict=True))


def shape(event: dict[str, Any]) -> dict[str, str]:
    """Keys and kinds of what an event says, those of its probabilities included."""
    places = {
        f"probabilities.{key}": value
        for told in event.get("completion_probabilities", ())
        for key, value in told.items()
    }
    return {key: type(value).__name__ for key, value in {**event, **places}.items()}


def test_text_without_long_numbers_is_cut_as_ours_is(artifact: Artifact, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (warning,) = export_gguf(artifact.path, tmp_path / "model.gguf")["warnings"]
    assert "three digits and more" in warning
    texts = [GPT2_TEXT, *re.split(r"(?<=\.)", "The state of our union is strong. It's 12 o'clock. Don't! 1 2 3.")]
    with running([PROGRAM], tmp_path / "model.gguf") as client:

        def theirs(text: str) -> list[int]:
            return client.post("/tokenize", json={"content": text, "add_special": False}).json()["tokens"]

        assert [theirs(text) for text in texts] == [tokenizer.encode(text) for text in texts]
        with_begin = client.post("/tokenize", json={"content": "The", "add_special": True}).json()["tokens"]
        assert with_begin == [tokenizer.end_id, *tokenizer.encode("The")]


@contextmanager
def running(command: list[str], model: Path, *options: str) -> Iterator[httpx.Client]:
    """A server on the model, ready; ended in the end."""
    port, key = free_port(), "secret"
    listen = ["-m", str(model), "--host", "127.0.0.1", "--port", str(port), "--parallel", "1", "--threads", "1"]
    environment = {**os.environ, "LLAMA_API_KEY": key}
    process = subprocess.Popen([*command, *listen, *options], env=environment, stderr=subprocess.DEVNULL)
    try:
        headers = {"authorization": f"Bearer {key}"}
        settings: dict[str, Any] = {"trust_env": False, "timeout": 30}
        settings["limits"] = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, **settings) as client:
            deadline = time.monotonic() + 60
            while not is_well(client):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            yield client
    finally:
        process.terminate()
        process.wait()


def is_well(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False
