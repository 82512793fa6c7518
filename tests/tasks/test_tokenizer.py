"""The vocabulary comes from training text only, and the same text gives the same one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from llm_core.artifact import Artifact, Draft
from llm_core.config import Tokenizer as TokenizerConfig
from llm_core.text.document import CleanDocument
from llm_core.text.shards import read_documents, write_documents
from llm_core.tokenizer import Tokenizer, TokenizerError, tokenizer_digest
from tasks.tokenizer import tokenizer


def _tokenizer(documents: Artifact, target: Path, pins: Path | None = None, **values: Any) -> Artifact:
    with Draft(target, "tokenizer", "tokenizer", pins=pins) as out:
        return tokenizer(TokenizerConfig(vocab_size=300, **values), documents, out)


def _respoken(cleaned: Artifact, target: Path, change: Callable[[CleanDocument], CleanDocument]) -> Artifact:
    """The same documents, each changed."""
    with Draft(target, "documents", "clean") as out:
        write_documents(map(change, read_documents(cleaned.path, CleanDocument)), CleanDocument, out.path)
        return out.publish(cleaned.stats)


def test_the_artifact_holds_the_tokenizer_and_what_it_is(vocabulary: Artifact, cleaned: Artifact) -> None:
    assert set(vocabulary.files) == {"tokenizer.json", "tokenizer_config.json", "tokenizer.csv"}
    assert vocabulary.stats["vocab_size"] == Tokenizer.load(vocabulary.path).vocab_size == 300
    assert vocabulary.stats["trained_bytes"] == cleaned.stats["train_bytes"]
    assert 1 < vocabulary.stats["bytes_per_token"] < 10


def test_a_second_run_makes_the_same_artifact(vocabulary: Artifact, cleaned: Artifact, tmp_path: Path) -> None:
    assert _tokenizer(cleaned, tmp_path / "again").digest == vocabulary.digest


def test_held_out_text_changes_nothing(vocabulary: Artifact, cleaned: Artifact, tmp_path: Path) -> None:
    def spoil(document: CleanDocument) -> CleanDocument:
        return document if document.split == "train" else replace(document, text="zq" * 5000)

    other = _respoken(cleaned, tmp_path / "other", spoil)
    assert _tokenizer(other, tmp_path / "again").files == vocabulary.files


def test_a_sample_is_a_sample(cleaned: Artifact, tmp_path: Path) -> None:
    half = cleaned.stats["train_bytes"] // 2
    trained = _tokenizer(cleaned, tmp_path / "half", sample_bytes=half).stats["trained_bytes"]
    assert 0.95 * half <= trained <= half


def test_the_fit_is_told_by_language(cleaned: Artifact, tmp_path: Path) -> None:
    def speak(document: CleanDocument) -> CleanDocument:
        return replace(document, language="en" if "00" in document.source else "")

    made = _tokenizer(_respoken(cleaned, tmp_path / "spoken", speak), tmp_path / "made")
    table = pd.read_csv(made.path / "tokenizer.csv", keep_default_na=False).set_index("language")
    train = [document for document in read_documents(cleaned.path, CleanDocument) if document.split == "train"]
    assert table.loc["all", "documents"] == len(train) == table.loc[table.index != "all", "documents"].sum()
    assert table.loc["all", "bytes"] == cleaned.stats["train_bytes"]
    assert table.loc["all", "words"] == sum(len(document.text.split()) for document in train)
    ids = [token_id for document in train for token_id in Tokenizer.load(made.path).encode(document.text)]
    assert table.loc["all", "tokens"] == len(ids)
    assert made.stats["vocabulary_use"] == round(len(set(ids)) / 300, 4)
    assert made.stats["fertility"] == pytest.approx(len(ids) / table.loc["all", "words"], abs=1e-4)
    assert made.stats["languages"]["unknown"]["tokens"] == table.loc["unknown", "tokens"]


def test_only_as_much_text_is_measured_as_is_needed(
    cleaned: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.tokenizer.MEASURED_BYTES", cleaned.stats["train_bytes"] // 2)
    made = _tokenizer(cleaned, tmp_path / "made")
    table = pd.read_csv(made.path / "tokenizer.csv").set_index("language")
    assert 0.4 < table.loc["all", "bytes"] / cleaned.stats["train_bytes"] < 0.65


def test_an_existing_tokenizer_is_adopted_unchanged(vocabulary: Artifact, cleaned: Artifact, tmp_path: Path) -> None:
    digest = tokenizer_digest(vocabulary.path)
    (tmp_path / digest).symlink_to(vocabulary.path)
    for source, folder in {"folder": str(vocabulary.path), "champion": "line@1"}.items():
        made = _tokenizer(cleaned, tmp_path / source, tmp_path, source=source, folder=folder, sha256=digest)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            assert made.files[name] == vocabulary.files[name]
        assert made.stats["trained_bytes"] == 0
        assert made.stats["bytes_per_token"] == vocabulary.stats["bytes_per_token"]


def test_another_tokenizer_than_the_recipe_means_is_refused(
    vocabulary: Artifact, cleaned: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(TokenizerError, match=r"its digest is [0-9a-f]{64}, tokenizer\.sha256 is abc"):
        _tokenizer(cleaned, tmp_path / "made", source="folder", folder=str(vocabulary.path), sha256="abc")
    with pytest.raises(TokenizerError, match=r"source: champion needs tokenizer\.folder"):
        _tokenizer(cleaned, tmp_path / "made", source="champion")
    assert not (tmp_path / "made").exists()
