"""Where the server learns which version is champion, and where it gets that version's files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from llm_core.artifact import Artifact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER = "champion", "challenger"
ARTIFACT_TAG = "tidemill.artifact"
KEY_TAG = "tidemill.key"
CARD = "tidemill.card"
"""The model card among a version's tags: in the registry it is the description, written after the folder was sealed."""
CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class RegistryError(ValueError):
    """A version that the registry holds but that cannot be used; the message says what it lacks."""


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of a line, as the registry describes it."""

    line: str
    version: str
    artifact: str
    """Digest of the model artifact; the fetched folder must have exactly this one."""
    key: str
    """Key of the model: sha256 of everything that its weights follow from."""
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)
    run_id: str | None = field(default=None, compare=False)
    """The MLflow run that made it."""

    @property
    def name(self) -> str:
        """LINE@VERSION, the way every response names it."""
        return f"{self.line}@{self.version}"


class Registry(Protocol):
    """What the server asks of a registry; all calls may fail or take long, serving never waits for them."""

    def champion(self, line: str) -> RegisteredVersion | None:
        """The version that should be served now, None as long as there is none."""

    def challenger(self, line: str) -> RegisteredVersion | None:
        """The version that should be tried beside it, mostly None."""

    def fetch(self, version: RegisteredVersion) -> Path:
        """A local folder with the version's model artifact; the caller verifies it."""


class FolderRegistry:
    """Serves one local model artifact, without any registry; its version is the start of its digest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def champion(self, line: str) -> RegisteredVersion | None:
        artifact = Artifact.peek(self._folder, "model")
        return RegisteredVersion(line, version=artifact.digest[:12], artifact=artifact.digest, key=artifact.key)

    def challenger(self, line: str) -> RegisteredVersion | None:
        return None

    def fetch(self, version: RegisteredVersion) -> Path:
        return self._folder


class MlflowRegistry:
    """MLflow's model registry: the champion is an alias, the model folder lies in the logged model's artifacts."""

    def __init__(self, tracking_uri: str, cache: Path) -> None:
        self._tracking_uri = tracking_uri
        self._cache = cache
        self._client: MlflowClient | None = None

    def champion(self, line: str) -> RegisteredVersion | None:
        return self._aliased(line, CHAMPION)

    def challenger(self, line: str) -> RegisteredVersion | None:
        return self._aliased(line, CHALLENGER)

    def _aliased(self, line: str, alias: str) -> RegisteredVersion | None:
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode

        try:
            return _registered(self._connected().get_model_version_by_alias(line, alias))
        except MlflowException as problem:
            # MLflow has no other way to say "no such line" (the first) or "no such alias" (the second).
            if problem.error_code in map(ErrorCode.Name, (RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE)):
                return None
            raise

    def fetch(self, version: RegisteredVersion) -> Path:
        """The model folder in our cache, downloaded once per digest; a damaged copy is downloaded again."""
        from mlflow.artifacts import download_artifacts

        place = self._cache / version.artifact
        if place.exists() and _is_whole(place):
            return place
        source = self._connected().get_model_version_download_uri(version.line, version.version)
        self._cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._cache, prefix=".download-") as draft:
            got = download_artifacts(
                artifact_uri=f"{source}/artifacts/model", dst_path=draft, tracking_uri=self._tracking_uri
            )
            shutil.rmtree(place, ignore_errors=True)
            os.rename(got, place)
        return place

    def _connected(self) -> MlflowClient:
        """The client, made at first use: importing MLflow takes seconds and its store may be away at the start."""
        if self._client is None:
            # MLflow's own patience is minutes; whoever follows the registry asks again by itself.
            for name, value in CLIENT_SETTINGS.items():
                os.environ.setdefault(name, value)
            from mlflow import MlflowClient

            self._client = MlflowClient(self._tracking_uri, registry_uri=self._tracking_uri)
        return self._client


def _registered(found: ModelVersion) -> RegisteredVersion:
    missing = [tag for tag in (ARTIFACT_TAG, KEY_TAG) if not found.tags.get(tag)]
    if missing:
        raise RegistryError(
            f"{found.name}@{found.version}: registered without the tag {missing[0]}; register it with tidemill run"
        )
    return RegisteredVersion(
        line=found.name,
        version=str(found.version),
        artifact=found.tags[ARTIFACT_TAG],
        key=found.tags[KEY_TAG],
        tags={**found.tags, **({CARD: found.description} if found.description else {})},
        run_id=found.run_id or None,
    )


def _is_whole(folder: Path) -> bool:
    try:
        Artifact.open(folder, "model")
    except ValueError:
        return False
    return True
