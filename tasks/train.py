"""Train the recipe's model on the token arrays: weights and configs in the Hugging Face layout, and the loss curve."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import torch

from llm_core.artifact import Artifact, Draft
from llm_core.checkpoint import Checkpoints
from llm_core.config import Model, Train
from llm_core.data import Batches, in_order, open_tokens
from llm_core.devices import circumstances, computing, pick_device, pick_precision
from llm_core.models import build, save_pretrained
from llm_core.optim import Optimizers
from llm_core.train import Batch, State, fit, write_curve

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
VALIDATION_WINDOWS = 16  # windows of one validation batch: bounds memory, never changes the loss


def train(cfg: Train, architecture: Model, seed: int, tokens: Artifact, tokenizer: Artifact, out: Draft) -> Artifact:
    """Fit the model and publish it as a model artifact; checkpoints go to the draft's scratch folder, if it has one."""
    device = pick_device()
    dtype = pick_precision(cfg.precision, device)
    with computing(cfg.threads) as threads, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        causes = circumstances(device, dtype, threads)
        model = build(architecture, tokens.stats["vocab_size"], tokens.stats["end_id"], seed).to(device)
        state = State(model, Optimizers(model, cfg))
        ids = open_tokens(tokens.path, "train")
        batches = Batches(ids, architecture.context, cfg.batch_tokens // architecture.context, seed)
        checkpoints = _checkpoints(out, cfg, tokens, causes)
        fit(state, cfg, batches, _validation(cfg, architecture, tokens), dtype, out.observer, checkpoints)
    save_pretrained(model, out.path)
    write_curve(out.path / "loss.csv", state.curve)
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer.path / name, out.path / name)
    artifact = out.publish(_stats(state), {**causes, "steps": state.step})
    if checkpoints is not None:
        checkpoints.clear()  # a later rebuild must train, not find the answer
    return artifact


def _checkpoints(out: Draft, cfg: Train, tokens: Artifact, causes: Mapping[str, Any]) -> Checkpoints | None:
    if out.scratch is None:
        return None
    identity = {"recipe": dict(out.recipe), "tokens": tokens.digest, "code": out.code, "circumstances": dict(causes)}
    return Checkpoints(out.scratch, identity, cfg.keep_checkpoints)


def _validation(cfg: Train, architecture: Model, tokens: Artifact) -> list[Batch]:
    """The first windows of the validation split, at most `cfg.validation_tokens` tokens; empty if it is too short."""
    ids = open_tokens(tokens.path, "validation").head(cfg.validation_tokens + 1)
    return list(in_order(ids, architecture.context, VALIDATION_WINDOWS))


def _stats(state: State) -> dict[str, Any]:
    losses = [point.validation_loss for point in state.curve if point.validation_loss is not None]
    last_and_best = {"validation_loss": losses[-1], "best_validation_loss": min(losses)} if losses else {}
    return {
        "parameters": sum(parameter.numel() for parameter in state.model.parameters()),
        "steps": state.step,
        "tokens_seen": state.tokens,
        "train_loss": round(state.curve[-1].train_loss, 6),
        **{name: round(loss, 6) for name, loss in last_and_best.items()},
    }
