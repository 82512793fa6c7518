"""Tokenizer: the vocabulary, learned from the documents that train the model."""

from __future__ import annotations

from collections.abc import Iterator

from llm_core.artifact import Artifact, Draft
from llm_core.config import Tokenizer as TokenizerConfig
from llm_core.text.document import CleanDocument
from llm_core.text.shards import read_documents
from llm_core.tokenizer import Tokenizer, sample_evenly

# The reported compression is measured on the beginning of the sample, at least this much of it.
MEASURED_BYTES = 1_000_000


def tokenizer(cfg: TokenizerConfig, documents: Artifact, out: Draft) -> Artifact:
    """Learn byte-level BPE from the train split only, so that held-out text stays unseen."""
    trained_bytes = 0
    measured: list[str] = []

    def sample() -> Iterator[str]:
        nonlocal trained_bytes
        for text in sample_evenly(_train_texts(documents), documents.stats["train_bytes"], cfg.sample_bytes):
            if trained_bytes < MEASURED_BYTES:
                measured.append(text)
            trained_bytes += len(text.encode())
            out.observer.progress(trained_bytes, min(cfg.sample_bytes, documents.stats["train_bytes"]), "bytes")
            yield text

    learned = Tokenizer.train(sample(), cfg.vocab_size)
    learned.save(out.path)
    num_tokens = sum(map(len, learned.encode_batch(measured)))
    bytes_per_token = sum(len(text.encode()) for text in measured) / num_tokens
    return out.publish(
        {"vocab_size": learned.vocab_size, "bytes_per_token": round(bytes_per_token, 4), "trained_bytes": trained_bytes}
    )


def _train_texts(documents: Artifact) -> Iterator[str]:
    return (document.text for document in read_documents(documents.path, CleanDocument) if document.split == "train")
