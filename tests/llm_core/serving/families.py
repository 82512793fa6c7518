"""Tiny models of every kind behind the real routes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import BaseModel

from llm_core.artifact import Artifact
from llm_core.models.transfer import import_model
from llm_core.serving.app import Service, create_app
from llm_core.serving.engine import Engine
from llm_core.serving.hosting import Host
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.registry import RegisteredVersion

FolderOf = Callable[[str], Path]
Loaded = Callable[[str], LoadedModel]


@pytest.fixture(scope="session")
def loaded(folder_of: FolderOf, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Loads a model of a kind as the server does: verified, from an artifact."""
    models: dict[str, LoadedModel] = {}

    def load(kind: str) -> LoadedModel:
        if kind not in models:
            artifact = import_model(str(folder_of(kind)), tmp_path_factory.mktemp("served") / kind)
            models[kind] = load_artifact(artifact, kind)
        return models[kind]

    return load


def load_artifact(artifact: Artifact, line: str) -> LoadedModel:
    return LoadedModel.load(RegisteredVersion(line, "1", artifact.digest, artifact.key), artifact.path)


@pytest.fixture
def serving(loaded: Loaded) -> Iterator[Callable[..., TestClient]]:
    """Clients of servers with a line for each kind of model."""
    engines: list[Engine] = []

    def serve(*kinds: str | LoadedModel, indexes: Path | None = None) -> TestClient:
        models = [loaded(kind) if isinstance(kind, str) else kind for kind in kinds]
        host = Host([model.version.line for model in models])
        for model in models:
            host.lines[model.version.line].install(model)
        engines.append(Engine().__enter__())
        return TestClient(create_app(Service(host, engines[-1], indexes=indexes)), raise_server_exceptions=False)

    yield serve
    for engine in engines:
        engine.close()


def fits(response: Any, described: type[BaseModel]) -> Any:
    """The reply, after a look that the API's document describes it to the letter."""
    assert response.status_code == 200, response.text
    body = response.json()
    assert described.model_validate(body).model_dump() == body
    return body


def refusal(response: Any) -> tuple[int, str, str | None, str]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"], error["message"]
