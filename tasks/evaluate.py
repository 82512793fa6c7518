"""Evaluate: the held-out documents are scored beside what any model must beat, and a few texts are written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import nn

from llm_core.artifact import Artifact, Draft
from llm_core.config import Evaluate
from llm_core.data import open_tokens
from llm_core.devices import circumstances, computing, pick_device, pick_precision
from llm_core.evals.baselines import unigram_bits, xz_bits
from llm_core.evals.perplexity import EvaluationError, Scoring, bits_per_byte, score_documents
from llm_core.generate import ContextExceeded, generate
from llm_core.models import load_pretrained
from llm_core.text.document import CleanDocument, Split
from llm_core.text.shards import read_documents
from llm_core.text.token_array import TABLE, token_files
from llm_core.tokenizer import Tokenizer

REPORTED = ["sha256", "source", "start", "num_bytes", "num_tokens", "bits", "unigram_bits"]


def evaluate(cfg: Evaluate, seed: int, model: Artifact, tokens: Artifact, documents: Artifact, out: Draft) -> Artifact:
    """Score the model on the test split: metrics.json, documents.parquet (a row a document) and samples.json."""
    device = pick_device()
    precision = pick_precision("auto", device)
    with computing(threads=0) as threads:
        network = load_pretrained(model.path).to(device)
        scored = _score(cfg, network, tokens, precision, out)
        samples = _samples(cfg, seed, network, Tokenizer.load(model.path))
    metrics = _metrics(scored, documents)
    scored[REPORTED].to_parquet(out.path / "documents.parquet", index=False)
    _write_json(out, "metrics.json", metrics)
    _write_json(out, "samples.json", samples)
    stats = {**metrics, "heldout_digest": heldout_digest(scored["sha256"])}
    return out.publish(stats, circumstances(device, precision, threads))


def heldout_digest(hashes: Iterable[str]) -> str:
    """sha256 that names a set of held-out documents, whatever their order."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def _score(cfg: Evaluate, network: nn.Module, tokens: Artifact, precision: torch.dtype, out: Draft) -> pd.DataFrame:
    ids = open_tokens(tokens.path, "test")[:]
    table = pd.concat([pd.read_parquet(path) for path in token_files(tokens.path, "test", TABLE)], ignore_index=True)
    scoring = Scoring(stride=cfg.stride, batch_windows=cfg.batch_windows, precision=precision)
    scored = score_documents(
        network, ids, table, scoring, lambda done, total: out.observer.progress(done, total, "windows")
    )
    train_ids = open_tokens(tokens.path, "train")
    num_tokens = table["num_tokens"].to_numpy()
    return scored.assign(unigram_bits=unigram_bits(train_ids, ids, num_tokens, tokens.stats["vocab_size"]))


def _metrics(scored: pd.DataFrame, documents: Artifact) -> dict[str, float | int]:
    """Bits per byte of the model and of each baseline, and how much was scored."""
    alone, primed = xz_bits(partial(_texts, documents, "train"), partial(_texts, documents, "test"))
    num_bytes, num_tokens = int(scored["num_bytes"].sum()), int(scored["num_tokens"].sum())
    return {
        "bits_per_byte": bits_per_byte(scored["bits"], scored["num_bytes"]),
        "perplexity": float(2 ** (scored["bits"].sum() / num_tokens)),
        "unigram_bits_per_byte": bits_per_byte(scored["unigram_bits"], scored["num_bytes"]),
        "xz_bits_per_byte": alone / num_bytes,
        "xz_primed_bits_per_byte": primed / num_bytes,
        "test_documents": len(scored),
        "test_bytes": num_bytes,
        "test_tokens": num_tokens,
    }


def _texts(documents: Artifact, split: Split) -> Iterable[bytes]:
    return (entry.text.encode() for entry in read_documents(documents.path, CleanDocument) if entry.split == split)


def _samples(cfg: Evaluate, seed: int, network: nn.Module, tokenizer: Tokenizer) -> list[dict[str, str]]:
    """The recipe's prompts and how the model goes on."""
    samples = []
    for prompt in cfg.prompts:
        ids = [tokenizer.end_id, *tokenizer.encode(prompt)]
        stop_ids = {tokenizer.end_id}
        try:
            answer = generate(
                network, ids, max_tokens=cfg.sample_tokens, temperature=0.8, top_k=50, seed=seed, stop_ids=stop_ids
            )
            samples.append({"prompt": prompt, "text": tokenizer.decode(answer)})
        except ContextExceeded as problem:
            raise EvaluationError(f"evaluate.prompts: {prompt!r}: {problem}") from None
    return samples


def _write_json(out: Draft, name: str, content: Any) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    (out.path / name).write_text(text + "\n", encoding="utf-8")
