"""Programs that a model writes, judged by running their tests: pass@k.

An example is {"prompt": beginning of a program, "test": code that defines check(candidate), "entry_point": name}, as in
HumanEval. Programs run in `sandbox`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from llm_core.evals.sandbox import Limits, run_program
from llm_core.evals.suite import Example, Metric, Subject, Suite

STOP = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\nassert ")
"""Where a function's body ends."""


def code_suite(
    name: str = "code", max_tokens: int = 256, limits: Limits | None = None, *, isolated: bool = True
) -> Suite:
    """A suite of one answer at temperature 0 a problem: pass@1."""

    def score(subject: Subject, examples: Sequence[Example]) -> pd.DataFrame:
        answers = subject.write([example["prompt"] for example in examples], max_tokens, STOP)
        return score_samples(examples, [[answer] for answer in answers], (1,), limits, isolated=isolated)

    return Suite(name, metrics((1,)), score)


def metrics(ks: Sequence[int]) -> tuple[Metric, ...]:
    return tuple(Metric(f"pass@{k}", f"pass@{k}") for k in ks)


def score_samples(
    examples: Sequence[Example],
    samples: Sequence[Sequence[str]],
    ks: Sequence[int],
    limits: Limits | None = None,
    *,
    isolated: bool = True,
) -> pd.DataFrame:
    """A row a problem: how many of its samples ran through, and pass@k for each k."""
    rows = []
    for example, texts in zip(examples, samples, strict=True):
        right = sum(run_program(program(example, text), limits, isolated=isolated).passed for text in texts)
        shares = {f"pass@{k}": pass_at_k(len(texts), right, k) for k in ks}
        rows.append({"num_samples": len(texts), "num_right": right, **shares})
    return pd.DataFrame(rows, columns=["num_samples", "num_right", *(f"pass@{k}" for k in ks)])


def program(example: Example, completion: str) -> str:
    """The whole of what runs: the beginning, what was written behind it, the tests and their call."""
    return f"{example['prompt']}{completion}\n{example['test']}\ncheck({example['entry_point']})\n"


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The chance that one of k samples drawn from these is right: the unbiased estimate of Chen et al. (2021)."""
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {samples} samples: k must be between 1 and their number; write more samples")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)
