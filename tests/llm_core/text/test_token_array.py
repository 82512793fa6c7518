"""Token arrays are plain NumPy files beside a table that says where each document lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llm_core.text.document import CleanDocument
from llm_core.text.token_array import COLUMNS, TokenArrayWriter

DOCUMENT = CleanDocument("a.txt", 3, 9, "ab" * 32, "free", "text", "train", 4)


def _load(folder: Path) -> np.ndarray:
    return np.load(folder / "train.tokens.npy", mmap_mode="r", allow_pickle=False)


def test_documents_follow_one_another(tmp_path: Path) -> None:
    with TokenArrayWriter(tmp_path, "train", vocab_size=300) as writer:
        writer.add(DOCUMENT, [5, 6, 0])
        writer.add(DOCUMENT, [299, 0])
    assert _load(tmp_path).tolist() == [5, 6, 0, 299, 0]
    assert _load(tmp_path).dtype == np.uint16
    table = pd.read_parquet(tmp_path / "train.documents.parquet")
    assert list(table.columns) == list(COLUMNS)
    assert table["num_tokens"].tolist() == [3, 2]
    assert table.iloc[0].to_dict() == {
        "sha256": "ab" * 32,
        "source": "a.txt",
        "start": 3,
        "num_tokens": 3,
        "num_bytes": 4,
    }
    assert (writer.num_tokens, writer.num_documents, writer.num_bytes) == (5, 2, 8)


def test_the_file_is_what_numpy_itself_would_save(tmp_path: Path) -> None:
    with TokenArrayWriter(tmp_path, "train", vocab_size=300) as writer:
        for _ in range(50):
            writer.add(DOCUMENT, range(200))
    np.save(tmp_path / "numpy.npy", np.tile(np.arange(200, dtype=np.uint16), 50))
    assert (tmp_path / "train.tokens.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()


@pytest.mark.parametrize(("vocab_size", "dtype"), [(2**16, np.uint16), (2**16 + 1, np.uint32)])
def test_the_narrowest_type_that_holds_every_id_is_taken(tmp_path: Path, vocab_size: int, dtype: type) -> None:
    with TokenArrayWriter(tmp_path, "train", vocab_size) as writer:
        writer.add(DOCUMENT, [vocab_size - 1])
    assert _load(tmp_path).dtype == dtype
    assert _load(tmp_path).tolist() == [vocab_size - 1]


def test_a_split_without_documents_is_empty_and_readable(tmp_path: Path) -> None:
    with TokenArrayWriter(tmp_path, "train", vocab_size=300):
        pass
    assert _load(tmp_path).shape == (0,)
    table = pd.read_parquet(tmp_path / "train.documents.parquet")
    assert table.dtypes.astype(str).to_dict() == COLUMNS
