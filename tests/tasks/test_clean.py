"""Clean accounts for every record, splits without surprises, and refuses a corpus that cannot be split."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from llm_core.artifact import Artifact, Draft
from llm_core.config import Clean, Collect, Contract, Workers
from llm_core.inventory import Inventory, take_inventory
from llm_core.parts import Memo
from llm_core.text import gather
from llm_core.text.contract import ContractError
from llm_core.text.document import CleanDocument
from llm_core.text.profile import read_profiles
from llm_core.text.shards import REJECTED, Rejected, read_documents, read_shard, shards
from tasks.clean import SplitError, clean
from tasks.collect import collect
from tests.tasks.conftest import COLLECT


def _clean(cfg: Clean, documents: Artifact, target: Path) -> Artifact:
    with Draft(target, "documents", "clean") as out:
        return clean(cfg, documents, out)


def test_every_record_is_kept_or_rejected_with_its_reason(cleaned: Artifact, collected: Artifact) -> None:
    stats = cleaned.stats
    assert stats["records_in"] == collected.stats["kept"] == stats["kept"] + sum(stats["rejected"].values())
    assert stats["rejected"] == {"duplicate": 1, "near_duplicate": 1, "not_prose": 1}


def test_the_rejected_are_listed_with_what_they_copy(cleaned: Artifact) -> None:
    rejected = [entry for shard in shards(cleaned.path, REJECTED) for entry in read_shard(shard, Rejected)]
    names = {"texts/doc00.txt", "texts/copy.txt", "texts/near.txt"}
    copies = {entry.source: entry.detail for entry in rejected if "duplicate" in entry.reason}
    [kept] = {document.source for document in read_documents(cleaned.path, CleanDocument)} & names
    assert copies.keys() == names - {kept}
    assert all(f"{kept}[0:" in detail for detail in copies.values())


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
        (Clean(min_words=10**6), r"no document of 34 passed \(34 too_short\); relax the rules of the clean section"),
    ],
)
def test_a_corpus_that_cannot_be_split_is_refused(
    collected: Artifact, tmp_path: Path, cfg: Clean, message: str
) -> None:
    with pytest.raises(SplitError, match=message):
        _clean(cfg, collected, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def _corpus(base: Path, home: Path) -> Artifact:
    inventory = take_inventory(COLLECT, base, home)
    with Draft(base / "collected", "documents", "collect", memo=base / "memo") as out:
        return collect(COLLECT, inventory, out)


@pytest.mark.parametrize("repeated_text", ["keep", "drop_lines"])
def test_a_night_gives_what_a_full_run_gives_and_touches_only_what_is_new(
    repeated_text: str, own_inventory: Inventory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = Clean(test_share=0.3, validation_share=0.15, repeated_text=repeated_text)
    memo, home = tmp_path / "memo", tmp_path / "home"
    _clean_in(memo, cfg, _corpus(tmp_path, home), tmp_path / "first")
    earlier = (tmp_path / "texts" / "doc07.txt").read_text()
    (tmp_path / "texts" / "copy of an old one.txt").write_text(earlier + " once more")
    for number in range(4):
        text = f"night {number} " + " ".join(reversed(earlier.split()[: 80 + 9 * number]))
        (tmp_path / "texts" / f"night{number}.txt").write_text(text)
    documents = _corpus(tmp_path, home)
    made: list[str] = []
    monkeypatch.setattr(Memo, "fill", lambda self, key, make, fill=Memo.fill: made.append(key) or fill(self, key, make))
    night = _clean_in(memo, cfg, documents, tmp_path / "night")
    assert len(made) == 2  # the new shard's cleaning, and its selection
    assert night.digest == _clean_in(None, cfg, documents, tmp_path / "full").digest
    copies = [entry for shard in shards(night.path, REJECTED) for entry in read_shard(shard, Rejected)]
    assert "texts/copy of an old one.txt" in {entry.source for entry in copies if entry.reason == "near_duplicate"}
    batches = read_profiles(night.path)
    assert [batch.batch for batch in batches] == ["0", "1"] and batches[1].records_in == 5


def _clean_in(memo: Path | None, cfg: Clean, documents: Artifact, target: Path) -> Artifact:
    with Draft(target, "documents", "clean", memo=memo) as out:
        return clean(cfg, documents, out)


@pytest.mark.parametrize("workers", [Workers(count=2), Workers(kind="threads", count=4)])
def test_workers_change_no_byte(workers: Workers, inventory: Inventory, cleaned: Artifact, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gather, "PART_FILES", 6)
        with Draft(tmp_path / "collected", "documents", "collect") as out:
            documents = collect(COLLECT, inventory, out)
    digests = set()
    for chosen in (Workers(kind="serial"), workers):
        with Draft(tmp_path / "clean", "documents", "clean", workers=chosen) as out:
            digests.add(clean(Clean(test_share=0.3, validation_share=0.15), documents, out).digest)
    assert len(digests) == 1
    hashes = {document.sha256 for document in read_documents(tmp_path / "clean", CleanDocument)}
    assert hashes == {document.sha256 for document in read_documents(cleaned.path, CleanDocument)}


def test_a_passage_that_came_before_is_cut_out_of_later_documents(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    own = {name: " ".join(f"{name}{number}" for number in range(60)) for name in "abc"}
    shared = "this notice stands on every page of the source and says the same thing everywhere it stands"
    for name, text in own.items():
        (tmp_path / "texts" / f"{name}.txt").write_text(f"{text}\n\n{shared}\n\n{text} again\n\n{shared}\n\nThe end.")
    documents = _corpus(tmp_path, tmp_path / "home")
    cfg = Clean(repeated_text="drop_paragraphs", rules=())
    with Draft(tmp_path / "clean", "documents", "clean") as out:
        kept = list(read_documents(clean(cfg, documents, out, may_be_empty=True).path, CleanDocument))
    assert [document.text.count(shared) for document in kept] == [1, 0, 0]
    assert all(document.text.endswith("again\n\nThe end.") for document in kept[1:])
    assert all(document.num_bytes == len(document.text.encode()) for document in kept)


def test_a_passage_is_no_repeat_of_one_in_a_document_that_was_not_kept(tmp_path: Path) -> None:
    one, two, *own = (" ".join(f"{name}{number}" for number in range(30)) for name in "abcde")
    (tmp_path / "texts").mkdir()
    documents = [f"{one}\n\n{own[0]}", f"{one}\n\n{two}", f"{two}\n\n{own[1]}\n\n{own[2]}"]
    (tmp_path / "texts" / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    cfg = Clean(repeated_text="drop_paragraphs", rules=(), min_words=40, near_duplicate_similarity=1)
    collected = _corpus(tmp_path, tmp_path / "home")
    with Draft(tmp_path / "clean", "documents", "clean") as out:
        made = clean(cfg, collected, out, may_be_empty=True)
    assert made.stats["rejected"] == {"repeated_text": 1}  # of the second, only `two` is left, which is too short
    assert [document.text for document in read_documents(made.path, CleanDocument)] == [documents[0], documents[2]]


def test_documents_that_hold_a_suites_text_are_kept_out(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    question = "which of these nine long rivers flows through the largest number of countries on its way"
    filler = " ".join(f"word{number}" for number in range(100))
    leaked = (
        f"{filler} Which of these nine LONG rivers, flows through the largest number of countries on its way? {filler}"
    )
    (tmp_path / "texts" / "leaked.txt").write_text(leaked)
    (tmp_path / "texts" / "other.txt").write_text(f"{filler} which of these nine long rivers flows through many lands")
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"text": question}) + "\n")
    cfg = Collect(sources=("texts",), suites=("quiz.jsonl",))
    with Draft(tmp_path / "collected", "documents", "collect") as out:
        documents = collect(cfg, take_inventory(cfg, tmp_path), out)
    with Draft(tmp_path / "clean", "documents", "clean") as out:
        made = clean(Clean(rules=()), documents, out, may_be_empty=True)
    [entry] = [entry for shard in shards(made.path, REJECTED) for entry in read_shard(shard, Rejected)]
    assert (entry.source, entry.reason, entry.suite) == ("texts/leaked.txt", "contaminated", "quiz.jsonl")
    assert "13 words in a row of quiz.jsonl" in entry.detail and "rivers" not in entry.detail
    assert read_profiles(made.path)[0].contaminated == {"quiz.jsonl": 1}


def test_a_bad_day_stops_before_anything_is_published(collected: Artifact, tmp_path: Path) -> None:
    contract = Contract(max_rejected_share=0.01, min_batch_documents=5)
    with pytest.raises(ContractError, match=r"clean\.contract\.max_rejected_share"):
        _clean(Clean(test_share=0.3, contract=contract), collected, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_another_contract_cleans_nothing_again(collected: Artifact, tmp_path: Path) -> None:
    cfg = Clean(test_share=0.3)
    _clean_in(tmp_path / "memo", cfg, collected, tmp_path / "first")
    before = sorted((tmp_path / "memo").glob("*/*"))
    other = cfg.model_copy(update={"contract": Contract(min_documents=2)})
    _clean_in(tmp_path / "memo", other, collected, tmp_path / "second")
    assert sorted((tmp_path / "memo").glob("*/*")) == before
