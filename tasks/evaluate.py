"""Evaluate: held-out documents are scored beside what any model must beat, texts are written, suites are asked."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from llm_core.artifact import Artifact, Draft
from llm_core.config import Evaluate
from llm_core.data import MarkedShards, open_tokens
from llm_core.devices import circumstances, computing, pick_device, pick_scoring_precision
from llm_core.evals.baselines import unigram_bits, xz_bits
from llm_core.evals.calibration import Bins
from llm_core.evals.catalog import Material
from llm_core.evals.hiding import Hiding
from llm_core.evals.ngrams import ngram_bits
from llm_core.evals.perplexity import EvaluationError, Scoring, bits_per_byte, score_documents
from llm_core.evals.subject import NetworkSubject
from llm_core.generate import ContextExceeded, generate
from llm_core.models import load_pretrained
from llm_core.models.interface import Network
from llm_core.text.document import CleanDocument, Split
from llm_core.text.shards import read_documents
from llm_core.text.token_array import TABLE, token_files
from llm_core.tokenizer import Tokenizer
from tasks import suites

REPORTED = ["sha256", "source", "start", "num_bytes", "num_tokens", "bits", "unigram_bits", "ngram_bits"]


def evaluate(cfg: Evaluate, seed: int, model: Artifact, tokens: Artifact, documents: Artifact, out: Draft) -> Artifact:
    """Score the model on the test split: metrics.json, documents.parquet (a row a document) and samples.json.

    Each suite of the recipe adds SUITE.parquet (a row an example), its numbers, and what it is to suites.json.

    Of tokens with a loss mask the marked ones are scored, in bits per byte of their own text; the baselines get the
    same, and the documents are not read.
    """
    device = pick_device()
    precision = pick_scoring_precision(device)
    with computing(threads=0) as threads:
        network = load_pretrained(model.path).to(device)
        tokenizer = Tokenizer.load(model.path)
        scoring = Scoring(cfg.stride, cfg.batch_windows, precision, Hiding.of(network, tokenizer))
        bins = Bins()
        scored = _score(scoring, network, tokens, out, bins)
        samples = _samples(cfg, seed, network, tokenizer)
        told = _ask_suites(cfg, seed, NetworkSubject(network, tokenizer, scoring), documents, out)
    texts: Callable[[Split], Iterable[bytes]] = partial(_texts, documents)
    if isinstance(open_tokens(tokens.path, "test"), MarkedShards):
        texts = partial(_marked_texts, tokens, tokenizer)
        scored = scored.assign(num_bytes=[len(text) for text in texts("test")])
    metrics = _metrics(scored, texts, tokens.stats["vocab_size"]) | _next_token(bins) | suites.metrics(told)
    scored[REPORTED].to_parquet(out.path / "documents.parquet", index=False)
    _write_json(out, "metrics.json", metrics)
    _write_json(out, "samples.json", samples)
    _write_json(out, "suites.json", told)
    _write_json(out, "reliability.json", bins.table())
    stats = {**metrics, "heldout_digest": heldout_digest(scored["sha256"])}
    return out.publish(stats, circumstances(device, precision, threads))


def heldout_digest(hashes: Iterable[str]) -> str:
    """sha256 that names a set of held-out documents, whatever their order."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def _score(scoring: Scoring, network: Network, tokens: Artifact, out: Draft, bins: Bins) -> pd.DataFrame:
    held_out = open_tokens(tokens.path, "test")
    ids = held_out[:]
    marks = held_out.marks(slice(None)) if isinstance(held_out, MarkedShards) else None
    table = pd.concat([pd.read_parquet(path) for path in token_files(tokens.path, "test", TABLE)], ignore_index=True)
    scored = score_documents(
        network, ids, table, scoring, lambda done, total: out.observer.progress(done, total, "windows"), marks, bins
    )
    train_ids = open_tokens(tokens.path, "train")
    num_tokens = table["num_tokens"].to_numpy()
    vocab_size = tokens.stats["vocab_size"]
    counted = {"unigram_bits": unigram_bits, "ngram_bits": ngram_bits}
    scored = scored.assign(
        **{name: bits(train_ids, ids, num_tokens, vocab_size, marks) for name, bits in counted.items()}
    )
    if marks is None:
        return scored
    return scored.assign(num_tokens=np.add.reduceat(marks.astype(np.int64), num_tokens.cumsum() - num_tokens))


def _metrics(
    scored: pd.DataFrame, texts: Callable[[Split], Iterable[bytes]], vocab_size: int
) -> dict[str, float | int]:
    """Bits per byte of the model and of each baseline, and how much was scored; `texts` gives those of a split."""
    alone, primed = xz_bits(partial(texts, "train"), partial(texts, "test"))
    num_bytes, num_tokens = int(scored["num_bytes"].sum()), int(scored["num_tokens"].sum())
    return {
        "bits_per_byte": bits_per_byte(scored["bits"], scored["num_bytes"]),
        "perplexity": float(2 ** (scored["bits"].sum() / num_tokens)),
        "ngram_bits_per_byte": bits_per_byte(scored["ngram_bits"], scored["num_bytes"]),
        "unigram_bits_per_byte": bits_per_byte(scored["unigram_bits"], scored["num_bytes"]),
        "uniform_bits_per_byte": num_tokens * math.log2(vocab_size) / num_bytes,
        "xz_bits_per_byte": alone / num_bytes,
        "xz_primed_bits_per_byte": primed / num_bytes,
        "test_documents": len(scored),
        "test_bytes": num_bytes,
        "test_tokens": num_tokens,
    }


def _ask_suites(
    cfg: Evaluate, seed: int, subject: NetworkSubject, documents: Artifact, out: Draft
) -> list[dict[str, Any]]:
    def texts(split: Split) -> Iterator[str]:
        return (text.decode() for text in _texts(documents, split))

    context = subject.context
    material = Material(partial(texts, "train"), partial(texts, "test"), context, seed)
    return suites.ask(
        cfg.suites, subject, material, out.path, lambda done, total: out.observer.progress(done, total, "suites")
    )


def _next_token(bins: Bins) -> dict[str, float]:
    """How often the likeliest next token is right, and how far its probability is from saying so."""
    if not bins.count:
        return {}
    return {"next_token_accuracy": bins.accuracy, "next_token_ece": bins.expected_error}


def _texts(documents: Artifact, split: Split) -> Iterable[bytes]:
    return (entry.text.encode() for entry in read_documents(documents.path, CleanDocument) if entry.split == split)


def _marked_texts(tokens: Artifact, tokenizer: Tokenizer, split: Split) -> Iterator[bytes]:
    """What the marked ids of each document say; all of it where a shard has no mask."""
    shards, start = open_tokens(tokens.path, split), 0
    for path in token_files(tokens.path, split, TABLE):
        for size in pd.read_parquet(path)["num_tokens"]:
            part = slice(start, start + size)
            ids = shards[part][shards.marks(part)] if isinstance(shards, MarkedShards) else shards[part]
            yield tokenizer.decode_bytes(ids.tolist())
            start += size


def _samples(cfg: Evaluate, seed: int, network: Network, tokenizer: Tokenizer) -> list[dict[str, str]]:
    """The recipe's prompts and how the model goes on; none from a model that does not write."""
    samples: list[dict[str, str]] = []
    if network.task == "masked_lm":
        return samples
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
