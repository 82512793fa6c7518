"""Every family goes through train and evaluate: a complete folder, scores of all documents, the same from the texts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from llm_core.artifact import Artifact, Draft
from llm_core.config import Evaluate, Model, Train
from llm_core.models import load_pretrained
from llm_core.tokenizer import Tokenizer
from tasks.evaluate import evaluate
from tasks.scores import score_heldout
from tasks.train import train

CFG = Train(steps=3, batch_tokens=128, warmup_steps=0, threads=1, precision="float32", embedding_lr=0.01)
SCORED = Evaluate(stride=16, batch_windows=8, prompts=("we the people",), sample_tokens=5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "t5", "transformer", "lstm"])
def test_a_family_is_trained_scored_and_scored_again_by_the_gate(
    family: str, tokens: Artifact, vocabulary: Artifact, cleaned: Artifact, tmp_path: Path
) -> None:
    shape = Model(family=family, num_layers=1, width=16, num_heads=2, num_kv_heads=2, mlp_width=16, context=32)
    with Draft(tmp_path / "train", "model", "train") as out:
        model = train(CFG, shape, 7, tokens, vocabulary, out)
    network = load_pretrained(model.path)
    tokenizer = Tokenizer.load(model.path)
    assert tokenizer.vocab_size == network.config.vocab_size >= tokens.stats["vocab_size"]
    with Draft(tmp_path / "evaluate", "report", "evaluate") as out:
        report = evaluate(SCORED, 7, model, tokens, cleaned, out)
    table = pd.read_parquet(report.path / "documents.parquet").set_index("sha256")
    assert (table["bits"] > 0).all() and report.stats["test_documents"] == len(table) > 0
    again = score_heldout(SCORED, model.path, cleaned, tmp_path / "memo")
    assert again[table.index].to_numpy() == pytest.approx(table["bits"].to_numpy(), rel=1e-3)
