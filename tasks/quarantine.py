"""The quarantine: the original bytes of every rejected record, where it came from and why it is not kept.

Private: files are readable by their owner only, and nothing of it is pushed. It is taken from the sources once a stage
is done, one file for each shard of rejected records, so that a night adds its own.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from llm_core.artifact import Artifact
from llm_core.inventory import Inventory
from llm_core.sources import SourceError
from llm_core.text.content import Content, copy_range
from llm_core.text.gather import open_unchanged
from llm_core.text.shards import COMPRESSION, GROUP_BYTES, GROUP_ROWS, REJECTED, Rejected, read_shard, shards

LARGEST_INLINE = 8_000_000
PIECE_BYTES = 1 << 20
SCHEMA = pa.schema(
    [
        ("source", pa.large_string()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("unit", pa.large_string()),
        ("sha256", pa.large_string()),
        ("reason", pa.large_string()),
        ("detail", pa.large_string()),
        ("raw", pa.large_binary()),
    ]
)


def fill_quarantine(folder: Path, artifact: Artifact, inventory: Inventory, max_expansion: int) -> list[Path]:
    """The quarantine's files of an artifact's rejected records, those that were missing made now.

    A record of more than 8 MB lies in a file of its own, SHA256.bin; a table's row, and a record whose source is gone,
    have no bytes.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    names = [shard.name for shard in shards(artifact.path, REJECTED)]
    places = {name: folder / f"quarantine-{artifact.files[name]['sha256'][:32]}.parquet" for name in names}
    missing = [name for name in names if not places[name].exists()]
    with _Originals(folder, inventory, max_expansion) as originals:
        # A shard's copies lie between the records that the rules rejected: all copies last, the sources are read twice.
        for name in sorted(missing, key=lambda name: ("-copies-" in name, name)):
            _write(read_shard(artifact.path / name, Rejected), places[name], originals)
    return list(places.values())


class _Originals:
    """Original bytes of rejected records; those that are asked for in order read their source forward once."""

    def __init__(self, folder: Path, inventory: Inventory, max_expansion: int) -> None:
        self._folder, self._inventory, self._max_expansion = folder, inventory, max_expansion
        self._files = {file.path: file for file in inventory.files}
        self._source = ""
        self._stored: BinaryIO | None = None
        self._content: Content | None = None

    def __enter__(self) -> _Originals:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def of(self, entry: Rejected) -> bytes | None:
        """The record's bytes; None where they lie in a file of their own or are not to be had."""
        if entry.unit == "row":
            return None
        if entry.source != self._source:
            self._open(entry.source)
        stored = self._stored
        if stored is None:
            return None
        if entry.unit == "file":
            self._content = None
            stored.seek(0)
            return self._keep(entry, self._files[entry.source].bytes, lambda write: _copy_all(stored, write))
        if self._content is None or entry.start < self._content.position:
            stored.seek(0)
            self._content = Content(stored, entry.source, self._max_expansion)
        content, size = self._content, entry.end - entry.start
        try:
            return self._keep(entry, size, lambda write: copy_range(content, entry.start, entry.end, write))
        except ValueError:
            return None

    def _open(self, source: str) -> None:
        self._close()
        self._source, file = source, self._files.get(source)
        if file and file.sha256:
            with suppress(SourceError):
                self._stored = open_unchanged(file, self._inventory)

    def _close(self) -> None:
        if self._stored is not None:
            self._stored.close()
        self._stored = self._content = None

    def _keep(self, entry: Rejected, size: int, copy: Callable[[Callable[[bytes], object]], None]) -> bytes | None:
        if size <= LARGEST_INLINE:
            buffer = io.BytesIO()
            copy(buffer.write)
            return buffer.getvalue()
        place = self._folder / f"{entry.sha256}.bin"
        if not place.exists():
            part = place.with_suffix(".part")
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as target:
                copy(target.write)
            os.replace(part, place)
        return None


def _copy_all(stored: Any, write: Callable[[bytes], object]) -> None:
    while piece := stored.read(PIECE_BYTES):
        write(piece)


def _write(entries: Iterator[Rejected], place: Path, originals: _Originals) -> None:
    part = place.with_suffix(".part")
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    rows: list[dict[str, Any]] = []
    size = 0
    with pq.ParquetWriter(part, SCHEMA, **COMPRESSION) as writer:
        for entry in entries:
            raw = originals.of(entry)
            rows.append({name: getattr(entry, name) for name in SCHEMA.names if name != "raw"} | {"raw": raw})
            size += len(raw or b"")
            if size >= GROUP_BYTES or len(rows) >= GROUP_ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
                rows, size = [], 0
        writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
    os.replace(part, place)
