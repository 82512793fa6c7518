"""Documents on disk: Parquet shards written through Hugging Face datasets, and the list of what was rejected."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import pyarrow.parquet as pq
from datasets import Dataset, Features, Value
from datasets.exceptions import DatasetGenerationError
from datasets.utils.logging import disable_progress_bar

from llm_core.text.document import Document, Origin, Rejection

SHARD_BYTES = 64_000_000
REJECTED = "rejected.jsonl"
# Rows held in memory at once while writing and reading.
BATCH_ROWS = 64
# Arrow's plain string ends at 2 GB a column chunk.
COLUMN_TYPES = {"str": "large_string", "Split": "large_string", "int": "int64"}

Record = TypeVar("Record", bound=Document)


def write_documents(
    documents: Iterator[Record], record: type[Record], folder: Path, shard_bytes: int = SHARD_BYTES
) -> int:
    """Write a stream of documents to ``documents-00000.parquet`` and on; returns how many there were.

    Memory stays bounded: the records go to a memory-mapped Arrow file inside `folder` first, which is removed again.
    The bytes depend on nothing but the documents. Errors that the stream itself raises come out unchanged.
    """
    first = next(documents, None)
    if first is None:
        return 0
    disable_progress_bar()
    shard_starts = [0]

    def rows() -> Iterator[dict[str, str | int]]:
        filled = 0
        for index, document in enumerate(chain([first], documents)):
            size = len(document.text.encode())
            if filled and filled + size > shard_bytes:
                shard_starts.append(index)
                filled = 0
            filled += size
            yield vars(document)

    with TemporaryDirectory(dir=folder, prefix=".arrow-") as cache:
        try:
            # The fingerprint is given since the default one pickles the generator, whose open files have no hash.
            table = Dataset.from_generator(
                rows, features=_features(record), cache_dir=cache, fingerprint="documents", writer_batch_size=BATCH_ROWS
            )
        except DatasetGenerationError as problem:
            raise problem.__cause__ or problem from None
        for number, (start, end) in enumerate(zip(shard_starts, [*shard_starts[1:], len(table)], strict=True)):
            path = folder / f"documents-{number:05d}.parquet"
            table.select(range(start, end)).to_parquet(path)
        return len(table)


def read_documents(folder: Path, record: type[Record]) -> Iterator[Record]:
    """Stream the documents of an artifact's folder in their order.

    Arrow reads them directly: ``load_dataset`` contacts the hub even for local files, and waits when it is offline.
    """
    names = [field.name for field in fields(record)]
    for path in sorted(folder.glob("documents-*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=names):
                yield from (record(**row) for row in batch.to_pylist())


class RejectionList:
    """Writes one line for each rejected record and counts the reasons; texts are never written."""

    def __init__(self, folder: Path) -> None:
        self.reasons: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self._file = open(folder / REJECTED, "x", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> RejectionList:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, origin: Origin, rejection: Rejection) -> None:
        """Record one rejected record."""
        self.reasons[rejection.reason] += 1
        self.bytes[rejection.reason] += origin.end - origin.start
        line = {"source": origin.source, "start": origin.start, "end": origin.end, "sha256": origin.sha256}
        line |= {"reason": rejection.reason, "detail": rejection.detail}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _features(record: type[Document]) -> Features:
    return Features({field.name: Value(COLUMN_TYPES[str(field.type)]) for field in fields(record)})
