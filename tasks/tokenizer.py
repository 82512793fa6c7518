"""Tokenizer: the vocabulary, learned from the documents that train the model or taken from an existing model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from llm_core.artifact import Artifact, Draft
from llm_core.config import Tokenizer as TokenizerConfig
from llm_core.text.document import CleanDocument
from llm_core.text.shards import read_documents
from llm_core.tokenizer import (
    Tokenizer,
    TokenizerError,
    measure_usage,
    read_existing,
    sample_evenly,
    tokenizer_digest,
    usage_rows,
)

# How well the vocabulary fits is measured on about this much training text, whole documents evenly taken.
MEASURED_BYTES = 4_000_000
USAGE = "tokenizer.csv"


def tokenizer(cfg: TokenizerConfig, documents: Artifact, out: Draft) -> Artifact:
    """Learn byte-level BPE from the train split only, so that held-out text stays unseen, or adopt what there is."""
    trained_bytes = 0

    def sample() -> Iterator[str]:
        nonlocal trained_bytes
        total_bytes = documents.stats["train_bytes"]
        texts = (document.text for document in _train_documents(documents))
        for text in sample_evenly(texts, total_bytes, cfg.sample_bytes):
            trained_bytes += len(text.encode())
            out.observer.progress(trained_bytes, min(cfg.sample_bytes, total_bytes), "bytes")
            yield text

    made = Tokenizer.train(sample(), cfg.vocab_size) if cfg.source == "learn" else _existing(cfg, out)
    made.save(out.path)
    return out.publish(
        {"vocab_size": made.vocab_size, "trained_bytes": trained_bytes, **_usage(made, documents, out.path)}
    )


def _existing(cfg: TokenizerConfig, out: Draft) -> Tokenizer:
    """The champion's tokenizer, or that of a folder; raises TokenizerError where it is not the recipe's."""
    if not cfg.folder:
        raise TokenizerError(f"source: {cfg.source} needs tokenizer.folder, which the run's resolved recipe names")
    place = Path(cfg.folder)
    if cfg.source == "champion":
        assert out.pins is not None, "a pinned tokenizer needs the folder of pins"
        place = out.pins / cfg.sha256
    digest = tokenizer_digest(place)
    if cfg.sha256 not in ("", digest):
        raise TokenizerError(
            f"{place}: its digest is {digest}, tokenizer.sha256 is {cfg.sha256}; bring those files back, "
            "or set tokenizer.sha256 to the digest of the ones you mean"
        )
    return read_existing(place)


def _usage(vocabulary: Tokenizer, documents: Artifact, folder: Path) -> dict[str, object]:
    """Write how the vocabulary fits each language; the figures of all of them, and by language."""
    measured = (
        (
            document.language,
            document.text,
            len(document.measures.words),
            vocabulary.encode_documents([document.text])[0],
        )
        for document in _spread(_train_documents(documents), documents.stats["train_bytes"])
    )
    usage = measure_usage(measured, vocabulary.vocab_size)
    pd.DataFrame(usage_rows(usage)).to_csv(folder / USAGE, index=False, lineterminator="\n")
    overall, *languages = (found.figures() for found in usage.values())
    names = ("bytes_per_token", "fertility", "vocabulary_use")
    return {
        **{name: overall[name] for name in names},
        "languages": dict(zip(list(usage)[1:], languages, strict=True)),
    }


def _spread(documents: Iterator[CleanDocument], total_bytes: int) -> Iterator[CleanDocument]:
    """Whole documents from all over the stream, about MEASURED_BYTES of them."""
    share = min(1.0, MEASURED_BYTES / max(total_bytes, 1))
    passed = taken = 0
    for document in documents:
        if taken <= share * passed:
            taken += document.num_bytes
            yield document
        passed += document.num_bytes


def _train_documents(documents: Artifact) -> Iterator[CleanDocument]:
    return (found for found in read_documents(documents.path, CleanDocument) if found.split == "train")
