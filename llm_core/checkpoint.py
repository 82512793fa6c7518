"""Checkpoints: safetensors and JSON in a folder each, written whole or not at all, verified when read.

``FOLDER/step-N/`` holds ``state.safetensors`` and ``checkpoint.json``. The identity in it says what the state belongs
to, so that a run never goes on from another recipe's, other data's or another CPU class's state.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

CHECKPOINT_FORMAT = 1
STATE, MANIFEST = "state.safetensors", "checkpoint.json"

log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint that must not be resumed; the message names the field that differs and what to do."""


class Damaged(ValueError):
    """A checkpoint whose bytes are not the ones that were written."""


@dataclass(frozen=True)
class Snapshot:
    """What was saved after `step` complete steps."""

    step: int
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """The last `keep` checkpoints of one run in `folder`."""

    folder: Path
    identity: Mapping[str, Any]
    """Nested JSON values that must be equal for a resume: recipe, data digests, circumstances."""
    keep: int

    def save(self, snapshot: Snapshot) -> None:
        """Write a checkpoint; after a kill at any moment it is there as a whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"step-{snapshot.step}"
        draft = self.folder / f".step-{snapshot.step}.draft"
        for leftover in (*self.folder.glob(".*.draft"), target):
            shutil.rmtree(leftover, ignore_errors=True)
        draft.mkdir()
        save_file(dict(snapshot.tensors), draft / STATE)
        manifest = {
            "format": CHECKPOINT_FORMAT,
            "step": snapshot.step,
            "identity": dict(self.identity),
            "values": dict(snapshot.values),
            "sha256": _file_sha256(draft / STATE),
        }
        sealed = {**manifest, "manifest_sha256": _sha256(manifest)}
        content = json.dumps(sealed, indent=1, sort_keys=True, allow_nan=False)
        (draft / MANIFEST).write_text(content + "\n", encoding="utf-8")
        for path in (draft / STATE, draft / MANIFEST, draft):
            _flush(path)
        os.rename(draft, target)
        _flush(self.folder)
        for step in self._steps()[self.keep :]:
            shutil.rmtree(self.folder / f"step-{step}")

    def load_latest(self) -> Snapshot | None:
        """The newest whole checkpoint, or None; damaged ones are logged and passed over.

        Raises CheckpointError when the checkpoint belongs to something else than `identity`.
        """
        for step in self._steps():
            path = self.folder / f"step-{step}"
            try:
                return self._read(path)
            except Damaged as problem:
                log.warning("%s: %s; going back to the checkpoint before it", path, problem)
        return None

    def clear(self) -> None:
        """Remove all checkpoints: the run is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _steps(self) -> list[int]:
        """Steps of the checkpoints that lie in the folder, newest first."""
        numbers = (path.name.removeprefix("step-") for path in self.folder.glob("step-*"))
        return sorted((int(number) for number in numbers if number.isdecimal()), reverse=True)

    def _read(self, path: Path) -> Snapshot:
        manifest = _read_manifest(path / MANIFEST)
        self._check_identity(path, manifest["identity"])
        try:
            if _file_sha256(path / STATE) != manifest["sha256"]:
                raise Damaged(f"the sha256 of {STATE} is not the manifest's")
            tensors = load_file(path / STATE)
        except (OSError, SafetensorError) as problem:
            raise Damaged(f"{STATE} cannot be read ({problem})") from None
        return Snapshot(step=manifest["step"], tensors=tensors, values=manifest["values"])

    def _check_identity(self, path: Path, found: Mapping[str, Any]) -> None:
        theirs, ours = dict(_flatten(found)), dict(_flatten(self.identity))
        for field in sorted(theirs.keys() | ours.keys()):
            if theirs.get(field) != ours.get(field):
                raise CheckpointError(
                    f"{path}: {field} is {theirs.get(field)!r} in the checkpoint and {ours.get(field)!r} now; "
                    f"go on as it was, or remove {self.folder} to train from the beginning"
                )


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        recorded = manifest.pop("manifest_sha256")
    except (OSError, ValueError, KeyError, AttributeError) as problem:
        raise Damaged(f"{MANIFEST} cannot be read ({problem})") from None
    if recorded != _sha256(manifest):
        raise Damaged(f"the content of {MANIFEST} is not what was written")
    if manifest["format"] != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path}: format {manifest['format']!r}, this version reads {CHECKPOINT_FORMAT}; "
            f"remove {path.parent.parent} to train from the beginning"
        )
    return dict(manifest)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _sha256(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
