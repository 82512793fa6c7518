"""The folder of a run's checkpoints: one process at a time, entries that appear as a whole, manifests with a seal."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

CHECKPOINT_FORMAT = 2
FIELDS = {"format", "step", "identity", "values", "score", "shards", "tensors"}
LOCK, MANIFEST, SEAL = ".lock", "checkpoint.json", "manifest_sha256"


class CheckpointError(ValueError):
    """A checkpoint that must not be resumed or cannot be written; the message names field or file and the remedy."""


class Damaged(ValueError):
    """A checkpoint whose bytes are not the ones that were written."""


def lock_folder(folder: Path) -> TextIO:
    """Make the folder and take it for this process, until the file that is given back is closed or the process ends."""
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (closed by who gets it)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise CheckpointError(
            f"{folder}: another training (process {holder}) works with these checkpoints; wait for it or stop it"
        ) from None
    except OSError as problem:
        raise CheckpointError(
            f"{path}: cannot be written and locked ({problem.strerror}); make {folder} writable for this user"
        ) from None
    if not _is_at(path, file):  # who held it before has removed the folder
        file.close()
        return lock_folder(folder)
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _is_at(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def steps_in(folder: Path) -> list[int]:
    """Steps of the checkpoints that lie in the folder, newest first."""
    numbers = (path.name.removeprefix("step-") for path in folder.glob("step-*"))
    return sorted((int(number) for number in numbers if _is_plain(number)), reverse=True)


def _is_plain(number: str) -> bool:
    """Whether these are the digits that a step is written with: no leading zero, no other script's digits."""
    return number.isascii() and number.isdecimal() and str(int(number)) == number


def sweep(folder: Path) -> None:
    """Remove what killed or failed writes left behind, and put back what they had only moved aside."""
    for draft in folder.glob(".*.draft"):
        remove(draft)
    for old in folder.glob(".*.old"):
        target = folder / old.name.removeprefix(".").removesuffix(".old")
        if os.path.lexists(target):
            remove(old)
        else:
            os.rename(old, target)


def put_in_place(draft: Path, target: Path) -> None:
    """Rename a flushed draft to its final name; what was there before steps aside first and is removed last."""
    old = target.with_name(f".{target.name}.old")
    if os.path.lexists(target):
        os.rename(target, old)
    os.rename(draft, target)
    flush(target.parent)
    remove(old)


def remove(path: Path) -> None:
    """Remove a folder, file or link; nothing to remove is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flush(folder: Path) -> None:
    """Have the names in a folder on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest with its seal and flush it to disk."""
    content = json.dumps({**manifest, SEAL: _sha256(manifest)}, indent=1, sort_keys=True, allow_nan=False)
    with open(folder / MANIFEST, "x", encoding="utf-8") as file:
        file.write(content + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in a step's folder, as it was written.

    Raises Damaged when it is not, CheckpointError when it is of a format that this version does not read.
    """
    path = folder / MANIFEST
    if folder.is_symlink() or path.is_symlink():
        raise Damaged("it is a link; checkpoints are plain folders and files")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        recorded = manifest.pop(SEAL)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise Damaged(f"{MANIFEST} cannot be read ({problem})") from None
    if recorded != _sha256(manifest):
        raise Damaged(f"the content of {MANIFEST} is not what was written")
    if manifest.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path}: format {manifest.get('format')!r}, this version reads {CHECKPOINT_FORMAT}; "
            f"remove {folder.parent} to train from the beginning"
        )
    if manifest.keys() != FIELDS:
        raise Damaged(f"{MANIFEST} has the fields {', '.join(manifest)}, not {', '.join(sorted(FIELDS))}")
    if f"step-{manifest['step']}" != folder.name:
        raise Damaged(f"it is the checkpoint of step {manifest['step']}")
    return dict(manifest)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _sha256(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, allow_nan=False).encode()).hexdigest()
