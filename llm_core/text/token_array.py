"""Token shards: the ids of one shard of documents, an array and a table of documents for each split.

Packed without padding: every document's ids, the end id behind them, then the next document's. A shard of tokens
belongs to one shard of documents, so its size is bounded, and it is never written again when others join.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from llm_core.parts import key_of
from llm_core.text.document import CleanDocument, Split
from llm_core.text.shards import read_shard
from llm_core.tokenizer import Tokenizer

TOKENS, TABLE, LOSS = "tokens.npy", "documents.parquet", "loss.npy"
# A row of the table; num_tokens counts the end id, num_bytes the clean text in UTF-8.
SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),
        ("source", pa.string()),
        ("start", pa.int64()),
        ("num_tokens", pa.int64()),
        ("num_bytes", pa.int64()),
    ]
)

Ids = npt.NDArray[np.unsignedinteger[Any]]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Tokenizing:
    """The part of a tokenize stage: one shard of clean documents."""

    shard: Path
    sha256: str
    """The shard's."""
    tokenizer: Path
    tokenizer_key: str
    """What the tokenizer's files are known by."""
    batch_documents: int
    code: str

    @property
    def key(self) -> str:
        return key_of("tokenizing", {"shard": self.sha256, "tokenizer": self.tokenizer_key, "code": self.code})

    def make(self, folder: Path) -> None:
        """Write ``SPLIT.tokens.npy`` and ``SPLIT.documents.parquet`` for each split that has documents."""
        encoder = Tokenizer.load(self.tokenizer)
        writers: dict[Split, TokenWriter] = {}
        documents = read_shard(self.shard, CleanDocument)
        while batch := list(islice(documents, self.batch_documents)):
            encoded = encoder.encode_documents([document.text for document in batch])
            for document, ids in zip(batch, encoded, strict=True):
                if document.split not in writers:
                    writers[document.split] = TokenWriter(folder, document.split, encoder.vocab_size, encoder.end_id)
                writers[document.split].add(document, ids)
        for writer in writers.values():
            writer.close()


class TokenWriter:
    """Writes the tokens of one split of one shard, to files whose names begin with `name`."""

    def __init__(self, folder: Path, name: str, vocab_size: int, end_id: int) -> None:
        self._dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32).newbyteorder("<")
        self._end = np.array([end_id], dtype=self._dtype).tobytes()
        self._folder, self._name = folder, name
        self._rows: list[tuple[str, str, int, int, int]] = []
        self._loss: list[Mask] = []
        self._num_tokens = 0
        self._file = open(folder / f"{name}.{TOKENS}", "xb")  # noqa: SIM115 (closed by close)
        self._write_header()

    def add(self, document: CleanDocument, ids: Ids, loss: Mask | None = None) -> None:
        """Append a document's ids and the end id; `loss` marks the ids that a tuning loss counts (default: all).

        The end id counts where the last id does: what never writes on need not learn to end.
        """
        self._file.write(np.asarray(ids, dtype=self._dtype).tobytes() + self._end)
        size = len(ids) + 1
        self._rows.append((document.sha256, document.source, document.start, size, document.num_bytes))
        self._num_tokens += size
        if loss is not None:
            self._loss.append(np.append(loss, loss[-1:].all()))

    def close(self) -> None:
        """Write the length into the array's header, and the table; the mask too, if there is one."""
        self._file.seek(0)
        self._write_header()
        self._file.close()
        rows = zip(*self._rows, strict=True)
        columns = [pa.array(column, type=field.type) for column, field in zip(rows, SCHEMA, strict=True)]
        pq.write_table(pa.Table.from_arrays(columns, schema=SCHEMA), self._folder / f"{self._name}.{TABLE}")
        if self._loss:
            assert len(self._loss) == len(self._rows), "a shard has a mask for each document or for none"
            np.save(self._folder / f"{self._name}.{LOSS}", np.concatenate(self._loss))

    def _write_header(self) -> None:
        # NumPy pads the header so that its size is the same for every length: the final length overwrites the first, 0.
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._num_tokens,)}
        np.lib.format.write_array_header_1_0(self._file, header)


def token_files(folder: Path, split: str, kind: str = TOKENS) -> Iterator[Path]:
    """The files of one kind and split in an artifact, in the order of the documents."""
    yield from sorted(folder.glob(f"*.{split}.{kind}"))
