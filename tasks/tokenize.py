"""Tokenize: the documents of each split become one array of token ids, and a table of where each one lies in it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from itertools import islice

from llm_core.artifact import Artifact, Draft
from llm_core.config import Tokenize
from llm_core.text.document import CleanDocument, Split
from llm_core.text.shards import read_documents
from llm_core.text.split import SPLITS
from llm_core.text.token_array import TokenArrayWriter
from llm_core.tokenizer import Tokenizer


def tokenize(cfg: Tokenize, documents: Artifact, tokenizer: Artifact, out: Draft) -> Artifact:
    """Encode every document, each followed by the end id; memory holds one batch of documents."""
    encoder = Tokenizer.load(tokenizer.path)
    stream = read_documents(documents.path, CleanDocument)
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(TokenArrayWriter(out.path, split, encoder.vocab_size)) for split in SPLITS
        }
        while batch := list(islice(stream, cfg.batch_documents)):
            encoded = encoder.encode_batch([document.text for document in batch])
            for document, ids in zip(batch, encoded, strict=True):
                writers[document.split].add(document, [*ids, encoder.end_id])
            done = sum(writer.num_documents for writer in writers.values())
            out.observer.progress(done, documents.stats["kept"], "documents")
    return out.publish({"vocab_size": encoder.vocab_size, "end_id": encoder.end_id, **_counts(writers)})


def _counts(writers: Mapping[Split, TokenArrayWriter]) -> dict[str, int | float]:
    """Tokens (end ids included), documents and bytes of each split, and how many bytes a token of text holds."""
    counts: dict[str, int | float] = {}
    for split, writer in writers.items():
        counts[f"{split}_tokens"] = writer.num_tokens
        counts[f"{split}_documents"] = writer.num_documents
        counts[f"{split}_bytes"] = writer.num_bytes
    text_tokens = sum(writer.num_tokens - writer.num_documents for writer in writers.values())
    text_bytes = sum(writer.num_bytes for writer in writers.values())
    return counts | {"bytes_per_token": round(text_bytes / text_tokens, 4)}
