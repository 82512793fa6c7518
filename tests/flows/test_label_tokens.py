"""From people's answers to a model that has learned them, and nothing but them."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from flows.label_cli import label_app
from llm_core.artifact import Artifact, Silent
from llm_core.config import Model, Train
from llm_core.data import Batches, in_order, open_tokens
from llm_core.devices import computing
from llm_core.generate import generate
from llm_core.labels.task import Task
from llm_core.models import build
from llm_core.objectives import Causal
from llm_core.optim import Optimizers
from llm_core.tokenizer import TURN_END, Tokenizer
from llm_core.tokenizer.conversation import encode_conversation
from llm_core.train import State, fit
from llm_core.working_copy import Running
from tests.llm_core.labels.tasks import record, write

SHAPE = Model(num_layers=2, width=32, num_heads=2, num_kv_heads=2, mlp_width=64, context=32)
CFG = Train(steps=120, batch_tokens=512, warmup_steps=5, validate_every=120, lr=1e-2, threads=1, precision="float32")
ANSWERS = {"a": "alpha", "b": "beta"}
LETTERS = "cdefghijklmnop"
SHARES = ("--test-share", "0", "--validation-share", "0.1", "--json")


def make_tokens(folder: Path) -> Artifact:
    """Run the commands: noise that nobody can predict, and at its end the letter that the answer follows from."""
    rng, records = random.Random(1), []
    for number in range(200):
        letter = rng.choice("ab")
        task = Task("pairs", {"text": "".join(rng.choices(LETTERS, k=8)) + letter}, f"{number:064x}", "noise.txt")
        records.append(record(task, {1: ANSWERS[letter]}, number))
    (folder / "tokenizer").mkdir()
    Tokenizer.train(["user assistant alpha beta"] * 4, vocab_size=300).save(folder / "tokenizer")
    results, labels, tokens = write(folder, records), str(folder / "labels"), str(folder / "tokens")
    for command in (
        ["import", str(results), "--task", "pairs", "--out", labels],
        ["tokens", labels, "--tokenizer", str(folder / "tokenizer"), "--out", tokens, *SHARES],
    ):
        done = CliRunner().invoke(label_app, command)
        assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["digest"] == Artifact.open(folder / "tokens").digest
    return Artifact.open(folder / "tokens", kind="tokens")


def test_a_model_learns_the_answers_and_its_loss_counts_them_alone(tmp_path: Path) -> None:
    tokens, tokenizer = make_tokens(tmp_path), Tokenizer.load(tmp_path / "tokenizer")
    with computing(threads=1), torch.random.fork_rng(devices=[]):
        model = build(SHAPE, tokens.stats["vocab_size"], tokens.stats["end_id"], seed=1)
        state = State(model, Optimizers(model, CFG))
        validation = list(in_order(open_tokens(tokens.path, "validation"), SHAPE.context, 4, Causal()))
        batches = Batches(
            open_tokens(tokens.path, "train"), SHAPE.context, CFG.batch_tokens // SHAPE.context, 1, Causal()
        )
        fit(state, CFG, batches, validation, Running(), Silent())
    # Eight letters of noise in each pair cost 21 nats: a loss that counted them would stay near one a token.
    assert state.curve[-1].train_loss < 0.3
    assert state.tokens == sum(batches[step].num_counted for step in range(CFG.steps))
    assert state.tokens < 0.5 * CFG.steps * CFG.batch_tokens
    assert state.curve[-1].validation_loss == pytest.approx(marked_loss(model, tokens.path), rel=1e-3)
    for letter, answer in ANSWERS.items():
        asked = [{"role": "user", "content": f"ponmlkji{letter}"}, {"role": "assistant", "content": answer}]
        ids, mask = encode_conversation(tokenizer, asked)
        prompt = ids[: int(np.flatnonzero(mask)[0])].tolist()
        stop_ids = {tokenizer.special_ids[TURN_END]}
        written = list(generate(model, prompt, max_tokens=12, temperature=0.0, stop_ids=stop_ids))
        assert tokenizer.decode(written) == answer


@torch.no_grad()
def marked_loss(model: torch.nn.Module, folder: Path) -> float:
    """The mean loss of the validation split's marked ids, from the files themselves."""
    (ids_path,), (mask_path,) = (sorted(folder.glob(f"*.validation.{kind}.npy")) for kind in ("tokens", "loss"))
    ids, mask = torch.from_numpy(np.load(ids_path).astype(np.int64)), np.load(mask_path)
    losses: list[float] = []
    for start in range(0, len(ids) - SHAPE.context, SHAPE.context):
        window = ids[start : start + SHAPE.context + 1]
        each = F.cross_entropy(model(window[None, :-1]).logits[0], window[1:], reduction="none")
        losses += each[torch.from_numpy(mask[start + 1 : start + SHAPE.context + 1])].tolist()
    assert losses
    return math.fsum(losses) / len(losses)
