"""Train the recipe's model on the token arrays: weights and configs in the Hugging Face layout, and the loss curve.

With several ranks (train.ranks) the stage starts them and publishes what they made; each of them is this module, run
by torch's launcher.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from llm_core.artifact import Artifact, Draft, Silent
from llm_core.checkpoint import Checkpoints
from llm_core.config import Model, Train
from llm_core.data import Batch, Batches, Objective, in_order, open_tokens
from llm_core.devices import circumstances, computing, pick_device, pick_precision, product_rate
from llm_core.models import build, save_pretrained
from llm_core.models.interface import LanguageModel, Network
from llm_core.objectives import control_tokens, make_objective
from llm_core.operations import operations_of, sequences_of
from llm_core.optim import Optimizers
from llm_core.parallel import gather_weights, split_weights, threads_of_a_rank
from llm_core.ranks import Alone, Ranks
from llm_core.tokenizer.control import copy_with_control_tokens
from llm_core.train import Speed, State, fit, write_curve
from llm_core.warm_start import check_start, started
from llm_core.working_copy import Running, compiles, pays_to_compile
from tasks.launch import Fitted, launch, work_as_rank

SPREAD = ("distributed", "ranks", "max_restarts")  # recipe keys
VALIDATION_WINDOWS = 16  # windows of one validation batch: bounds memory, never changes the loss


def train(cfg: Train, architecture: Model, seed: int, tokens: Artifact, tokenizer: Artifact, out: Draft) -> Artifact:
    """Fit the model and publish it as a model artifact; checkpoints go to the draft's scratch folder, if it has one."""
    work = launch if cfg.ranks > 1 else fit_model
    fitted = work(cfg, architecture, seed, tokens, tokenizer, out)
    artifact = out.publish(fitted.stats, fitted.circumstances)
    clear_checkpoints(out)
    return artifact


def fit_model(
    cfg: Train,
    architecture: Model,
    seed: int,
    tokens: Artifact,
    tokenizer: Artifact,
    out: Draft,
    ranks: Ranks = Alone(),  # noqa: B008 - immutable
    checkpoint_ranks: Ranks = Alone(),  # noqa: B008
) -> Fitted:
    """Train, alone or as one rank of several; rank 0 writes the model's files into the draft's folder."""
    device = pick_device()
    dtype = pick_precision(cfg.precision, device)
    vocab_size, end_id = tokens.stats["vocab_size"], tokens.stats["end_id"]
    added = control_tokens(cfg, architecture)
    start = _start(cfg, tokenizer, added, out)
    objective = make_objective(cfg, architecture, vocab_size, end_id)
    batches = _batches(cfg, architecture, seed, tokens, objective)
    cfg = _in_steps(cfg, batches)
    num_threads = cfg.threads if cfg.threads or ranks.size == 1 else threads_of_a_rank()
    with computing(num_threads) as threads, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + ranks.rank)  # what is dropped differs from rank to rank

        def new_model() -> Network:
            make = build if start is None else partial(started, start, cfg.start_name)
            return make(architecture, vocab_size + len(added), end_id, seed)

        model = new_model().to(device)
        running = _running(cfg, model, batches, dtype, out, ranks)
        causes = {**circumstances(device, dtype, threads), "compiled": running.compile}
        speed = Speed(operations_per_token(model, architecture, cfg), ranks.size * product_rate(device, dtype))
        if running.distributed == "fsdp":
            split_weights(model, dtype)
        state = State(model, Optimizers(model, cfg), ranks=ranks)
        checkpoints = _checkpoints(out, cfg, tokens, causes, checkpoint_ranks)
        validation = _validation(cfg, architecture, tokens, objective)
        observer = out.observer if ranks.rank == 0 else Silent()
        fit(state, cfg, batches, validation, running, observer, checkpoints, speed)
    with state.averaged():
        trained = gather_weights(model, new_model, ranks) if running.distributed == "fsdp" else model
        if ranks.rank == 0 and trained is not None:
            save_pretrained(trained, out.path)
    if ranks.rank == 0:
        write_curve(out.path / "loss.csv", state.curve)
        copy_with_control_tokens(tokenizer.path, out.path, added)
    begun = {} if start is None else {"started_from": cfg.start_name}
    return Fitted({**_stats(state), **begun}, {**causes, "steps": state.step, **_how_spread(state, running)})


def clear_checkpoints(out: Draft) -> None:
    """Forget the checkpoints of a model that is published: a later rebuild must train, not find the answer."""
    if out.scratch is not None:
        Checkpoints(out.scratch, {}, keep=1).clear()


def _how_spread(state: State, running: Running) -> dict[str, Any]:
    """How many ranks there were, which changes the last bits; nothing for one process."""
    if not state.num_ranks:
        return {}
    always = state.num_ranks[0][0] == 0 and len(state.num_ranks) == 1
    return {"distributed": running.distributed, "ranks": state.num_ranks[0][1] if always else state.num_ranks}


def operations_per_token(model: Network, architecture: Model, cfg: Train) -> float:
    """Floating-point operations of training on a token of text; what `recompute` does twice counts once."""
    assert isinstance(model, LanguageModel)  # every family was made for one of its tasks
    return operations_of(model, architecture, sequences_of(architecture, cfg)).training / architecture.context


def _start(cfg: Train, tokenizer: Artifact, added: Sequence[str], out: Draft) -> Path | None:
    """The folder of the model to start from, which is the pinned one and speaks the run's tokens."""
    if cfg.start == "scratch":
        return None
    assert out.starts is not None, "a start needs the folder of starts"
    check_start(out.starts / cfg.start_sha256, cfg.start_name, cfg.start_sha256, tokenizer.path, added)
    return out.starts / cfg.start_sha256


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


def _running(cfg: Train, model: Network, batches: Batches, dtype: torch.dtype, out: Draft, ranks: Ranks) -> Running:
    """How the network computes; whether it compiles is tried out, and goes into the circumstances."""
    running = Running(dtype, distributed=cfg.distributed if ranks.size > 1 else "none")
    if ranks.size > 1 and running.distributed == "none":
        raise ValueError(f"train.distributed none: {ranks.size} ranks were started; set it to ddp or fsdp")
    if running.distributed == "fsdp":
        if cfg.compile == "on":
            raise ValueError("train.compile on: a network that fsdp has split is not compiled here; set auto or off")
        return running
    if not pays_to_compile(cfg.compile, model, cfg):
        return running
    if out.memo is not None:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(out.memo.parent / "compiled"))
    works = compiles(model, cfg, Running(dtype, compile=True), batches[0])
    return replace(running, compile=all(answer == "yes" for answer in ranks.gather("yes" if works else "no")))


def _checkpoints(
    out: Draft, cfg: Train, tokens: Artifact, causes: Mapping[str, Any], ranks: Ranks
) -> Checkpoints | None:
    if out.scratch is None:
        return None
    recipe = dict(out.recipe)
    if "train" in recipe:  # other numbers of ranks may go on from here
        recipe["train"] = {key: value for key, value in recipe["train"].items() if key not in SPREAD}
    identity = {"recipe": recipe, "tokens": tokens.digest, "code": out.code, "circumstances": dict(causes)}
    return Checkpoints(out.scratch, identity, cfg.keep_checkpoints, pin_every=cfg.checkpoint_every, ranks=ranks)


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


if __name__ == "__main__":
    sys.exit(work_as_rank(sys.argv[1], fit_model))
