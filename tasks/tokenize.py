"""Tokenize: every shard of documents becomes token ids, and a table of where each document lies in them."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from llm_core.artifact import Artifact, Draft
from llm_core.config import Tokenize
from llm_core.parts import link, make_parts, open_memo
from llm_core.text.shards import DOCUMENTS, shards
from llm_core.text.split import SPLITS
from llm_core.text.token_array import TABLE, Tokenizing, token_files
from llm_core.tokenizer import Tokenizer, tokenizer_digest
from llm_core.workers import open_pool


def tokenize(cfg: Tokenize, documents: Artifact, tokenizer: Artifact, out: Draft) -> Artifact:
    """Encode every document, each followed by the end id; a shard of tokens for each shard of documents."""
    encoder = Tokenizer.load(tokenizer.path)
    paths = shards(documents.path, DOCUMENTS)
    parts = [
        Tokenizing(
            shard=path,
            sha256=documents.files[path.name]["sha256"],
            tokenizer=tokenizer.path,
            tokenizer_key=tokenizer_digest(tokenizer.path),
            batch_documents=cfg.batch_documents,
            code=out.code,
        )
        for path in paths
    ]
    with open_memo(out.memo) as memo, open_pool(out.workers, len(parts)) as pool:
        done = make_parts(parts, memo, pool, lambda ready, all_: out.observer.progress(ready, all_, "shards"))
        for path, folder in zip(paths, done, strict=True):
            name = path.stem.removeprefix(f"{DOCUMENTS}-")
            for file in folder.glob("*.*.*"):
                link(file, out.path / f"{name}.{file.name}")
    return out.publish({"vocab_size": encoder.vocab_size, "end_id": encoder.end_id, **count_tokens(out.path)})


def count_tokens(folder: Path) -> dict[str, int | float]:
    """Tokens (end ids included), documents and bytes of each split, and how many bytes a token of text holds."""
    counts: dict[str, int | float] = {}
    for split in SPLITS:
        tables = [
            pq.read_table(path, columns=["num_tokens", "num_bytes"]) for path in token_files(folder, split, TABLE)
        ]
        counts[f"{split}_tokens"] = sum(sum(table["num_tokens"].to_pylist()) for table in tables)
        counts[f"{split}_documents"] = sum(len(table) for table in tables)
        counts[f"{split}_bytes"] = sum(sum(table["num_bytes"].to_pylist()) for table in tables)
    text_tokens = sum(counts[f"{split}_tokens"] - counts[f"{split}_documents"] for split in SPLITS)
    text_bytes = sum(counts[f"{split}_bytes"] for split in SPLITS)
    return counts | {"bytes_per_token": round(text_bytes / text_tokens, 4)}
