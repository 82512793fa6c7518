"""Artifacts: a folder with a manifest, written whole or not at all, verified when read.

A stage gets a `Draft` to write into and gives back the `Artifact` that it publishes. The manifest is deterministic:
no time, no host, no run; who made it when is a record kept elsewhere under the artifact's digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from llm_core.config import Workers

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1


class ArtifactError(ValueError):
    """An artifact that is missing, damaged, tampered with or of the wrong kind; the message names the file."""


class Interrupted(Exception):
    """A stage was asked to stop, saved what it had, and goes on from there when run again."""


class Observer(Protocol):
    """Who watches a stage work. Observers never change what a stage makes."""

    def progress(self, done: int, total: int, unit: str) -> None:
        """Report that `done` of `total` units of work are finished."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Report measurements of one step."""


class Silent:
    """The observer that looks away."""

    def progress(self, done: int, total: int, unit: str) -> None:
        pass

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        pass


@dataclass(frozen=True)
class Artifact:
    """A published folder: its place, and what its manifest says."""

    path: Path
    kind: str
    stage: str
    key: str
    """sha256 of everything the content follows from: recipe slice, parents, code and circumstances."""
    digest: str
    """sha256 of the manifest: equal digests are equal bytes, made from equal inputs."""
    stats: Mapping[str, Any]
    parents: Mapping[str, str]
    recipe: Mapping[str, Any]
    code: str
    files: Mapping[str, Mapping[str, Any]]

    @classmethod
    def open(cls, path: Path, kind: str | None = None) -> Artifact:
        """Read and verify the artifact at `path`; every file's sha256 must be the manifest's."""
        artifact = cls.peek(path, kind)
        _verify(artifact)
        return artifact

    @classmethod
    def peek(cls, path: Path, kind: str | None = None) -> Artifact:
        """Read the manifest only, for inspection; never build upon a peeked artifact."""
        manifest = _read_manifest(path)
        if kind is not None and manifest["kind"] != kind:
            raise ArtifactError(f"{path}: is a {manifest['kind']} artifact, {kind} is needed here")
        fields = {
            name: manifest[name] for name in ("kind", "stage", "key", "stats", "parents", "recipe", "code", "files")
        }
        return cls(path=path, digest=_sha256(_canonical(manifest)), **fields)


@dataclass
class Draft:
    """Where a stage writes: a temporary sibling of the final folder, gone unless it is published."""

    target: Path
    kind: str
    stage: str
    parents: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    observer: Observer = field(default_factory=Silent)
    scratch: Path | None = None
    """A folder that survives a killed stage (checkpoints); named by the key, never part of the artifact."""
    memo: Path | None = None
    """Where finished parts are found again (llm_core/parts.py); never part of the artifact."""
    pins: Path | None = None
    """Folder of what the recipe pins by sha256 alone (tokenizers of registered models)."""
    starts: Path | None = None
    """Folder of the models that trainings start from, each under its digest."""
    refused: Path | None = None
    """Where `set_aside` puts what must not be built upon."""
    workers: Workers = Workers(kind="serial")
    """Who does the parts; never changes what they hold."""

    def __post_init__(self) -> None:
        self.path = self.target.parent / f".{self.target.name}.draft"

    def __enter__(self) -> Draft:
        try:
            shutil.rmtree(self.path, ignore_errors=True)  # what a killed run left
            self.path.mkdir(parents=True)
        except OSError as problem:
            raise ArtifactError(
                f"{self.path}: cannot be written ({problem.strerror}); check the folder's owner and space"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def publish(self, stats: Mapping[str, Any], circumstances: Mapping[str, Any] | None = None) -> Artifact:
        """Seal the folder and move it into place.

        `stats` are facts about the content; `circumstances` are what else fixed its bits (threads, CPU class,
        precision) and become part of the key.
        """
        return self._publish(self.target, stats, circumstances)

    def set_aside(self, stats: Mapping[str, Any]) -> None:
        """Seal the folder and move it to the refused ones, for people to look at; what is in place stays."""
        if self.refused is not None:
            self.refused.parent.mkdir(parents=True, exist_ok=True)
            self._publish(self.refused, stats, None)

    def _publish(self, target: Path, stats: Mapping[str, Any], circumstances: Mapping[str, Any] | None) -> Artifact:
        files = {name: _describe(self.path / name) for name in _names(self.path)}
        source = {"recipe": dict(self.recipe), "parents": dict(self.parents), "code": self.code, "stage": self.stage}
        manifest = {
            "format": MANIFEST_FORMAT,
            "kind": self.kind,
            "key": _sha256(_canonical({**source, "circumstances": dict(circumstances or {})})),
            "files": files,
            "stats": dict(stats),
            "circumstances": dict(circumstances or {}),
            **source,
        }
        with open(self.path / MANIFEST, "x", encoding="utf-8") as file:
            file.write(json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")
        _sync(self.path)
        _replace(self.path, target)
        return Artifact.open(target, self.kind)


def _read_manifest(path: Path) -> dict[str, Any]:
    place = path / MANIFEST
    try:
        manifest = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no artifact here ({MANIFEST} is missing); run the stage that makes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise ArtifactError(f"{place}: not a manifest ({problem}); remove {path} and run its stage again") from None
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if version != MANIFEST_FORMAT:
        raise ArtifactError(f"{place}: format {version!r}, this version reads {MANIFEST_FORMAT}; run the stage again")
    return manifest


def _verify(artifact: Artifact) -> None:
    present = set(_names(artifact.path)) - {MANIFEST}
    for name in sorted(present ^ set(artifact.files)):
        fact = "is not in the manifest" if name in present else "is missing"
        raise ArtifactError(f"{artifact.path / name}: {fact}; {_mend(artifact)}")
    for name, expected in artifact.files.items():
        if _describe(artifact.path / name) != dict(expected):
            raise ArtifactError(
                f"{artifact.path / name}: sha256 is not the manifest's, it was changed; {_mend(artifact)}"
            )


def _mend(artifact: Artifact) -> str:
    return f"remove {artifact.path} and run the {artifact.stage} stage again"


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def _describe(path: Path) -> dict[str, Any]:
    if path.is_symlink():
        raise ArtifactError(f"{path}: is a link; artifacts hold plain files")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _sync(folder: Path) -> None:
    """Flush every file and folder to disk, so that the rename cannot outrun the content."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replace(source: Path, target: Path) -> None:
    """Move a folder into place; an older one steps aside first and is removed last."""
    old = target.parent / f".{target.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(source, target)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    shutil.rmtree(old, ignore_errors=True)


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
