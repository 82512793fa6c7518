"""The quarantine holds the original bytes of every rejected record, privately, and is added to, never made again."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from llm_core.artifact import Artifact, Draft
from llm_core.config import Clean, Collect
from llm_core.inventory import Inventory, take_inventory
from llm_core.text.content import Content
from llm_core.text.shards import REJECTED, Rejected, ShardWriter
from tasks import quarantine
from tasks.clean import clean
from tasks.collect import collect
from tasks.quarantine import fill_quarantine

LINES = [
    b'{"text": "one good line that stays"}',
    b'{"text": "\xff\xfe"}',
    b"[1, 2",
    b'{"text": "one good line that stays"}',
]


@pytest.fixture
def rejected(tmp_path: Path) -> tuple[Artifact, Artifact, Inventory]:
    """A corpus in which every kind of record is rejected, taken through both stages."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b"\n".join(LINES))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b"not json\n" + LINES[0]))
    (folder / "cut.txt.gz").write_bytes(gzip.compress(b"text " * 5000)[:-20])
    (folder / "large.txt").write_bytes(b"x" * 3000)
    (folder / "loop.txt").symlink_to("loop.txt")
    cfg = Collect(sources=("texts",), max_document_bytes=2000)
    inventory = take_inventory(cfg, tmp_path)
    with Draft(tmp_path / "collected", "documents", "collect") as out:
        collected = collect(cfg, inventory, out)
    with Draft(tmp_path / "cleaned", "documents", "clean") as out:
        cleaned = clean(Clean(rules=("words",), min_words=3), collected, out, may_be_empty=True)
    return collected, cleaned, inventory


def _table(places: list[Path]) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(place) for place in places], ignore_index=True)


def test_every_rejected_record_is_there_with_its_original_bytes(
    rejected: tuple[Artifact, Artifact, Inventory], tmp_path: Path
) -> None:
    for artifact in rejected[:2]:
        table = _table(fill_quarantine(tmp_path / "kept", artifact, rejected[2], max_expansion=200))
        assert dict(table["reason"].value_counts()) == artifact.stats["rejected"]
        for row in table.itertuples():
            if row.reason == "unreadable":
                assert row.raw is None
            else:
                assert hashlib.sha256(row.raw).hexdigest() == row.sha256, row
                assert row.unit == "file" or len(row.raw) == row.end - row.start
    raw = set(table["raw"]) | set(_table(fill_quarantine(tmp_path / "kept", rejected[0], rejected[2], 200))["raw"])
    assert {LINES[0], LINES[2], b"not json"} <= raw
    assert (tmp_path / "texts" / "cut.txt.gz").read_bytes() in raw


def test_it_is_private(rejected: tuple[Artifact, Artifact, Inventory], tmp_path: Path) -> None:
    places = fill_quarantine(tmp_path / "kept", rejected[0], rejected[2], max_expansion=200)
    assert {place.stat().st_mode & 0o777 for place in places} == {0o600}
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700


def test_a_large_record_is_streamed_into_a_file_of_its_own(
    rejected: tuple[Artifact, Artifact, Inventory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "LARGEST_INLINE", 1000)
    table = _table(fill_quarantine(tmp_path / "kept", rejected[0], rejected[2], max_expansion=200))
    row = table[table["source"] == "texts/large.txt"].iloc[0]
    place = tmp_path / "kept" / f"{row['sha256']}.bin"
    assert row["raw"] is None and place.read_bytes() == b"x" * 3000
    assert place.stat().st_mode & 0o777 == 0o600


def test_what_was_kept_is_not_taken_again_and_a_lost_source_loses_nothing_else(
    rejected: tuple[Artifact, Artifact, Inventory], tmp_path: Path
) -> None:
    first = fill_quarantine(tmp_path / "kept", rejected[0], rejected[2], max_expansion=200)
    (tmp_path / "texts" / "a.jsonl").unlink()
    before = [place.stat().st_mtime_ns for place in first]
    assert fill_quarantine(tmp_path / "kept", rejected[0], rejected[2], max_expansion=200) == first
    assert [place.stat().st_mtime_ns for place in first] == before
    anew = _table(fill_quarantine(tmp_path / "anew", rejected[0], rejected[2], max_expansion=200))
    assert anew[anew["source"] == "texts/a.jsonl"]["raw"].isna().all()
    assert anew[anew["source"] == "texts/large.txt"]["raw"].notna().all()


def test_a_large_source_is_read_twice_however_many_shards_its_records_lie_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_bytes(b"".join(b"%09d\n" % number for number in range(100)))
    inventory = take_inventory(Collect(sources=("a.txt",)), tmp_path)
    begun: list[str] = []

    class Counted(Content):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            begun.append(self.name)

    monkeypatch.setattr(quarantine, "Content", Counted)
    with Draft(tmp_path / "cleaned", "documents", "clean") as out:
        for shard in range(10):
            for first, kind in enumerate(("copies", "rules")):
                with ShardWriter(out.path, Rejected, f"{REJECTED}-00000-00000-{shard:03d}-{kind}") as writer:
                    for start in range(100 * shard + 10 * first, 100 * shard + 100, 20):
                        writer.add(Rejected("a.txt", start, start + 10, "", "", reason="", detail=""))
        artifact = out.publish({})
    table = _table(fill_quarantine(tmp_path / "kept", artifact, inventory, max_expansion=200))
    assert sorted(int(raw) for raw in table["raw"]) == list(range(100))
    assert begun == ["a.txt", "a.txt"]
