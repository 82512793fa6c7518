"""Collect takes every byte of the sources into a document or a rejection, and nothing that changed meanwhile."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from llm_core.artifact import Artifact, Draft
from llm_core.config import Collect, Workers
from llm_core.inventory import Inventory, take_inventory
from llm_core.sources import SourceError
from llm_core.text import gather
from llm_core.text.content import Content
from llm_core.text.document import Document, Tile
from llm_core.text.readers import read_tiles
from llm_core.text.shards import (
    DOCUMENTS,
    REJECTED,
    STRUCTURE,
    Rejected,
    Structure,
    read_documents,
    read_shard,
    shards,
)
from tasks.collect import collect
from tests.tasks.conftest import COLLECT


def _collect(inventory: Inventory, target: Path, memo: Path | None = None, **values: object) -> Artifact:
    with Draft(target, "documents", "collect", memo=memo) as out:
        return collect(Collect(sources=("texts",), license="free", **values), inventory, out)


def _rejected(artifact: Artifact) -> Iterator[Rejected]:
    return (entry for shard in shards(artifact.path, REJECTED) for entry in read_shard(shard, Rejected))


def test_every_file_is_kept_or_rejected_with_its_reason(collected: Artifact) -> None:
    stats = dict(collected.stats)
    assert stats.pop("bytes") > 0
    assert stats == {"files": 35, "batches": 1, "records_in": 35, "kept": 34, "rejected": {"empty": 1}}


def test_kept_rejected_and_structure_tile_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"text": "one"}\n\n{"text": 2}\nnot json\n{"text": "two"}')
    (folder / "b.csv").write_text('text,n\n"a, ""b""\nc",1\nd\ne,2\n')
    (folder / "c.txt").write_bytes(b"\xef\xbb\xbfplain text")
    inventory = take_inventory(Collect(sources=("texts",)), tmp_path)
    made = _collect(inventory, tmp_path / "out")
    ranges: dict[str, list[tuple[int, int]]] = defaultdict(list)
    pieces = [
        *read_documents(made.path, Document),
        *_rejected(made),
        *(entry for shard in shards(made.path, STRUCTURE) for entry in read_shard(shard, Structure)),
    ]
    for piece in pieces:
        ranges[piece.source].append((piece.start, piece.end))
    for file in inventory.files:
        found = sorted(ranges[file.path])
        assert [start for start, _ in found] == [0, *(end for _, end in found)][:-1], file.path
        assert found[-1][1] == file.bytes
    assert made.stats["kept"] == 5 and made.stats["rejected"] == {"no_text": 1, "not_json": 1, "wrong_columns": 1}


def test_documents_carry_the_licence_and_are_in_the_order_of_their_content(collected: Artifact) -> None:
    documents = list(read_documents(collected.path, Document))
    assert {document.license for document in documents} == {"free"}
    assert [document.sha256 for document in documents] == sorted(document.sha256 for document in documents)


@pytest.mark.parametrize("workers", [Workers(kind="serial"), Workers(count=2), Workers(kind="threads", count=4)])
def test_neither_workers_nor_parts_found_change_the_artifact(
    workers: Workers, tmp_path: Path, inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "PART_FILES", 4)
    alone = _collect(inventory, tmp_path / "alone")
    assert len(shards(alone.path, DOCUMENTS)) == 9
    for attempt in ("first", "again"):
        with Draft(tmp_path / attempt, "documents", "collect", memo=tmp_path / "memo", workers=workers) as out:
            assert collect(COLLECT, inventory, out).digest == alone.digest


def test_a_new_batch_leaves_the_shards_of_the_earlier_ones_alone(own_inventory: Inventory, tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = _collect(take_inventory(COLLECT, tmp_path, home), tmp_path / "first", tmp_path / "memo")
    for number in range(3):
        (tmp_path / "texts" / f"new{number}.txt").write_text(f"a new text, number {number}")
    inventory = take_inventory(COLLECT, tmp_path, home)
    second = _collect(inventory, tmp_path / "second", tmp_path / "memo")
    earlier = {name: facts for name, facts in first.files.items() if name.endswith(".parquet")}
    assert earlier.items() <= second.files.items() and len(second.files) == len(earlier) + 1
    assert _collect(inventory, tmp_path / "anew").digest == second.digest
    name = shards(first.path, DOCUMENTS)[0].name
    assert (first.path / name).samefile(second.path / name)


def test_suites_are_gathered_apart(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a document")
    (tmp_path / "suite.jsonl").write_text('{"text": "a question"}\n{"text": "another"}\n')
    cfg = Collect(sources=("texts",), suites=("suite.jsonl",))
    with Draft(tmp_path / "out", "documents", "collect") as out:
        made = collect(cfg, take_inventory(cfg, tmp_path), out)
    assert [document.text for document in read_documents(made.path, Document)] == ["a document"]
    items = [document.text for document in read_documents(made.path / "suites" / "000", Document)]
    assert items == ["a question", "another"]
    assert made.stats["records_in"] == 1


def test_new_data_leave_the_suites_shards_alone_down_to_their_names(tmp_path: Path) -> None:
    cfg = Collect(sources=("texts",), suites=("suite.txt",))
    (tmp_path / "texts").mkdir()
    (tmp_path / "suite.txt").write_text("a question")
    suites = []
    for night in ("first", "second"):
        (tmp_path / "texts" / f"{night}.txt").write_text(f"a document of the {night} night")
        with Draft(tmp_path / night, "documents", "collect") as out:
            made = collect(cfg, take_inventory(cfg, tmp_path, tmp_path / "home"), out)
        suites.append({name: facts for name, facts in made.files.items() if name.startswith("suites")})
    assert made.stats["batches"] == 2 and suites[0] == suites[1]


def test_an_unreadable_file_is_one_rejected_record(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a document")
    (tmp_path / "texts" / "loop.txt").symlink_to("loop.txt")
    made = _collect(take_inventory(COLLECT, tmp_path), tmp_path / "out")
    assert made.stats["rejected"] == {"unreadable": 1} and made.stats["records_in"] == 2
    assert [entry.detail for entry in _rejected(made)] == ["cannot be read (Too many levels of symbolic links)"]


def test_a_file_that_changed_after_the_inventory_stops_the_stage(own_inventory: Inventory, tmp_path: Path) -> None:
    (tmp_path / "texts" / "doc05.txt").write_text("changed")
    with pytest.raises(SourceError, match=r"texts/doc05\.txt: changed after the inventory was taken; run again"):
        _collect(own_inventory, tmp_path / "new")
    (tmp_path / "texts" / "doc05.txt").unlink()
    with pytest.raises(SourceError, match=r"texts/doc05\.txt: cannot be read any more"):
        _collect(own_inventory, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    own_inventory: Inventory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_late(content: Content, cfg: Collect) -> Iterator[Tile]:
        if content.name == "texts/doc05.txt":
            (tmp_path / content.name).write_text("changed")
        return read_tiles(content, cfg)

    monkeypatch.setattr(gather, "read_tiles", read_late)
    with pytest.raises(SourceError, match=r"texts/doc05\.txt: changed after the inventory was taken; run again"):
        _collect(own_inventory, tmp_path / "new", tmp_path / "memo")
    assert not (tmp_path / "new").exists() and not list((tmp_path / "memo").glob("*/*"))


def test_a_damaged_download_is_fetched_again_by_the_next_run(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe("/damaged/a.txt", b"a document")
    cfg = Collect(sources=("memory://damaged/a.txt",))
    inventory = take_inventory(cfg, tmp_path, tmp_path / "home")
    (tmp_path / "home" / "downloads" / inventory.files[0].sha256).write_bytes(b"a docum")
    with pytest.raises(SourceError, match="run again"):
        _collect(inventory, tmp_path / "out")
    assert _collect(inventory, tmp_path / "out").stats["kept"] == 1


def test_a_corpus_without_one_good_document_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_bytes(b"\x7fELF\0\0\0")
    (tmp_path / "texts" / "b.txt").write_text("")
    with pytest.raises(SourceError, match=r"texts: no document to keep \(1 binary, 1 empty\)"):
        _collect(take_inventory(COLLECT, tmp_path), tmp_path / "new")
    assert not (tmp_path / "new").exists()
