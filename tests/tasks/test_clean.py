"""Clean accounts for every record, splits without surprises, and refuses a corpus that cannot be split."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from llm_core.artifact import Artifact, Draft
from llm_core.config import Clean
from llm_core.text.document import CleanDocument
from llm_core.text.shards import read_documents
from tasks.clean import SplitError, clean


def _clean(cfg: Clean, documents: Artifact, target: Path) -> Artifact:
    with Draft(target, "documents", "clean") as out:
        return clean(cfg, documents, out)


def test_every_record_is_kept_or_rejected_with_its_reason(cleaned: Artifact, collected: Artifact) -> None:
    stats = cleaned.stats
    assert stats["records_in"] == collected.stats["kept"] == stats["kept"] + sum(stats["rejected"].values())
    assert stats["rejected"] == {"duplicate": 1, "near_duplicate": 1, "not_prose": 1}


def test_the_rejected_are_listed_with_what_they_copy(cleaned: Artifact) -> None:
    lines = [json.loads(line) for line in (cleaned.path / "rejected.jsonl").read_text().splitlines()]
    details = {(line["source"], line["reason"]): line["detail"] for line in lines}
    assert "texts/copy.txt[0:" in details["texts/doc00.txt", "duplicate"]
    assert "to texts/copy.txt[0:" in details["texts/near.txt", "near_duplicate"]


def test_texts_are_clean_and_their_sizes_right(cleaned: Artifact) -> None:
    for document in read_documents(cleaned.path, CleanDocument):
        assert "[Applause]" not in document.text
        assert document.text == document.text.strip()
        assert document.num_bytes == len(document.text.encode())


def test_stats_and_tables_agree_with_the_documents(cleaned: Artifact) -> None:
    documents = list(read_documents(cleaned.path, CleanDocument))
    splits = pd.read_csv(cleaned.path / "splits.csv").set_index("split")
    for split in ("train", "validation", "test"):
        mine = [document.num_bytes for document in documents if document.split == split]
        assert (cleaned.stats[f"{split}_documents"], cleaned.stats[f"{split}_bytes"]) == (len(mine), sum(mine))
        assert (splits.loc[split, "documents"], splits.loc[split, "bytes"]) == (len(mine), sum(mine))
    assert cleaned.stats["kept"] == len(documents)
    rejections = pd.read_csv(cleaned.path / "rejections.csv")
    assert dict(zip(rejections["reason"], rejections["documents"], strict=True)) == cleaned.stats["rejected"]


def test_other_rules_move_no_document_to_another_split(cleaned: Artifact, collected: Artifact, tmp_path: Path) -> None:
    loose = Clean(test_share=0.3, validation_share=0.15, strip_marks=(), near_duplicate_similarity=1.0, min_words=0)
    other = _clean(loose, collected, tmp_path / "other")
    assert other.digest != cleaned.digest
    splits = {entry.sha256: entry.split for entry in read_documents(other.path, CleanDocument)}
    for document in read_documents(cleaned.path, CleanDocument):
        assert splits.get(document.sha256, document.split) == document.split


def test_a_second_run_makes_the_same_artifact(cleaned: Artifact, collected: Artifact, tmp_path: Path) -> None:
    assert _clean(Clean(test_share=0.3, validation_share=0.15), collected, tmp_path / "again").digest == cleaned.digest


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (Clean(test_share=0.0), r"in the test split; raise clean\.test_share \(now 0\.0\), or add documents"),
        (Clean(test_share=0.97, validation_share=0.02), r"in the train split; lower clean\.test_share"),
        (Clean(min_words=10**6), r"no document of 33 passed \(33 too_short\); relax the rules of the clean section"),
    ],
)
def test_a_corpus_that_cannot_be_split_is_refused(
    collected: Artifact, tmp_path: Path, cfg: Clean, message: str
) -> None:
    with pytest.raises(SplitError, match=message):
        _clean(cfg, collected, tmp_path / "new")
    assert not (tmp_path / "new").exists()
