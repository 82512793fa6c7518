"""Reading a checkpoint: whether it is what was written, whether it is this run's, and any slices of its tensors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from llm_core.checkpoint_files import CheckpointError, Damaged, read_manifest
from llm_core.checkpoint_shards import Wanted, WrongShard, check_shard, check_tiling, read_tensors, shard_name


def verify_step(path: Path, identity: Mapping[str, Any]) -> None:
    """Raise Damaged unless manifest and shards are what was written, CheckpointError if they are another run's."""
    manifest = read_manifest(path)
    check_identity(path, manifest["identity"], identity)
    file = path
    try:
        check_tiling(manifest["tensors"])
        for rank, shard in enumerate(manifest["shards"]):
            file = path / shard_name(rank, len(manifest["shards"]))
            check_file(file, shard["bytes"], shard["sha256"])
            check_shard(file, rank, manifest["tensors"])
    except (OSError, SafetensorError) as problem:
        raise Damaged(f"{file.name} cannot be read ({problem})") from None
    except (WrongShard, KeyError, TypeError) as problem:
        raise Damaged(f"{file.name} is not what the manifest says: {problem}") from None


def read_step(path: Path, wanted: Wanted | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, whole or the wanted slices, and values of a verified checkpoint."""
    manifest = read_manifest(path)
    size = len(manifest["shards"])
    shards = [path / shard_name(rank, size) for rank in range(size)]
    return read_tensors(shards, manifest["tensors"], wanted), manifest["values"]


def check_file(path: Path, size: int, sha256: str) -> None:
    """Raise Damaged unless the file has this size and sha256."""
    if path.is_symlink():
        raise Damaged(f"{path.name} is a link; checkpoints are plain folders and files")
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size != size:
            raise Damaged(f"{path.name} has {os.fstat(file.fileno()).st_size} bytes, {size} were written")
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise Damaged(f"the sha256 of {path.name} is not the manifest's")


def check_identity(path: Path, found: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise CheckpointError, naming the field, unless a checkpoint belongs to this run."""
    theirs, mine = dict(_flatten(found)), dict(_flatten(ours))
    for name in sorted(theirs.keys() | mine.keys()):
        if theirs.get(name) != mine.get(name):
            raise CheckpointError(
                f"{path}: {name} is {theirs.get(name)!r} in the checkpoint and {mine.get(name)!r} now; "
                f"go on as it was, or remove {path.parent} to train from the beginning"
            )


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
