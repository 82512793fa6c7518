"""Train the recipe's model on the token arrays: weights and configs in the Hugging Face layout, and the loss curve."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import torch

from llm_core.artifact import Artifact, Draft
from llm_core.checkpoint import Checkpoints
from llm_core.config import Model, Train
from llm_core.data import Batch, Batches, Objective, in_order, open_tokens
from llm_core.devices import circumstances, computing, pick_device, pick_precision, product_rate
from llm_core.models import build, save_pretrained
from llm_core.models.interface import LanguageModel, Network
from llm_core.objectives import control_tokens, make_objective
from llm_core.operations import operations_of, sequences_of
from llm_core.optim import Optimizers
from llm_core.tokenizer.control import copy_with_control_tokens
from llm_core.train import Speed, State, fit, write_curve
from llm_core.working_copy import Running, compiles, pays_to_compile

VALIDATION_WINDOWS = 16  # windows of one validation batch: bounds memory, never changes the loss


def train(cfg: Train, architecture: Model, seed: int, tokens: Artifact, tokenizer: Artifact, out: Draft) -> Artifact:
    """Fit the model and publish it as a model artifact; checkpoints go to the draft's scratch folder, if it has one."""
    device = pick_device()
    dtype = pick_precision(cfg.precision, device)
    vocab_size, end_id = tokens.stats["vocab_size"], tokens.stats["end_id"]
    added = control_tokens(cfg, architecture)
    objective = make_objective(cfg, architecture, vocab_size, end_id)
    batches = _batches(cfg, architecture, seed, tokens, objective)
    cfg = _in_steps(cfg, batches)
    with computing(cfg.threads) as threads, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(architecture, vocab_size + len(added), end_id, seed).to(device)
        running = _running(cfg, model, batches, dtype, out)
        causes = {**circumstances(device, dtype, threads), "compiled": running.compile}
        state = State(model, Optimizers(model, cfg))
        checkpoints = _checkpoints(out, cfg, tokens, causes)
        speed = Speed(operations_per_token(model, architecture, cfg), product_rate(device, dtype))
        validation = _validation(cfg, architecture, tokens, objective)
        fit(state, cfg, batches, validation, running, out.observer, checkpoints, speed)
    with state.averaged():
        save_pretrained(model, out.path)
    write_curve(out.path / "loss.csv", state.curve)
    copy_with_control_tokens(tokenizer.path, out.path, added)
    artifact = out.publish(_stats(state), {**causes, "steps": state.step})
    if checkpoints is not None:
        checkpoints.clear()  # a later rebuild must train, not find the answer
    return artifact


def operations_per_token(model: Network, architecture: Model, cfg: Train) -> float:
    """Floating-point operations of training on a token of text; what `recompute` does twice counts once."""
    assert isinstance(model, LanguageModel)  # every family was made for one of its tasks
    return operations_of(model, architecture, sequences_of(architecture, cfg)).training / architecture.context


def _batches(cfg: Train, architecture: Model, seed: int, tokens: Artifact, objective: Objective) -> Batches:
    return Batches(
        open_tokens(tokens.path, "train"),
        architecture.context,
        cfg.batch_tokens // architecture.context,
        seed,
        objective,
        batch_warmup=cfg.batch_warmup_steps,
        sequence_warmup=cfg.sequence_warmup_steps,
    )


def _in_steps(cfg: Train, batches: Batches) -> Train:
    """The settings with epochs turned into the steps that they take on this data."""
    changes = {}
    if cfg.epochs:
        changes["steps"] = batches.batches_in(cfg.epochs)
        changes["warmup_steps"] = min(cfg.warmup_steps, changes["steps"])
    if cfg.validate_epochs:
        changes["validate_every"] = max(1, math.ceil(cfg.validate_epochs * batches.windows_per_epoch / batches.windows))
    return cfg.model_copy(update=changes)


def _running(cfg: Train, model: Network, batches: Batches, dtype: torch.dtype, out: Draft) -> Running:
    """How the network computes; whether it compiles is tried out, and goes into the circumstances."""
    running = Running(dtype, compile=True)
    if not pays_to_compile(cfg.compile, model, cfg):
        return Running(dtype)
    if out.memo is not None:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(out.memo.parent / "compiled"))
    return running if compiles(model, cfg, running, batches[0]) else Running(dtype)


def _checkpoints(out: Draft, cfg: Train, tokens: Artifact, causes: Mapping[str, Any]) -> Checkpoints | None:
    if out.scratch is None:
        return None
    identity = {"recipe": dict(out.recipe), "tokens": tokens.digest, "code": out.code, "circumstances": dict(causes)}
    return Checkpoints(out.scratch, identity, cfg.keep_checkpoints, pin_every=cfg.checkpoint_every)


def _validation(cfg: Train, architecture: Model, tokens: Artifact, objective: Objective) -> list[Batch]:
    """The first windows of the validation split, at most `cfg.validation_tokens` tokens; empty if it is too short."""
    ids = open_tokens(tokens.path, "validation").head(cfg.validation_tokens + 1)
    return list(in_order(ids, architecture.context, VALIDATION_WINDOWS, objective))


def _stats(state: State) -> dict[str, Any]:
    losses = [point.validation_loss for point in state.curve if point.validation_loss is not None]
    last_and_best = {"validation_loss": losses[-1], "best_validation_loss": min(losses)} if losses else {}
    return {
        "parameters": sum(parameter.numel() for parameter in state.model.parameters()),
        "steps": state.step,
        "tokens_seen": state.tokens,
        **({"ended": state.ended} if state.ended else {}),
        **({"left_out": state.left_out} if state.left_out else {}),
        "train_loss": round(state.curve[-1].train_loss, 6),
        **{name: round(loss, 6) for name, loss in last_and_best.items()},
    }
