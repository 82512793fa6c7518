"""Evaluate scores a saved model on the held-out documents and reports it beside the baselines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from llm_core.artifact import Artifact, Draft
from llm_core.config import Evaluate, Model
from llm_core.evals.baselines import xz_bits
from llm_core.evals.perplexity import Scoring, score_texts
from llm_core.models import build, load_pretrained, save_pretrained
from llm_core.text.document import CleanDocument
from llm_core.text.shards import read_documents
from llm_core.text.token_array import LOSS, TABLE
from llm_core.tokenizer import Tokenizer
from tasks.evaluate import evaluate, heldout_digest

CFG = Evaluate(stride=16, batch_windows=8, prompts=("we the people", ""), sample_tokens=5)
SHAPE = Model(num_layers=1, width=16, num_heads=2, num_kv_heads=2, mlp_width=16, context=32)


@pytest.fixture(scope="module")
def model(tokens: Artifact, vocabulary: Artifact, base: Path) -> Artifact:
    with Draft(base / "out" / "train", "model", "train") as out:
        save_pretrained(build(SHAPE, tokens.stats["vocab_size"], tokens.stats["end_id"], seed=1), out.path)
        for name in vocabulary.files:
            shutil.copyfile(vocabulary.path / name, out.path / name)
        return out.publish({})


@pytest.fixture(scope="module")
def report(model: Artifact, tokens: Artifact, cleaned: Artifact, base: Path) -> Artifact:
    return _evaluate(model, tokens, cleaned, base / "out" / "evaluate")


def _evaluate(model: Artifact, tokens: Artifact, documents: Artifact, target: Path) -> Artifact:
    with Draft(target, "report", "evaluate") as out:
        return evaluate(CFG, 7, model, tokens, documents, out)


def test_metrics_are_flat_numbers_beside_their_baselines(report: Artifact, tokens: Artifact) -> None:
    metrics = json.loads((report.path / "metrics.json").read_text())
    assert list(metrics) == [
        "bits_per_byte",
        "perplexity",
        "ngram_bits_per_byte",
        "unigram_bits_per_byte",
        "uniform_bits_per_byte",
        "xz_bits_per_byte",
        "xz_primed_bits_per_byte",
        "test_documents",
        "test_bytes",
        "test_tokens",
        "next_token_accuracy",
        "next_token_ece",
    ]
    for unit in ("documents", "bytes", "tokens"):
        assert metrics[f"test_{unit}"] == tokens.stats[f"test_{unit}"]
    bits_per_token = metrics["bits_per_byte"] * metrics["test_bytes"] / metrics["test_tokens"]
    assert metrics["perplexity"] == pytest.approx(2**bits_per_token)
    assert 0 < metrics["xz_primed_bits_per_byte"] < metrics["xz_bits_per_byte"]
    assert 0 < metrics["unigram_bits_per_byte"] < metrics["bits_per_byte"]
    assert 0 < metrics["ngram_bits_per_byte"] < metrics["unigram_bits_per_byte"] < metrics["uniform_bits_per_byte"]


def test_tokens_with_a_mask_are_scored_where_it_marks(
    model: Artifact, tokens: Artifact, cleaned: Artifact, report: Artifact, tmp_path: Path
) -> None:
    """A mask over everything changes nothing; one over the last three ids of each document leaves those."""
    reports = []
    for name, marked in (("whole", 10**9), ("ends", 3)):
        with Draft(tmp_path / name, "tokens", "tokenize") as out:
            for file in tokens.files:
                shutil.copyfile(tokens.path / file, out.path / file)
            for table in out.path.glob(f"*.{TABLE}"):
                sizes = pd.read_parquet(table)["num_tokens"]
                mask = np.concatenate([np.arange(size)[::-1] < marked for size in sizes])
                np.save(table.with_name(table.name.replace(TABLE, LOSS)), mask)
            masked = out.publish(tokens.stats)
        reports.append(_evaluate(model, masked, cleaned, tmp_path / f"{name}-report"))
    whole, ends = reports
    assert whole.stats == pytest.approx(dict(report.stats))
    assert ends.stats["test_tokens"] == 3 * ends.stats["test_documents"]
    # Two ids of text and the end id, which has none.
    assert ends.stats["test_bytes"] < report.stats["test_bytes"] / 20
    assert ends.stats["perplexity"] == pytest.approx(report.stats["perplexity"], rel=0.2)  # an untrained model


def test_xz_is_primed_with_the_training_documents(report: Artifact, cleaned: Artifact) -> None:
    texts = {
        split: [d.text.encode() for d in read_documents(cleaned.path, CleanDocument) if d.split == split]
        for split in ("train", "test")
    }
    alone, primed = xz_bits(lambda: texts["train"], lambda: texts["test"])
    num_bytes = report.stats["test_bytes"]
    assert report.stats["xz_bits_per_byte"] == pytest.approx(alone / num_bytes)
    assert report.stats["xz_primed_bits_per_byte"] == pytest.approx(primed / num_bytes)


def test_the_table_adds_up_to_the_metrics(report: Artifact) -> None:
    table = pd.read_parquet(report.path / "documents.parquet")
    assert list(table.columns) == [
        "sha256",
        "source",
        "start",
        "num_bytes",
        "num_tokens",
        "bits",
        "unigram_bits",
        "ngram_bits",
    ]
    for bits, name in (
        ("bits", "bits_per_byte"),
        ("unigram_bits", "unigram_bits_per_byte"),
        ("ngram_bits", "ngram_bits_per_byte"),
    ):
        assert table[bits].sum() / table["num_bytes"].sum() == pytest.approx(report.stats[name])


def test_scoring_the_texts_with_the_models_own_tokenizer_gives_the_same(
    report: Artifact, model: Artifact, cleaned: Artifact
) -> None:
    texts = [entry.text for entry in read_documents(cleaned.path, CleanDocument) if entry.split == "test"]
    scored = score_texts(load_pretrained(model.path), Tokenizer.load(model.path), texts, Scoring(16, 8))
    table = pd.read_parquet(report.path / "documents.parquet")
    assert scored["num_tokens"].tolist() == table["num_tokens"].tolist()
    assert scored["bits"].tolist() == pytest.approx(table["bits"].tolist(), rel=1e-3)


def test_samples_continue_the_prompts(report: Artifact) -> None:
    samples = json.loads((report.path / "samples.json").read_text())
    assert [sample["prompt"] for sample in samples] == list(CFG.prompts)
    assert all(sample["text"] for sample in samples)


def test_a_second_run_makes_the_same_artifact_and_leaves_torch_as_it_was(
    report: Artifact, model: Artifact, tokens: Artifact, cleaned: Artifact, tmp_path: Path
) -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    again = _evaluate(model, tokens, cleaned, tmp_path / "again")
    assert again.digest == report.digest
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_the_digest_names_the_held_out_documents_in_any_order(report: Artifact) -> None:
    hashes = pd.read_parquet(report.path / "documents.parquet")["sha256"].tolist()
    assert report.stats["heldout_digest"] == heldout_digest(reversed(hashes))
    assert report.stats["heldout_digest"] != heldout_digest(hashes[1:])
