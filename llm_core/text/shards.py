"""Records on disk: Parquet shards of bounded size, written and read as streams.

``datasets`` and pandas open the same files; writing goes through Arrow alone, because a worker process would spend
longer on importing ``datasets`` than on a small part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from llm_core.text.document import Document, Origin

DOCUMENTS, REJECTED, STRUCTURE = "documents", "rejected", "structure"
SHARD_BYTES = 64_000_000
GROUP_BYTES = 8_000_000
GROUP_ROWS = 8192
"""A row group holds at most this much: what a writer has in memory, and a reader at once."""
COMPRESSION = {"compression": "zstd", "compression_level": 1}
# Arrow's plain string ends at 2 GB a column chunk.
COLUMN_TYPES = {
    "str": pa.large_string(),
    "Split": pa.large_string(),
    "Unit": pa.large_string(),
    "int": pa.int64(),
}


@dataclass(frozen=True)
class Rejected(Origin):
    """A record that is not kept, and why; its text is never written here."""

    reason: str
    detail: str
    suite: str = ""
    """The evaluation suite whose text it holds, where that is the reason."""


@dataclass(frozen=True)
class Structure:
    """Bytes of a source that belong to no record: headers, brackets, blank lines."""

    source: str
    start: int
    end: int


Record = TypeVar("Record")


class ShardWriter:
    """Writes records of one dataclass to ``STEM-000.parquet`` and on; nothing when there are none.

    The bytes depend on nothing but the records.
    """

    def __init__(self, folder: Path, record: type[Any], stem: str, shard_bytes: int = SHARD_BYTES) -> None:
        self.count = 0
        self._folder, self._stem, self._shard_bytes = folder, stem, shard_bytes
        self._schema = schema_of(record)
        self._rows: list[list[Any]] = []
        self._group_bytes = self._shard_size = self._shards = 0
        self._file: pq.ParquetWriter | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._end_shard()

    def add(self, record: Any, num_bytes: int = 0) -> None:
        """Append one record; `num_bytes` is about its size and decides where row groups and shards end."""
        if self._shard_size and self._shard_size + num_bytes > self._shard_bytes:
            self._flush()
            self._end_shard()
        self._rows.append([getattr(record, name) for name in self._schema.names])
        self.count += 1
        self._shard_size += num_bytes
        self._group_bytes += num_bytes
        if self._group_bytes >= GROUP_BYTES or len(self._rows) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._file is None:
            path = self._folder / f"{self._stem}-{self._shards:03d}.parquet"
            self._file = pq.ParquetWriter(path, self._schema, **COMPRESSION)
        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(column, type=field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._file.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows, self._group_bytes = [], 0

    def _end_shard(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file, self._shard_size = None, 0
            self._shards += 1


def write_documents(
    documents: Iterable[Document], record: type[Document], folder: Path, shard_bytes: int = SHARD_BYTES
) -> int:
    """Write a stream of documents; returns how many there were."""
    with ShardWriter(folder, record, DOCUMENTS, shard_bytes) as writer:
        for document in documents:
            writer.add(document, len(document.text.encode()))
    return writer.count


def shards(folder: Path, stem: str) -> list[Path]:
    """The shards of one kind in a folder, in their order."""
    return sorted(folder.glob(f"{stem}-*.parquet"))


def read_documents(folder: Path, record: type[Record]) -> Iterator[Record]:
    """Stream the documents of an artifact's folder in their order."""
    for path in shards(folder, DOCUMENTS):
        yield from read_shard(path, record)


def read_shard(path: Path, record: type[Record]) -> Iterator[Record]:
    """Stream the records of one shard."""
    names = schema_of(record).names
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            for row in file.read_row_group(group, columns=names).to_pylist():
                yield record(**row)


def schema_of(record: type[Any]) -> pa.Schema:
    """Arrow columns of a dataclass, in the order of its fields."""
    return pa.schema([pa.field(field.name, COLUMN_TYPES[str(field.type)]) for field in fields(record)])
