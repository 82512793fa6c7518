"""Writing the token ids of one split: a NumPy array on disk that grows document by document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from llm_core.text.document import CleanDocument

# What a row of the documents table says; num_tokens counts the end id, num_bytes the clean text in UTF-8.
COLUMNS = {"sha256": "str", "source": "str", "start": "int64", "num_tokens": "int64", "num_bytes": "int64"}


class TokenArrayWriter:
    """Writes ``SPLIT.tokens.npy`` (1-D) and ``SPLIT.documents.parquet`` (one row a document, in the array's order)."""

    def __init__(self, folder: Path, split: str, vocab_size: int) -> None:
        self.num_tokens = 0
        self._dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)
        self._rows: list[tuple[str, str, int, int, int]] = []
        self._table = folder / f"{split}.documents.parquet"
        self._file = open(folder / f"{split}.tokens.npy", "xb")  # noqa: SIM115 (closed by __exit__)
        self._write_header()

    def __enter__(self) -> TokenArrayWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                self._write_header()
                pd.DataFrame(self._rows, columns=list(COLUMNS)).astype(COLUMNS).to_parquet(self._table, index=False)

    @property
    def num_documents(self) -> int:
        """Documents written so far."""
        return len(self._rows)

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of their texts."""
        return sum(row[-1] for row in self._rows)

    def add(self, document: CleanDocument, ids: Sequence[int]) -> None:
        """Append a document's ids, the end id included."""
        self._file.write(np.asarray(ids, dtype=self._dtype.newbyteorder("<")).tobytes())
        self._rows.append((document.sha256, document.source, document.start, len(ids), document.num_bytes))
        self.num_tokens += len(ids)

    def _write_header(self) -> None:
        # NumPy pads the header so that its size is the same for every length: the final length overwrites the first, 0.
        header = {"descr": self._dtype.newbyteorder("<").str, "fortran_order": False, "shape": (self.num_tokens,)}
        np.lib.format.write_array_header_1_0(self._file, header)
