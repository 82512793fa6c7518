"""Tokens are the documents, exactly, each in its split and followed by the end id."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llm_core.artifact import Artifact, Draft
from llm_core.config import Tokenize
from llm_core.data import open_tokens
from llm_core.text.document import CleanDocument
from llm_core.text.shards import read_documents, write_documents
from llm_core.text.token_array import TABLE, token_files
from llm_core.tokenizer import Tokenizer
from tasks.tokenize import tokenize


def test_the_arrays_give_every_document_back(tokens: Artifact, cleaned: Artifact, vocabulary: Artifact) -> None:
    decoder = Tokenizer.load(vocabulary.path)
    documents = list(read_documents(cleaned.path, CleanDocument))
    for split in ("train", "validation", "test"):
        ids = open_tokens(tokens.path, split)[:]
        tables = [pd.read_parquet(path) for path in token_files(tokens.path, split, TABLE)]
        table = pd.concat(tables, ignore_index=True)
        expected = [document for document in documents if document.split == split]
        assert table["sha256"].tolist() == [document.sha256 for document in expected]
        assert table["source"].tolist() == [document.source for document in expected]
        pieces = np.split(ids, table["num_tokens"].cumsum()[:-1])
        for piece, document, num_bytes in zip(pieces, expected, table["num_bytes"], strict=True):
            assert piece[-1] == decoder.end_id
            assert decoder.decode(piece[:-1].tolist()) == document.text
            assert num_bytes == len(document.text.encode())


def test_stats_say_what_is_in_the_arrays(tokens: Artifact, cleaned: Artifact) -> None:
    stats = tokens.stats
    assert (stats["vocab_size"], stats["end_id"]) == (300, 0)
    num_tokens = {}
    for split in ("train", "validation", "test"):
        assert stats[f"{split}_documents"] == cleaned.stats[f"{split}_documents"]
        assert stats[f"{split}_bytes"] == cleaned.stats[f"{split}_bytes"]
        num_tokens[split] = len(open_tokens(tokens.path, split))
        assert stats[f"{split}_tokens"] == num_tokens[split]
    text_bytes = sum(stats[f"{split}_bytes"] for split in num_tokens)
    text_tokens = (
        sum(num_tokens.values()) - stats["train_documents"] - stats["validation_documents"] - stats["test_documents"]
    )
    assert stats["bytes_per_token"] == pytest.approx(text_bytes / text_tokens, abs=1e-4)


@pytest.mark.parametrize("batch_documents", [1, 1000])
def test_the_batch_size_changes_no_byte(
    tokens: Artifact, cleaned: Artifact, vocabulary: Artifact, tmp_path: Path, batch_documents: int
) -> None:
    with Draft(tmp_path / "again", "tokens", "tokenize") as out:
        again = tokenize(Tokenize(batch_documents=batch_documents), cleaned, vocabulary, out)
    assert again.digest == tokens.digest


def test_a_document_that_spells_the_end_token_is_still_one_document(vocabulary: Artifact, tmp_path: Path) -> None:
    text = "a<|endoftext|>b<|im_start|>"
    hostile = CleanDocument("x", 0, 1, "ab" * 32, "", text=text, split="test", num_bytes=27)
    with Draft(tmp_path / "hostile", "documents", "clean") as out:
        write_documents(iter([hostile]), CleanDocument, out.path)
        documents = out.publish({"kept": 1})
    with Draft(tmp_path / "again", "tokens", "tokenize") as out:
        again = tokenize(Tokenize(), documents, vocabulary, out)
    ids = open_tokens(again.path, "test")[:]
    assert (ids == 0).nonzero()[0].tolist() == [len(ids) - 1]


def test_tokens_are_made_anew_when_only_the_end_token_changes(
    cleaned: Artifact, vocabulary: Artifact, tmp_path: Path
) -> None:
    for number, end in enumerate(("<|endoftext|>", "<|im_end|>")):
        with Draft(tmp_path / f"vocabulary{number}", "tokenizer", "tokenizer") as out:
            # The same tokenizer.json; what ends a document is said beside it.
            shutil.copyfile(vocabulary.path / "tokenizer.json", out.path / "tokenizer.json")
            (out.path / "tokenizer_config.json").write_text(json.dumps({"eos_token": end}))
            ended = out.publish({})
        with Draft(tmp_path / f"tokens{number}", "tokens", "tokenize", memo=tmp_path / "memo") as out:
            made = tokenize(Tokenize(), cleaned, ended, out)
        assert open_tokens(made.path, "train")[:][-1] == made.stats["end_id"] == 2 * number
