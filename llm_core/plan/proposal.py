"""A recipe for a budget of operations: how large, how wide and deep, on how many tokens, in which batches.

N parameters, V vocabulary, C width, L layers, M width of the feed-forward layers, H query heads, G key/value heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from llm_core.config import Model, Recipe, Train
from llm_core.config.recipe import parse_recipe
from llm_core.operations import Sequences, operations_of
from llm_core.plan.estimate import Plan, plan_recipe
from llm_core.plan.machines import Machine
from llm_core.plan.network import on_meta
from llm_core.plan.scaling import Law, ScalingError, TokensPerParameter

MIN_FLOPS, MAX_FLOPS = 1e12, 1e24
HEAD_SIZE = 64
WIDTH_PER_LAYER = 64  # the loss hardly changes from half to three times of it (Kaplan et al., 2020, figure 5)
# Up to so many parameters: entries of the vocabulary, tokens of context.
SIZES = ((3e6, 2048, 256), (2e7, 4096, 512), (6e7, 8192, 512), (2e8, 16384, 1024), (6e8, 32768, 1024))
LARGEST = (32768, 2048)
TIED_BELOW = 3e6  # such a small network would be half vocabulary
MAX_LR = 3e-3  # the demo's, found by trial; the power law below was fitted to larger budgets
MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class Proposal:
    """A recipe that spends a budget as a law says."""

    flops: float
    law: Law | TokensPerParameter
    ideal_parameters: float
    """What the law asks for; the recipe's shape comes close to it."""
    changes: dict[str, Any]
    """The recipe's values that are not those of the recipe it inherits from."""
    plan: Plan

    @property
    def expected_loss(self) -> float | None:
        """The law's loss at the recipe's size, in nats per token of the law's corpus; a rule of thumb has none."""
        return self.law.loss(self.plan.parameters.total, self.plan.tokens) if isinstance(self.law, Law) else None

    def to_yaml(self, path: str, parent: str) -> str:
        """The content of a recipe file."""
        on = self.plan.machines[0]
        expected = f"; {self.law.name} expects a loss of {self.expected_loss:.2f}" if self.expected_loss else ""
        header = (
            f"# command:  tidemill run {path}\n"
            f"# hardware: planned for {on.machine.name}, {on.resident_bytes / 1e9:.1f} GB\n"
            f"# time:     {on.seconds / 3600:.3g} hours expected at {on.machine.mfu:.0%} of its matrix rate\n"
            f"# result:   planned, not trained{expected}\n"
            f"# {self.flops:.3g} operations, law {self.law.name} ({self.law.source}).\n"
            f"# It wants {self.plan.tokens:,} tokens of text: set collect.sources to a corpus of that size.\n"
        )
        return header + yaml.safe_dump({"inherit": parent, **self.changes}, sort_keys=False)


def propose(flops: float, law: Law | TokensPerParameter, base: Recipe, machine: Machine, name: str) -> Proposal:
    """A recipe of the Llama family for `flops`, over the values of `base`, that fits the machine's memory if it can.

    Rates and batch follow Bi et al. (2024, DeepSeek LLM), section 3.1: ``lr = 0.3118 C^-0.125``,
    ``batch tokens = 0.2920 C^0.3271``. Raises ScalingError for a budget that no law covers.
    """
    if not MIN_FLOPS <= flops <= MAX_FLOPS:
        raise ScalingError(f"a budget of {flops:.3g} operations: give one from {MIN_FLOPS:.0e} to {MAX_FLOPS:.0e}")
    ideal = law.parameters_for(flops)
    model, vocab_size = shape_for(ideal)
    train = _train(flops, model, vocab_size)
    changes = {
        "name": name,
        "tokenizer": {"vocab_size": vocab_size},
        "model": model.model_dump(include=set(_SHAPE)),
        "train": train,
        "evaluate": {"stride": model.context // 2},
        "register": {"line": name},
    }
    for micro_batch in _halvings(train["batch_tokens"], model.context):
        train["micro_batch_tokens"] = 0 if micro_batch == train["batch_tokens"] else micro_batch
        plan = plan_recipe(_over(base, changes), [machine])
        if plan.machines[0].resident_bytes <= MEMORY_SHARE * machine.memory_bytes:
            break
    return Proposal(flops, law, ideal, changes, plan)


def shape_for(parameters: float) -> tuple[Model, int]:
    """The Llama of about so many parameters, and its vocabulary: heads of 64, SwiGLU of 8/3 (Shazeer, 2020)."""
    vocab_size, context = next((tuple(rest) for limit, *rest in SIZES if parameters < limit), LARGEST)
    tied = parameters < TIED_BELOW

    def distance(shape: Model) -> float:
        size = math.log2(num_parameters(shape, vocab_size) / parameters)
        return abs(size) + 0.1 * abs(math.log2(shape.width / shape.num_layers / WIDTH_PER_LAYER))

    return min((_llama(width, depth, context, tied) for width, depth in _grid()), key=distance), vocab_size


def num_parameters(shape: Model, vocab_size: int) -> int:
    """N of a Llama without biases: ``V C``, or 2 V C with a head, and ``L (2 C^2 + 2 C G D + 3 C M + 2 C) + C``."""
    width, kv_width = shape.width, shape.num_kv_heads * (shape.width // shape.num_heads)
    block = 2 * width * width + 2 * width * kv_width + 3 * width * shape.mlp_width + 2 * width
    return vocab_size * width * (1 if shape.tie_embeddings else 2) + shape.num_layers * block + width


_SHAPE = ("num_layers", "width", "num_heads", "num_kv_heads", "mlp_width", "context", "tie_embeddings")


def _grid() -> Iterator[tuple[int, int]]:
    for heads in range(1, 129):
        for depth in range(2, 97):
            if 16 <= heads * HEAD_SIZE / depth <= 256:
                yield heads * HEAD_SIZE, depth


def _llama(width: int, depth: int, context: int, tied: bool) -> Model:
    heads = width // HEAD_SIZE
    # Few key/value heads save memory where decoding needs it (Ainslie et al., 2023); small networks need them all.
    shared = next((by for by in (4, 3) if heads >= 12 and heads % by == 0), 1)
    mlp_width = 64 * round(8 / 3 * width / 64)
    return Model(
        num_layers=depth,
        width=width,
        num_heads=heads,
        num_kv_heads=heads // shared,
        mlp_width=mlp_width,
        context=context,
        tie_embeddings=tied,
    )


def _train(flops: float, model: Model, vocab_size: int) -> dict[str, Any]:
    one_sequence = {"train": {"batch_tokens": model.context}, "evaluate": {"stride": 8}}
    values = {"model": model.model_dump(), "tokenizer": {"vocab_size": vocab_size}, **one_sequence}
    network = on_meta(Recipe.model_validate(values))
    work = operations_of(network, model, Sequences(0, model.context, model.context))
    tokens = flops / (work.training / model.context)
    wanted = min(0.2920 * flops**0.3271, tokens / 100)  # at least a hundred steps
    batch = model.context * 2 ** max(0, round(math.log2(wanted / model.context)))
    steps = max(1, round(tokens / batch))
    rate = float(f"{min(MAX_LR, 0.3118 * flops**-0.125):.2g}")
    every = max(1, steps // 20)
    return {
        "steps": steps,
        "batch_tokens": batch,
        "micro_batch_tokens": 0,
        "lr": rate,
        # Tied to the head the embedding wants a tenth of the rate (see the recipe reference).
        "embedding_lr": Train().embedding_lr * (0.1 if model.tie_embeddings else 1.0),
        "head_lr": rate,
        "norm_lr": rate,
        "warmup_steps": min(steps, 2000, max(10, steps // 50)),
        "validate_every": every,
        "checkpoint_every": min(every, 1000),
    }


def _halvings(batch_tokens: int, context: int) -> Iterator[int]:
    while batch_tokens >= context:
        yield batch_tokens
        batch_tokens //= 2


def _over(base: Recipe, changes: dict[str, Any]) -> Recipe:
    values = base.resolved()
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    return parse_recipe(values, where="the proposed recipe")
