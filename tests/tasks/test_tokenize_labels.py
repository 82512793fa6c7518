"""Labelled conversations become tokens that training reads, in the split of their documents."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from llm_core.artifact import Artifact, ArtifactError, Draft
from llm_core.data import MarkedShards, open_tokens
from llm_core.labels.records import CONVERSATIONS
from llm_core.labels.task import KINDS, Kind, LabelError, Task
from llm_core.text.split import SPLITS, split_of
from llm_core.text.token_array import LOSS, TABLE, token_files
from llm_core.tokenizer import Tokenizer, TokenizerError, tokenizer_digest
from tasks.label import label_results
from tasks.tokenize_labels import Tuning, tokenize_labels_folder
from tests.llm_core.labels.tasks import ANSWERS, CONTENT, make_task, record, write

CFG = Tuning(test_share=0.2, validation_share=0.2)


def published(folder: Path, kind: Kind = "pairs", size: int = 40) -> Path:
    """A labels artifact of tasks from different documents, and a tokenizer's folder beside it."""
    tasks = [make_task(kind)] if kind not in ("pairs", "classification") else []
    for number in range(0 if tasks else size):
        sha256 = hashlib.sha256(str(number).encode()).hexdigest()
        tasks.append(Task(kind, {**CONTENT[kind], "text": f"Guten Tag {number}"}, sha256, "pairs.jsonl"))
    write(folder, [record(task, {1: ANSWERS[kind]}, number) for number, task in enumerate(tasks, start=1)])
    label_results(kind, "majority", folder / "results.json", folder / "labels")
    (folder / "tokenizer").mkdir(exist_ok=True)
    Tokenizer.train(["Guten Tag, good day, who are you? A model."] * 4, vocab_size=300).save(folder / "tokenizer")
    return folder


def make(root: Path, cfg: Tuning = CFG, **places: Path) -> Artifact:
    given = {"labels": root / "labels", "tokenizer": root / "tokenizer", "folder": root / "tokens", **places}
    return tokenize_labels_folder(cfg, **given)


def table(artifact: Artifact, split: str) -> pd.DataFrame:
    (path,) = token_files(artifact.path, split, TABLE)
    return pd.read_parquet(path)


def test_each_pair_is_a_document_in_the_split_of_its_source(tmp_path: Path) -> None:
    artifact = make(published(tmp_path))
    decoder, rows = Tokenizer.load(tmp_path / "tokenizer"), 0
    for split in SPLITS:
        tokens, documents = open_tokens(artifact.path, split), table(artifact, split)
        assert isinstance(tokens, MarkedShards)
        assert {split_of(sha256, 0.2, 0.2) for sha256 in documents["sha256"]} == {split}
        ends = np.cumsum(documents["num_tokens"])
        for end, size, num_bytes in zip(ends, documents["num_tokens"], documents["num_bytes"], strict=True):
            part = slice(int(end - size), int(end))
            ids, marks = tokens[part], tokens.marks(part)
            assert ids[-1] == decoder.end_id and not marks[-1]
            assert decoder.decode(ids[marks].tolist()) == "Good day"
            text = decoder.decode(ids.tolist())
            assert text.startswith("user\nGuten Tag ") and len(text.encode()) == num_bytes
        rows += len(documents)
    assert rows == 40


def test_the_manifest_says_what_is_in_it_and_what_it_was_made_from(tmp_path: Path) -> None:
    artifact = make(published(tmp_path))
    stats = artifact.stats
    assert sum(stats[f"{split}_documents"] for split in SPLITS) == 40
    masks = [np.load(path) for path in token_files(artifact.path, "*", LOSS)]
    assert sum(map(len, masks)) == sum(stats[f"{split}_tokens"] for split in SPLITS)
    assert stats["marked_share"] == pytest.approx(np.concatenate(masks).mean(), abs=1e-4)
    assert 0 < stats["marked_share"] < 0.5 and stats["bytes_per_token"] > 0.5
    labels = Artifact.open(tmp_path / "labels")
    assert artifact.parents == {"labels": labels.digest, "tokenizer": tokenizer_digest(tmp_path / "tokenizer")}
    assert make(tmp_path).digest == artifact.digest  # over the first one, too


def test_a_tokenizer_that_is_an_artifact_is_a_parent_by_its_digest(tmp_path: Path) -> None:
    published(tmp_path)
    with Draft(tmp_path / "vocabulary", kind="tokenizer", stage="tokenizer") as out:
        Tokenizer.load(tmp_path / "tokenizer").save(out.path)
        vocabulary = out.publish({})
    assert make(tmp_path, tokenizer=vocabulary.path).parents["tokenizer"] == vocabulary.digest


def test_an_instruction_stands_above_each_source(tmp_path: Path) -> None:
    artifact = make(published(tmp_path), Tuning(0, 0, instruction="Translate."))
    text = Tokenizer.load(tmp_path / "tokenizer").decode(open_tokens(artifact.path, "train")[:].tolist())
    assert text.count("user\nTranslate.\n\nGuten Tag") == 40


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in CONVERSATIONS])
def test_labels_that_are_no_conversations_are_refused_with_those_that_are(tmp_path: Path, kind: Kind) -> None:
    published(tmp_path, kind)
    with pytest.raises(LabelError, match=f"{kind} labels hold no conversations .* labels of chat and pairs do"):
        make(tmp_path)
    assert not (tmp_path / "tokens").exists()


def test_what_cannot_be_made_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    published(tmp_path, "chat")
    with pytest.raises(LabelError, match="--instruction: conversations of chat .* leave it out"):
        make(tmp_path, Tuning(instruction="Be good."))
    with pytest.raises(LabelError, match="together they must be below 1"):
        Tuning(0.5, 0.5)
    with pytest.raises(ArtifactError, match="is a labels artifact, tokens is needed here"):
        make(tmp_path, folder=tmp_path / "labels")
    with pytest.raises(TokenizerError, match="its chat template is not the one"):
        make(tmp_path, tokenizer=tmp_path)
    assert not (tmp_path / "tokens").exists()


def test_a_chat_teaches_the_answer_that_people_gave(tmp_path: Path) -> None:
    artifact: Any = make(published(tmp_path, "chat"), Tuning(0, 0))
    tokens = open_tokens(artifact.path, "train")
    assert isinstance(tokens, MarkedShards)
    decoder, everything = Tokenizer.load(tmp_path / "tokenizer"), slice(0, len(tokens))
    assert decoder.decode(tokens[:].tolist()) == "system\nBe brief.\nuser\nWho are you?\nassistant\nA model.\n"
    assert decoder.decode(tokens[:][tokens.marks(everything)].tolist()) == "A model."
