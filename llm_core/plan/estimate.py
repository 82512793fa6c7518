"""One recipe's plan: its network, its training's operations, memory and time on each machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from llm_core.config import Recipe
from llm_core.operations import Operations, Sequences, operations_of, sequences_of
from llm_core.plan.machines import ACCELERATORS, Machine, precision_on
from llm_core.plan.memory import Memory, memory_of
from llm_core.plan.network import Parameters, cache_bytes_per_token, on_meta, parameters_of

PROGRAM_BYTES = 450_000_000
"""The interpreter with torch and its kernels, which a CPU's memory holds besides."""
HEAP_SHARE = 1.2
"""What a CPU's heap takes of the system for a byte in use: of freed blocks it keeps the holes."""


@dataclass(frozen=True)
class OnMachine:
    """The training on one machine."""

    machine: Machine
    precision: str
    memory: Memory
    seconds: float
    tokens_per_second: float

    @property
    def resident_bytes(self) -> int:
        """The peak as the machine sees it: on a CPU with the heap's holes and the program itself."""
        if self.machine.name in ACCELERATORS:
            return self.memory.peak
        return int(self.memory.peak * HEAP_SHARE) + PROGRAM_BYTES

    @property
    def fits(self) -> bool:
        """Whether that is no more than the machine has."""
        return self.resident_bytes <= self.machine.memory_bytes


@dataclass(frozen=True)
class Plan:
    """What training a recipe takes."""

    recipe: str
    family: str
    parameters: Parameters
    sequences: Sequences
    operations: Operations
    """Of one sequence."""
    context: int
    tokens: int
    """Tokens of text in the whole training."""
    steps: int
    cache_bytes_per_token: int
    """Of decoding, in bfloat16."""
    machines: tuple[OnMachine, ...]

    @property
    def training_flops(self) -> float:
        """Operations of the whole training."""
        return self.operations.training * self.tokens / self.context

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values, with the derived ones."""
        work = self.operations
        per_token = {
            "forward": work.forward / self.context,
            "backward": work.backward / self.context,
            "recompute": work.repeated / self.context,
            "attention_forward": work.attention / self.context,
            "training": work.training / self.context,
            "six_n": 6 * self.parameters.total,
        }
        return {
            "recipe": self.recipe,
            "family": self.family,
            "parameters": asdict(self.parameters),
            "sequence": {"context": self.context, **self.sequences._asdict()},
            "flops_per_token": per_token,
            "training": {"steps": self.steps, "tokens": self.tokens, "flops": self.training_flops},
            "tokens_per_parameter": self.tokens / self.parameters.total,
            "cache_bytes_per_token": self.cache_bytes_per_token,
            "machines": [_machine_json(each) for each in self.machines],
        }


def plan_recipe(recipe: Recipe, machines: Sequence[Machine], tokens: int = 0) -> Plan:
    """The plan of a recipe on each of `machines`; `tokens` of text replaces the recipe's steps.

    Raises ValueError where the recipe counts in epochs: how many tokens those are is known only with the data.
    """
    if recipe.train.epochs and not tokens:
        raise ValueError(
            f"train.epochs {recipe.train.epochs}: the tokens of an epoch are not known before the data are; "
            "give --tokens, or --set train.epochs=0 with train.steps"
        )
    shape, cfg = recipe.model, recipe.train
    model, sequences = on_meta(recipe), sequences_of(shape, cfg)
    steps = -(-tokens // cfg.batch_tokens) if tokens else cfg.steps
    operations = operations_of(model, shape, sequences, cfg.recompute)
    total_flops = operations.training * steps * (cfg.batch_tokens / shape.context)
    memories: dict[tuple[torch.dtype, bool], Memory] = {}
    planned = []
    for machine in machines:
        dtype, flash = precision_on(machine, cfg.precision), machine.name in ACCELERATORS
        if (dtype, flash) not in memories:
            memories[dtype, flash] = memory_of(model, shape, cfg, sequences, dtype, flash)
        planned.append(_on_machine(machine, dtype, memories[dtype, flash], total_flops, steps * cfg.batch_tokens))
    return Plan(
        recipe=recipe.name,
        family=shape.family,
        parameters=parameters_of(model, shape),
        sequences=sequences,
        operations=operations,
        context=shape.context,
        tokens=steps * cfg.batch_tokens,
        steps=steps,
        cache_bytes_per_token=cache_bytes_per_token(shape),
        machines=tuple(planned),
    )


def _on_machine(machine: Machine, dtype: torch.dtype, memory: Memory, flops: float, tokens: int) -> OnMachine:
    seconds = flops / (machine.rate(dtype) * machine.mfu)
    return OnMachine(machine, str(dtype).removeprefix("torch."), memory, seconds, tokens / seconds)


def _machine_json(each: OnMachine) -> dict[str, Any]:
    memory = {**asdict(each.memory), "held": each.memory.held, "peak": each.memory.peak}
    plain = {"precision": each.precision, "seconds": each.seconds, "tokens_per_second": each.tokens_per_second}
    return {**asdict(each.machine), **plain, "memory": {**memory, "resident": each.resident_bytes}, "fits": each.fits}
