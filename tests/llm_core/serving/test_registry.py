from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llm_core.artifact import Artifact, ArtifactError
from llm_core.serving.registry import ARTIFACT_TAG, KEY_TAG, FolderRegistry, MlflowRegistry, RegistryError

Publish = Callable[[Path, int], Artifact]


def test_a_folder_is_its_own_champion_named_by_its_digest(artifact: Artifact) -> None:
    registry = FolderRegistry(artifact.path)
    champion = registry.champion("tiny")
    assert champion is not None
    assert champion.name == f"tiny@{artifact.digest[:12]}" and champion.artifact == artifact.digest
    assert registry.fetch(champion) == artifact.path


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no artifact here"):
        FolderRegistry(tmp_path).champion("tiny")


@dataclass(frozen=True)
class Store:
    """One MLflow database for all tests of this file: making one takes seconds."""

    uri: str
    client: Any

    def register(self, line: str, artifact: Artifact, source: Path, tags: dict[str, str]) -> None:
        """A version whose source is a folder laid out like an MLflow model."""
        shutil.copytree(artifact.path, source / "artifacts" / "model")
        self.client.create_registered_model(line)
        run = self.client.create_run("0").info.run_id
        self.client.create_model_version(line, source.as_uri(), run, tags=tags)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    return Store(uri, MlflowClient(uri, registry_uri=uri))


@pytest.mark.e2e  # a new MLflow database takes seconds
def test_mlflows_champion_is_found_fetched_once_and_mended(artifact: Artifact, store: Store, tmp_path: Path) -> None:
    registry = MlflowRegistry(store.uri, cache=tmp_path / "cache")
    assert registry.champion("tiny") is None  # no such line
    store.register("tiny", artifact, tmp_path / "logged", {ARTIFACT_TAG: artifact.digest, KEY_TAG: artifact.key})
    assert registry.champion("tiny") is None  # no such alias
    store.client.set_registered_model_alias("tiny", "champion", "1")
    champion = registry.champion("tiny")
    assert champion is not None and (champion.name, champion.artifact) == ("tiny@1", artifact.digest)
    assert champion.run_id == store.client.get_model_version("tiny", "1").run_id

    folder = registry.fetch(champion)
    assert Artifact.open(folder, "model").digest == artifact.digest
    (folder / "config.json").write_text("{}")  # damaged in our cache
    assert Artifact.open(registry.fetch(champion), "model").digest == artifact.digest
    (tmp_path / "logged").rename(tmp_path / "away")
    assert registry.fetch(champion) == folder


@pytest.mark.e2e
def test_a_version_without_its_digest_is_refused(artifact: Artifact, store: Store, tmp_path: Path) -> None:
    store.register("untagged", artifact, tmp_path / "logged", {KEY_TAG: "k"})
    store.client.set_registered_model_alias("untagged", "champion", "1")
    with pytest.raises(RegistryError, match=r"untagged@1: registered without the tag tidemill\.artifact"):
        MlflowRegistry(store.uri, cache=tmp_path / "cache").champion("untagged")


def test_an_mlflow_server_that_is_away_is_an_error_within_seconds(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        registry = MlflowRegistry(f"http://127.0.0.1:{unused.getsockname()[1]}", cache=tmp_path)
        began = time.monotonic()
        with pytest.raises(Exception, match="Max retries exceeded|Connection refused"):
            registry.champion("tiny")
    assert time.monotonic() - began < 15
