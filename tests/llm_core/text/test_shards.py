"""Documents survive the disk unchanged, in order, with the same bytes every time."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_core.inventory import SourceError
from llm_core.text.document import CleanDocument, Document, Origin, Rejection
from llm_core.text.shards import REJECTED, RejectionList, read_documents, write_documents


def _documents(count: int, size: int = 1) -> Iterator[Document]:
    for n in range(count):
        yield Document(f"dir/{n}.txt", 0, n, f"{n:064x}", "free", f"text {n} ünï \U0001f642\x00" * size)


def test_documents_come_back_in_order_and_unchanged(tmp_path: Path) -> None:
    assert write_documents(_documents(300), Document, tmp_path) == 300
    assert list(read_documents(tmp_path, Document)) == list(_documents(300))


def test_the_bytes_are_the_same_every_time_and_nothing_else_is_left(tmp_path: Path) -> None:
    for name in ("one", "a much longer name [of] a * folder"):
        (tmp_path / name).mkdir()
        write_documents(_documents(50), Document, tmp_path / name)
    first, second = (sorted((tmp_path / name).iterdir()) for name in sorted(os.listdir(tmp_path)))
    assert [path.name for path in first] == [path.name for path in second] == ["documents-00000.parquet"]
    assert first[0].read_bytes() == second[0].read_bytes()
    assert list(read_documents(first[0].parent, Document)) == list(_documents(50))


def test_shards_are_cut_by_size_and_read_in_order(tmp_path: Path) -> None:
    write_documents(_documents(40, size=10), Document, tmp_path, shard_bytes=1000)
    assert len(list(tmp_path.iterdir())) > 3
    assert list(read_documents(tmp_path, Document)) == list(_documents(40, size=10))


def test_a_document_larger_than_a_shard_gets_one_of_its_own(tmp_path: Path) -> None:
    write_documents(_documents(3, size=100), Document, tmp_path, shard_bytes=10)
    assert len(list(tmp_path.iterdir())) == 3


def test_no_document_at_all_is_an_empty_stream(tmp_path: Path) -> None:
    assert write_documents(iter(()), Document, tmp_path) == 0
    assert list(read_documents(tmp_path, Document)) == []


def test_an_error_of_the_stream_comes_out_as_it_is(tmp_path: Path) -> None:
    def failing() -> Iterator[Document]:
        yield from _documents(2)
        raise SourceError("a.txt: changed")

    with pytest.raises(SourceError, match=r"a\.txt: changed"):
        write_documents(failing(), Document, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_clean_documents_keep_their_split(tmp_path: Path) -> None:
    document = CleanDocument(**vars(next(_documents(1))), split="test", num_bytes=9)
    write_documents(iter([document]), CleanDocument, tmp_path)
    assert list(read_documents(tmp_path, CleanDocument)) == [document]


def test_no_network_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    write_documents(_documents(3), Document, tmp_path)
    assert len(list(read_documents(tmp_path, Document))) == 3


def test_rejections_are_counted_and_written_without_text(tmp_path: Path) -> None:
    with RejectionList(tmp_path) as rejected:
        for reason in ("empty", "not_utf8", "empty"):
            rejected.add(Origin("a.txt", 2, 5, "ff" * 32, "free"), Rejection(reason, "why"))
    assert rejected.reasons == {"empty": 2, "not_utf8": 1}
    assert rejected.bytes == {"empty": 6, "not_utf8": 3}
    lines = [json.loads(line) for line in (tmp_path / REJECTED).read_text().splitlines()]
    assert lines[1] == {
        "source": "a.txt",
        "start": 2,
        "end": 5,
        "sha256": "ff" * 32,
        "reason": "not_utf8",
        "detail": "why",
    }
