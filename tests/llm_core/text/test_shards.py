"""Records survive the disk unchanged, in order, with the same bytes every time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from llm_core.text.document import CleanDocument, Document
from llm_core.text.shards import (
    GROUP_ROWS,
    REJECTED,
    Rejected,
    ShardWriter,
    read_documents,
    read_shard,
    write_documents,
)


def _documents(count: int, size: int = 1) -> Iterator[Document]:
    for n in range(count):
        text = f"text {n} ünï \U0001f642\x00" * size
        yield Document(f"dir/{n}.txt", 0, n, f"{n:064x}", "free", text=text, language="en")


def test_documents_come_back_in_order_and_unchanged(tmp_path: Path) -> None:
    assert write_documents(_documents(300), Document, tmp_path) == 300
    assert list(read_documents(tmp_path, Document)) == list(_documents(300))


def test_the_bytes_are_the_same_every_time_and_nothing_else_is_left(tmp_path: Path) -> None:
    for name in ("one", "a much longer name [of] a folder"):
        (tmp_path / name).mkdir()
        write_documents(_documents(50), Document, tmp_path / name)
    first, second = (sorted((tmp_path / name).iterdir()) for name in sorted(os.listdir(tmp_path)))
    assert [path.name for path in first] == [path.name for path in second] == ["documents-000.parquet"]
    assert first[0].read_bytes() == second[0].read_bytes()


def test_shards_are_cut_by_size_and_read_in_order(tmp_path: Path) -> None:
    write_documents(_documents(40, size=10), Document, tmp_path, shard_bytes=1000)
    assert len(list(tmp_path.iterdir())) > 3
    assert list(read_documents(tmp_path, Document)) == list(_documents(40, size=10))


def test_a_document_larger_than_a_shard_gets_one_of_its_own(tmp_path: Path) -> None:
    write_documents(_documents(3, size=100), Document, tmp_path, shard_bytes=10)
    assert len(list(tmp_path.iterdir())) == 3


def test_no_more_than_a_row_group_is_held_in_memory(tmp_path: Path) -> None:
    write_documents(_documents(GROUP_ROWS + 10), Document, tmp_path)
    with pq.ParquetFile(tmp_path / "documents-000.parquet") as file:
        assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [GROUP_ROWS, 10]


def test_no_document_at_all_is_an_empty_stream_and_no_file(tmp_path: Path) -> None:
    assert write_documents(iter(()), Document, tmp_path) == 0
    assert list(tmp_path.iterdir()) == [] and list(read_documents(tmp_path, Document)) == []


def test_clean_documents_keep_their_split(tmp_path: Path) -> None:
    document = CleanDocument(**vars(next(_documents(1))), split="test", num_bytes=9)
    write_documents(iter([document]), CleanDocument, tmp_path)
    assert list(read_documents(tmp_path, CleanDocument)) == [document]


def test_what_rules_measured_is_not_written(tmp_path: Path) -> None:
    document = next(_documents(1))
    assert document.measures
    write_documents(iter([document]), Document, tmp_path)
    assert "measures" not in pq.read_schema(tmp_path / "documents-000.parquet").names


def test_datasets_and_pandas_open_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_documents(_documents(20), Document, tmp_path)
    path = str(tmp_path / "documents-000.parquet")
    rows = load_dataset("parquet", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    texts = [document.text for document in _documents(20)]
    assert rows["text"][:] == texts == pd.read_parquet(path)["text"].tolist()


def test_rejected_records_come_back_without_a_text(tmp_path: Path) -> None:
    entry = Rejected("a.txt", 2, 5, "ff" * 32, "free", "empty", "why", unit="row")
    with ShardWriter(tmp_path, Rejected, REJECTED) as writer:
        writer.add(entry)
    assert list(read_shard(tmp_path / "rejected-000.parquet", Rejected)) == [entry]
    assert "text" not in pq.read_schema(tmp_path / "rejected-000.parquet").names
