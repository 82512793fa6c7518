"""The vocabulary comes from training text only, and the same text gives the same one."""

from __future__ import annotations

from pathlib import Path

from llm_core.artifact import Artifact, Draft
from llm_core.config import Tokenizer as TokenizerConfig
from llm_core.text.document import CleanDocument
from llm_core.text.shards import read_documents, write_documents
from llm_core.tokenizer import Tokenizer
from tasks.tokenizer import tokenizer


def _tokenizer(documents: Artifact, target: Path, **values: int) -> Artifact:
    with Draft(target, "tokenizer", "tokenizer") as out:
        return tokenizer(TokenizerConfig(vocab_size=300, **values), documents, out)


def test_the_artifact_holds_the_two_files_and_what_they_are(vocabulary: Artifact, cleaned: Artifact) -> None:
    assert set(vocabulary.files) == {"tokenizer.json", "tokenizer_config.json"}
    assert vocabulary.stats["vocab_size"] == Tokenizer.load(vocabulary.path).vocab_size == 300
    assert vocabulary.stats["trained_bytes"] == cleaned.stats["train_bytes"]
    assert 1 < vocabulary.stats["bytes_per_token"] < 10


def test_a_second_run_makes_the_same_artifact(vocabulary: Artifact, cleaned: Artifact, tmp_path: Path) -> None:
    assert _tokenizer(cleaned, tmp_path / "again").digest == vocabulary.digest


def test_held_out_text_changes_nothing(vocabulary: Artifact, cleaned: Artifact, tmp_path: Path) -> None:
    with Draft(tmp_path / "other", "documents", "clean") as out:
        documents = list(read_documents(cleaned.path, CleanDocument))
        spoiled = [
            document if document.split == "train" else CleanDocument(**{**vars(document), "text": "zq" * 5000})
            for document in documents
        ]
        write_documents(iter(spoiled), CleanDocument, out.path)
        other = out.publish(cleaned.stats)
    assert _tokenizer(other, tmp_path / "again").files == vocabulary.files


def test_a_sample_is_a_sample(cleaned: Artifact, tmp_path: Path) -> None:
    half = cleaned.stats["train_bytes"] // 2
    trained = _tokenizer(cleaned, tmp_path / "half", sample_bytes=half).stats["trained_bytes"]
    assert 0.95 * half <= trained <= half
