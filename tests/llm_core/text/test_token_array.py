"""Token shards are plain NumPy files beside a table that says where each document lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llm_core.text.document import CleanDocument
from llm_core.text.token_array import SCHEMA, TokenWriter

DOCUMENT = CleanDocument("a.txt", 3, 9, "ab" * 32, "free", text="text", split="train", num_bytes=4)


def _write(folder: Path, *documents: list[int], vocab_size: int = 300, loss: list[list[bool]] | None = None) -> None:
    writer = TokenWriter(folder, "train", vocab_size, end_id=0)
    for number, ids in enumerate(documents):
        writer.add(DOCUMENT, np.array(ids, dtype=np.uint32), np.array(loss[number]) if loss else None)
    writer.close()


def _load(folder: Path) -> np.ndarray:
    return np.load(folder / "train.tokens.npy", mmap_mode="r", allow_pickle=False)


def test_documents_follow_one_another_each_with_the_end_id(tmp_path: Path) -> None:
    _write(tmp_path, [5, 6], [299])
    assert _load(tmp_path).tolist() == [5, 6, 0, 299, 0]
    assert _load(tmp_path).dtype == np.uint16
    table = pd.read_parquet(tmp_path / "train.documents.parquet")
    assert list(table.columns) == SCHEMA.names
    assert table["num_tokens"].tolist() == [3, 2]
    assert table.iloc[0].to_dict() == {
        "sha256": "ab" * 32,
        "source": "a.txt",
        "start": 3,
        "num_tokens": 3,
        "num_bytes": 4,
    }
    assert not (tmp_path / "train.loss.npy").exists()


def test_the_file_is_what_numpy_itself_would_save(tmp_path: Path) -> None:
    _write(tmp_path, *[list(range(1, 200))] * 50)
    np.save(tmp_path / "numpy.npy", np.tile(np.append(np.arange(1, 200), 0).astype(np.uint16), 50))
    assert (tmp_path / "train.tokens.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()


@pytest.mark.parametrize(("vocab_size", "dtype"), [(2**16, np.uint16), (2**16 + 1, np.uint32)])
def test_the_narrowest_type_that_holds_every_id_is_taken(tmp_path: Path, vocab_size: int, dtype: type) -> None:
    _write(tmp_path, [vocab_size - 1], vocab_size=vocab_size)
    assert _load(tmp_path).dtype == dtype
    assert _load(tmp_path).tolist() == [vocab_size - 1, 0]


def test_a_mask_says_which_tokens_a_tuning_loss_counts(tmp_path: Path) -> None:
    _write(tmp_path, [5, 6, 7], [8], loss=[[False, False, True], [True]])
    mask = np.load(tmp_path / "train.loss.npy", allow_pickle=False)
    assert mask.tolist() == [False, False, True, True, True, True]
    assert len(mask) == len(_load(tmp_path))


def test_the_end_id_counts_where_the_last_id_does(tmp_path: Path) -> None:
    _write(tmp_path, [5, 6], [7, 8], loss=[[True, False], [False, True]])
    assert np.load(tmp_path / "train.loss.npy").tolist() == [True, False, False, False, True, True]
