"""Collect takes every byte of the sources into a document or a rejection, and nothing that changed meanwhile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_core.artifact import Artifact, Draft
from llm_core.config import Collect
from llm_core.inventory import Inventory, SourceError, take_inventory
from llm_core.text.document import Document
from llm_core.text.shards import read_documents
from tasks.collect import collect


def _collect(inventory: Inventory, target: Path, **values: object) -> Artifact:
    with Draft(target, "documents", "collect") as out:
        return collect(Collect(sources=("texts",), license="free", **values), inventory, out)


def test_every_file_is_kept_or_rejected_with_its_reason(collected: Artifact) -> None:
    assert collected.stats == {
        "records_in": 35,
        "kept": 33,
        "rejected": {"empty": 1, "not_utf8": 1},
        "bytes": collected.stats["bytes"],
    }


def test_kept_and_rejected_byte_ranges_tile_the_files(collected: Artifact, inventory: Inventory) -> None:
    kept = [(entry.source, entry.start, entry.end, entry.sha256) for entry in read_documents(collected.path, Document)]
    lines = (collected.path / "rejected.jsonl").read_text().splitlines()
    lost = [tuple(json.loads(line)[key] for key in ("source", "start", "end", "sha256")) for line in lines]
    assert sorted(kept + lost) == [(file.path, 0, file.bytes, file.sha256) for file in inventory.files]


def test_documents_carry_the_licence_and_are_in_the_order_of_their_names(collected: Artifact) -> None:
    documents = list(read_documents(collected.path, Document))
    assert {document.license for document in documents} == {"free"}
    assert [document.source for document in documents] == sorted(document.source for document in documents)


def test_a_second_run_makes_the_same_artifact(inventory: Inventory, collected: Artifact, tmp_path: Path) -> None:
    assert _collect(inventory, tmp_path / "again").digest == collected.digest


def test_a_file_that_changed_after_the_inventory_stops_the_stage(own_inventory: Inventory, tmp_path: Path) -> None:
    (tmp_path / "texts" / "doc05.txt").write_text("changed")
    with pytest.raises(SourceError, match=r"texts/doc05\.txt: changed after the inventory was taken; run again"):
        _collect(own_inventory, tmp_path / "new")
    (tmp_path / "texts" / "doc05.txt").unlink()
    with pytest.raises(SourceError, match=r"texts/doc05\.txt: cannot be read any more"):
        _collect(own_inventory, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_file_too_large_for_a_document_is_rejected(inventory: Inventory, tmp_path: Path) -> None:
    largest = max(file.bytes for file in inventory.files)
    stats = _collect(inventory, tmp_path / "new", max_document_bytes=largest - 1).stats
    assert stats["rejected"]["too_large"] == 1
    assert stats["records_in"] == stats["kept"] + sum(stats["rejected"].values())


def test_a_corpus_without_one_good_document_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "texts" / "b.txt").write_text("")
    inventory = take_inventory(("texts",), (".txt",), tmp_path)
    with pytest.raises(SourceError, match=r"texts: no document to keep \(1 empty, 1 not_utf8\)"):
        _collect(inventory, tmp_path / "new")
    assert not (tmp_path / "new").exists()
