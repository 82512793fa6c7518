"""The quarantine: the original bytes of every rejected record, where it came from and why it is not kept.

Private: files are readable by their owner only, and nothing of it is pushed. It is taken from the sources once a stage
is done, one file for each shard of rejected records, so that a night adds its own.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llm_core.artifact import Artifact
from llm_core.inventory import Inventory, SourceFile
from llm_core.sources import SourceError
from llm_core.text.content import Content, copy_range, open_content
from llm_core.text.gather import open_unchanged
from llm_core.text.shards import COMPRESSION, GROUP_BYTES, REJECTED, Rejected, read_shard, shards

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
    files = {file.path: file for file in inventory.files}
    places = []
    for shard in shards(artifact.path, REJECTED):
        place = folder / f"quarantine-{artifact.files[shard.name]['sha256'][:32]}.parquet"
        if not place.exists():
            _write(read_shard(shard, Rejected), place, _Originals(folder, files, inventory, max_expansion))
        places.append(place)
    return places


class _Originals:
    """Original bytes of rejected records, each source read forward once."""

    def __init__(self, folder: Path, files: dict[str, SourceFile], inventory: Inventory, max_expansion: int) -> None:
        self._folder, self._files, self._inventory, self._max_expansion = folder, files, inventory, max_expansion

    def of(self, entries: Iterator[Rejected]) -> Iterator[tuple[Rejected, bytes | None]]:
        """Each record with its bytes; None where they lie in a file of their own or are not to be had."""
        for source, group in groupby(entries, key=lambda entry: entry.source):
            yield from self._of_source(self._files.get(source), sorted(group, key=lambda entry: entry.start))

    def _of_source(
        self, file: SourceFile | None, entries: Sequence[Rejected]
    ) -> Iterator[tuple[Rejected, bytes | None]]:
        with ExitStack() as stack:
            try:
                stored = stack.enter_context(open_unchanged(file, self._inventory)) if file and file.sha256 else None
            except SourceError:
                stored = None
            if stored is None:
                yield from ((entry, None) for entry in entries)
                return
            content = stack.enter_context(open_content(stored, entries[0].source, self._max_expansion))
            yield from ((entry, self._copy(entry, content)) for entry in entries if entry.unit == "byte")
            stored.seek(0)
            for entry in entries:
                if entry.unit == "file":
                    stored.seek(0)
                    yield entry, self._keep(entry, file.bytes if file else 0, lambda write: _copy_all(stored, write))
                elif entry.unit == "row":
                    yield entry, None

    def _copy(self, entry: Rejected, content: Content) -> bytes | None:
        try:
            size = entry.end - entry.start
            return self._keep(entry, size, lambda write: copy_range(content, entry.start, entry.end, write))
        except ValueError:
            return None

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
        for entry, raw in originals.of(entries):
            rows.append({name: getattr(entry, name) for name in SCHEMA.names if name != "raw"} | {"raw": raw})
            size += len(raw or b"")
            if size >= GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
                rows, size = [], 0
        writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
    os.replace(part, place)
