"""The model that a name stands for: a folder, a registered version or a line's champion, verified as a server does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm_core.artifact import Artifact, ArtifactError
from llm_core.models import load_pretrained
from llm_core.pipeline.codec import Codec
from llm_core.serving import golden
from llm_core.serving.registry import (
    ARTIFACT_TAG,
    KEY_TAG,
    FolderRegistry,
    MlflowRegistry,
    RegisteredVersion,
    RegistryError,
)
from tasks import champions
from tasks.ledger import Ledger
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.tracking import Tracker


@dataclass(frozen=True)
class Fetched:
    """A verified model folder."""

    name: str
    """LINE@VERSION; of a folder its name and the start of its digest."""
    digest: str
    folder: Path


def fetch(name: str) -> Fetched:
    """The model of a FOLDER, LINE@VERSION or LINE, every file checked against its manifest.

    A registered version must be the one that the ledger knows, a line's the ledger's champion, and say here what it
    said when it was registered (GoldenMismatch).
    """
    if Path(name).is_dir():
        registry = FolderRegistry(Path(name))
        version = registry.champion(Path(name).resolve().name)
        assert version is not None
        return _verified(version, registry.fetch(version))
    if "/" in name:
        raise ValueError(f"{name}: no such folder; give a model folder, LINE@VERSION or LINE")
    from tasks.services import mlflow_store, prepare_mlflow, tracking_uri

    ws = Workspace.here()
    uri = tracking_uri(ws.home)
    if uri == mlflow_store(ws.home):  # one elsewhere is not ours to make
        prepare_mlflow(ws.home)
    mlflow, ledger = MlflowRegistry(uri, cache=ws.home / "served"), Ledger(ws.home)
    version = _numbered(ws, ledger, name) if "@" in name else _champion(mlflow, ledger, name)
    return _verified(version, mlflow.fetch(version))


def _champion(registry: MlflowRegistry, ledger: Ledger, line: str) -> RegisteredVersion:
    version = registry.champion(line)
    if version is None:
        raise RegistryError(f"{line}: neither a folder nor a line with a champion; tidemill models lists what there is")
    champions.admit(ledger, version)
    return version


def _numbered(ws: Workspace, ledger: Ledger, name: str) -> RegisteredVersion:
    line, _, number = name.rpartition("@")
    if not line or not number.isdigit():
        raise ValueError(f"{name}: write a version as LINE@VERSION, for example demo@3")
    from tasks.tracking import Tracker

    tracker: Tracker = Tracker(ws)
    found = tracker.version(line, int(number))
    if missing := [tag for tag in (ARTIFACT_TAG, KEY_TAG) if not found.tags.get(tag)]:
        raise RegistryError(f"{name}: registered without the tag {missing[0]}; register it with tidemill run")
    version = RegisteredVersion(line, number, found.tags[ARTIFACT_TAG], found.tags[KEY_TAG], found.tags)
    champions.admit_registered(ledger, version)
    return version


def _verified(version: RegisteredVersion, folder: Path) -> Fetched:
    artifact = Artifact.open(folder, "model")
    if artifact.digest != version.artifact:
        raise ArtifactError(f"{folder}: digest {artifact.digest} is not {version.artifact}, known as {version.name}")
    if tag := version.tags.get(golden.TAG):
        golden.Golden.from_tag(tag).check(load_pretrained(folder), Codec(folder))
    return Fetched(version.name, artifact.digest, folder)
