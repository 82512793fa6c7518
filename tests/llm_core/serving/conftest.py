"""A tiny random model, a scripted one that says what a test wants, an engine, and a registry that tests can change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from llm_core.artifact import Artifact, Draft
from llm_core.config import Model
from llm_core.models import build, save_pretrained
from llm_core.serving.alone import AloneRunner
from llm_core.serving.engine import Engine
from llm_core.serving.hosting import Host
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.registry import RegisteredVersion
from llm_core.tokenizer import Tokenizer
from tests.llm_core.pipeline.conftest import folder_of
from tests.llm_core.serving.families import loaded, serving

__all__ = ["folder_of", "loaded", "serving"]

LINE = "tiny"
TEXTS = ["The state of our union is strong, and fellow citizens know it.", "One, two and three."] * 8
SHAPE = Model(num_layers=1, width=16, num_heads=2, num_kv_heads=1, mlp_width=32, context=96)

Publish = Callable[[Path, int], Artifact]
Script = Callable[..., LoadedModel]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, vocab_size=320)


@pytest.fixture(scope="session")
def publish(tokenizer: Tokenizer) -> Publish:
    """Make a model artifact in a folder from a seed."""

    def make(folder: Path, seed: int) -> Artifact:
        with Draft(folder, kind="model", stage="train") as out:
            save_pretrained(build(SHAPE, tokenizer.vocab_size, tokenizer.end_id, seed), out.path)
            tokenizer.save(out.path)
            return out.publish({})

    return make


@pytest.fixture(scope="session")
def artifact(publish: Publish, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return publish(tmp_path_factory.mktemp("models") / "train", 1)


@pytest.fixture(scope="session")
def registered() -> Callable[[Artifact, str], RegisteredVersion]:
    return lambda artifact, version: RegisteredVersion(LINE, version, artifact=artifact.digest, key=artifact.key)


@pytest.fixture(scope="session")
def model(artifact: Artifact, registered: Callable[[Artifact, str], RegisteredVersion]) -> LoadedModel:
    return LoadedModel.load(registered(artifact, "1"), artifact.path)


class Scripted(nn.Module):
    """A model that writes given ids, one a call; `gate` hands out permission for each call."""

    task = "causal_lm"

    def __init__(self, ids: Sequence[int], vocab_size: int, gate: threading.Semaphore | None) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(context=96, vocab_size=vocab_size)
        self.ids, self.gate, self.num_calls = list(ids), gate, 0

    def new_cache(self, batch_size: int, max_tokens: int) -> SimpleNamespace:
        return SimpleNamespace(num_calls=0)

    def forward(self, input_ids: Tensor, cache: SimpleNamespace) -> SimpleNamespace:
        if self.gate is not None:
            assert self.gate.acquire(timeout=10)
        self.num_calls += 1
        logits = torch.zeros(1, input_ids.shape[1], self.config.vocab_size)
        logits[0, -1, self.ids[cache.num_calls % len(self.ids)]] = 50.0
        cache.num_calls += 1
        return SimpleNamespace(logits=logits)


@pytest.fixture
def script(model: LoadedModel) -> Script:
    """A loaded model that writes a text for ever, or `ends` after it."""

    def make(
        text: str,
        ends: bool = False,
        gate: threading.Semaphore | None = None,
        version: str = "1",
        max_running: int = 32,
    ) -> LoadedModel:
        ids = model.tokenizer.encode(text) + [model.tokenizer.end_id] * ends
        network = Scripted(ids, model.tokenizer.vocab_size, gate)
        return replace(
            model, network=network, version=replace(model.version, version=version), runner=AloneRunner(max_running)
        )

    return make


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine() as running:
        yield running


@pytest.fixture
def host(model: LoadedModel) -> Host:
    """One line, whose champion is the random model."""
    made = Host([LINE])
    made.first.install(model)
    return made


@dataclass
class MemoryRegistry:
    """A registry that holds what a test puts in; `error` makes it fail."""

    current: RegisteredVersion | None = None
    tried: RegisteredVersion | None = None
    folders: dict[str, Path] = field(default_factory=dict)
    error: Exception | None = None

    def champion(self, line: str) -> RegisteredVersion | None:
        if self.error is not None:
            raise self.error
        return self.current

    def challenger(self, line: str) -> RegisteredVersion | None:
        return self.tried

    def fetch(self, version: RegisteredVersion) -> Path:
        return self.folders[version.name]

    def promote(self, version: RegisteredVersion, folder: Path) -> None:
        self.current, self.folders[version.name] = version, folder

    def challenge(self, version: RegisteredVersion, folder: Path) -> None:
        self.tried, self.folders[version.name] = version, folder


@pytest.fixture
def registry() -> MemoryRegistry:
    return MemoryRegistry()
