"""Tokenize labels: labelled conversations and pairs become token shards, with masks over what tuning learns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_core.artifact import MANIFEST, Artifact, Draft
from llm_core.closure import code_digest
from llm_core.config import Clean
from llm_core.labels.records import RECORDS, conversation_of, require_conversations
from llm_core.labels.task import LabelError
from llm_core.text.document import CleanDocument, Split
from llm_core.text.split import split_of
from llm_core.text.token_array import LOSS, TokenWriter
from llm_core.tokenizer import Tokenizer, tokenizer_digest
from llm_core.tokenizer.conversation import conversation_bytes, encode_conversation, require_template
from tasks.label import require_replaceable
from tasks.tokenize import count_tokens

SHARD = "00000-00000"
"""What people label is small: one shard holds it."""


@dataclass(frozen=True)
class Tuning:
    """How labels become tokens."""

    test_share: float = Clean().test_share
    validation_share: float = Clean().validation_share
    """Shares of documents held out. With the same shares as clean's, a document is in the same split as its text."""
    instruction: str = ""
    """What stands above the source of every pair."""

    def __post_init__(self) -> None:
        if min(self.test_share, self.validation_share) < 0 or not self.test_share + self.validation_share < 1:
            raise LabelError(
                f"test share {self.test_share} and validation share {self.validation_share}: neither may be negative, "
                "and together they must be below 1 to leave documents to train on"
            )


def tokenize_labels(cfg: Tuning, labels: Artifact, tokenizer: Path, out: Draft) -> Artifact:
    """Encode every labelled conversation in the chat template, each followed by the end id; a mask beside the ids."""
    encoder = Tokenizer.load(tokenizer)
    writers: dict[Split, TokenWriter] = {}
    for document, messages in _conversations(cfg, labels):
        split = document.split
        if split not in writers:
            writers[split] = TokenWriter(out.path, f"{SHARD}.{split}", encoder.vocab_size, encoder.end_id)
        writers[split].add(document, *encode_conversation(encoder, messages))
    for writer in writers.values():
        writer.close()
    facts = {"vocab_size": encoder.vocab_size, "end_id": encoder.end_id, **count_tokens(out.path)}
    return out.publish({**facts, "marked_share": _marked_share(out.path)})


def tokenize_labels_folder(cfg: Tuning, labels: Path, tokenizer: Path, folder: Path) -> Artifact:
    """Publish the artifact of kind tokens as `folder`, from a labels artifact and a tokenizer's or model's folder.

    Raises LabelError for kinds of labels that are no conversations and for a folder that holds something else,
    TokenizerError for a model whose chat template is another one.
    """
    require_replaceable(folder, "tokens")
    artifact = Artifact.open(labels, kind="labels")
    kind = artifact.recipe["label"]["task"]
    require_conversations(kind)
    if cfg.instruction and kind != "pairs":
        raise LabelError(f"--instruction: conversations of {kind} say themselves what to do; leave it out")
    require_template(tokenizer)
    known = (tokenizer / MANIFEST).is_file()
    digest = Artifact.open(tokenizer).digest if known else tokenizer_digest(tokenizer)
    origin: dict[str, Any] = {
        "parents": {"labels": artifact.digest, "tokenizer": digest},
        "recipe": {"tokenize_labels": asdict(cfg)},
        "code": code_digest(__name__),
    }
    with Draft(folder, kind="tokens", stage="tokenize_labels", **origin) as out:
        return tokenize_labels(cfg, artifact, tokenizer, out)


def _conversations(cfg: Tuning, labels: Artifact) -> Iterator[tuple[CleanDocument, list[dict[str, str]]]]:
    """Each record's messages, and the row that the table of documents has of it: its place is its line, from 0."""
    kind = labels.recipe["label"]["task"]
    with open(labels.path / RECORDS, encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines):
            record = json.loads(line)
            messages = conversation_of(kind, record, cfg.instruction)
            sha256, source = record["provenance"]["sha256"], record["provenance"]["source"]
            split = split_of(sha256, cfg.test_share, cfg.validation_share)
            size = conversation_bytes(messages)
            place = {"source": source, "start": number, "end": number + 1, "sha256": sha256}
            yield CleanDocument(**place, license="", unit="row", text="", split=split, num_bytes=size), messages


def _marked_share(folder: Path) -> float:
    """How many of all ids, end ids included, a mask marks."""
    masks = [np.load(path, mmap_mode="r", allow_pickle=False) for path in sorted(folder.glob(f"*.{LOSS}"))]
    return round(float(sum(mask.sum() for mask in masks) / sum(map(len, masks))), 4)
