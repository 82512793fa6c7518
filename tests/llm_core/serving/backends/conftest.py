"""The programs that these tests install, which speak the engines' protocols and say what a test wants."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from llm_core.artifact import Artifact
from llm_core.generate import generate
from llm_core.models import load_pretrained
from llm_core.serving import backends
from llm_core.serving.golden import TEXT
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.registry import RegisteredVersion
from llm_core.serving.settings import Backend, RunnerSettings
from tests.llm_core.serving import fake_backends

pytest.importorskip("gguf")
PROMPTS = ("The", "One", TEXT)


@dataclass
class Programs:
    """The installed programs' scripts and logs, by model name."""

    folder: Path

    def say(self, name: str, **script: Any) -> None:
        """What the next server of this model says."""
        (self.folder / f"{name}.json").write_text(json.dumps(script))

    def log(self, name: str = "tiny@1") -> list[dict[str, Any]]:
        """What has happened in the servers of a model."""
        path = self.folder / f"{name}.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def asked(self, name: str = "tiny@1") -> list[dict[str, Any]]:
        """The bodies of its requests."""
        return [entry["asked"] for entry in self.log(name) if "asked" in entry]

    def starts(self, name: str = "tiny@1") -> list[dict[str, Any]]:
        """Arguments and process ids of its servers."""
        return [entry for entry in self.log(name) if "arguments" in entry]

    def kill(self, name: str = "tiny@1") -> None:
        """Kill its server."""
        psutil.Process(self.starts(name)[-1]["pid"]).kill()


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """`vllm` and `llama-server` on the PATH."""
    folder, scripts = tmp_path / "bin", tmp_path / "scripts"
    folder.mkdir()
    scripts.mkdir()
    for name in ("vllm", "llama-server"):
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{fake_backends.__file__}" {name} "$@"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv(fake_backends.FOLDER_VARIABLE, str(scripts))
    for variable in ("TIDEMILL_VLLM", "TIDEMILL_LLAMA_SERVER"):
        monkeypatch.delenv(variable, raising=False)
    return Programs(scripts)


@pytest.fixture(params=["vllm", "llama.cpp"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param


@pytest.fixture
def settings(backend: Backend, programs: Programs) -> RunnerSettings:
    return RunnerSettings(backend=backend, max_running=8, start_seconds=30)


Play = Callable[..., LoadedModel]


@pytest.fixture
def play(model: LoadedModel, artifact: Artifact, programs: Programs, settings: RunnerSettings) -> Iterator[Play]:
    """A model whose program follows a script, without the look at whether it computes what torch does."""
    started: list[backends.BackendRunner] = []

    def make(text: str = "a", ends: bool = False, version: str = "1", **script: Any) -> LoadedModel:
        ids = model.tokenizer.encode(text) + [model.tokenizer.end_id] * ends
        named = replace(model.version, version=version)
        offset = len(model.encode_prompt("The"))
        programs.say(named.name, **{"ids": ids, "offset": offset, "end_id": model.tokenizer.end_id, **script})
        network: Any = model.network
        runner = backends.start(named.name, artifact.path, network, settings, lambda: None)
        started.append(runner)
        return replace(model, version=named, runner=runner, backend=settings.backend)

    yield make
    for runner in started:
        runner.close()


Rehearse = Callable[[RegisteredVersion, Path], None]


@pytest.fixture
def rehearse(model: LoadedModel, programs: Programs) -> Rehearse:
    """Have a version's program say what the version's network says, greedily, behind a few prompts."""

    def make(version: RegisteredVersion, folder: Path) -> None:
        network = load_pretrained(folder)
        texts = [told_by(network, model.encode_prompt(prompt)) for prompt in PROMPTS]
        programs.say(version.name, texts=texts, end_id=model.tokenizer.end_id)

    return make


@torch.inference_mode()
def told_by(network: Any, prompt: Sequence[int]) -> list[Any]:
    """A prompt and its greedy continuation to the context's end, each place with its log-probabilities."""
    room = network.config.context - len(prompt)
    ids = [*prompt, *(generate(network, prompt, max_tokens=room, temperature=0.0) if room > 0 else ())]
    logprobs = network(torch.tensor([ids])).logits[0].log_softmax(-1)
    told: list[Any] = [[ids[0], 0.0, []]]
    for place in range(1, len(ids)):
        values, places = logprobs[place - 1].topk(20)
        top = list(zip(places.tolist(), values.tolist(), strict=True))
        told.append([ids[place], float(logprobs[place - 1, ids[place]]), top])
    return told


@pytest.fixture
def loaded(
    artifact: Artifact, registered: Callable[..., RegisteredVersion], rehearse: Rehearse, settings: RunnerSettings
) -> Iterator[LoadedModel]:
    """The random model as its backend serves it, loaded as a server does."""
    version = registered(artifact, "1")
    rehearse(version, artifact.path)
    model = LoadedModel.load(version, artifact.path, settings)
    yield model
    model.runner.close()
