"""Scaling laws: how many parameters and tokens a budget of operations buys, and a law out of one's own runs.

N parameters, D tokens, C = 6 N D operations, L loss in nats per token.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HUBER_DELTA = 1e-3
MIN_RUNS = 6
"""The law has five constants."""


class ScalingError(ValueError):
    """Runs that no law can be fitted to; the message names the file, the row and what is needed."""


class Run(NamedTuple):
    """One complete training."""

    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class Law:
    """``L(N, D) = E + A / N^alpha + B / D^beta`` (Hoffmann et al., 2022, equation 2)."""

    name: str
    E: float
    """Loss that no size removes: the entropy of the text."""
    A: float
    alpha: float
    B: float
    beta: float
    source: str

    def loss(self, parameters: float, tokens: float) -> float:
        """The loss that the law expects; of another corpus or tokenizer only its differences mean anything."""
        return self.E + self.A * parameters**-self.alpha + self.B * tokens**-self.beta

    def parameters_for(self, flops: float) -> float:
        """The N of the least loss at C = 6 N D (equation 4): ``G (C / 6)^a``, a = beta / (alpha + beta)."""
        total = self.alpha + self.beta
        scale = (self.alpha * self.A / (self.beta * self.B)) ** (1 / total)
        return scale * (flops / 6) ** (self.beta / total)


@dataclass(frozen=True)
class TokensPerParameter:
    """The rule of thumb out of Hoffmann et al. (2022), table 3: D = 20 N."""

    ratio: float = 20.0
    name: str = "twenty"
    source: str = "20 tokens per parameter (Hoffmann et al., 2022, table 3)"

    def parameters_for(self, flops: float) -> float:
        """N where C = 6 N D and D = ratio * N."""
        return math.sqrt(flops / (6 * self.ratio))


LAWS: Mapping[str, Law | TokensPerParameter] = {
    # The paper's fit stopped early; fitted again, N grows with C^0.51 as its approaches 1 and 2 say, and not C^0.45.
    "besiroglu": Law(
        "besiroglu", 1.8172, 482.01, 0.3478, 2085.43, 0.3658, "Besiroglu et al., 2024: approach 3, fitted again"
    ),
    "hoffmann": Law("hoffmann", 1.69, 406.4, 0.34, 410.7, 0.28, "Hoffmann et al., 2022: approach 3"),
    "twenty": TokensPerParameter(),
}


def fit_law(runs: Sequence[Run], name: str = "own runs") -> Law:
    """The law with the least Huber loss between the logs of seen and expected losses (Hoffmann et al., 2022, 3.3).

    From a grid of beginnings, as there, of which the best end counts; each goes by a trust region's least squares,
    which does not stop as early as L-BFGS did in the paper. Raises ScalingError where runs cannot tell the constants
    apart: fewer than six, or fewer than three different numbers of parameters or of tokens.
    """
    from scipy.optimize import least_squares

    if len(runs) < MIN_RUNS:
        raise ScalingError(f"{len(runs)} runs: a law has five constants, give at least {MIN_RUNS}")
    sizes, tokens, losses = np.log(np.array(runs, dtype=np.float64)).T
    for what, values in (("parameters", sizes), ("tokens", tokens)):
        if len(np.unique(values)) < 3:
            raise ScalingError(f"the runs have {len(np.unique(values))} different numbers of {what}, give at least 3")

    def expected(x: Any) -> tuple[Any, Any]:
        # log L is the log of a sum of three exponentials: a - alpha log N, b - beta log D, e.
        a, b, e, alpha, beta = x
        terms = np.stack([a - alpha * sizes, b - beta * tokens, np.full_like(sizes, e)])
        total = np.logaddexp.reduce(terms)
        return total, np.exp(terms - total)

    def errors(x: Any) -> Any:
        return expected(x)[0] - losses

    def slopes(x: Any) -> Any:
        by_a, by_b, by_e = expected(x)[1]
        return np.stack([by_a, by_b, by_e, -by_a * sizes, -by_b * tokens], axis=1)

    settings: dict[str, Any] = {"jac": slopes, "loss": "huber", "f_scale": HUBER_DELTA, "x_scale": "jac"}
    settings |= {"max_nfev": 200, "xtol": 1e-10, "ftol": 1e-10, "gtol": 1e-10}
    beginnings = product((4.0, 12.0), (4.0, 12.0), (0.5,), (0.3, 0.6), (0.3, 0.6))
    ends = [least_squares(errors, start, **settings) for start in beginnings]
    a, b, e, alpha, beta = (float(value) for value in min(ends, key=lambda end: end.cost).x)
    return Law(name, math.exp(e), math.exp(a), alpha, math.exp(b), beta, f"fitted to {len(runs)} runs")


def read_runs(path: Path) -> list[Run]:
    """Runs of a CSV file with the columns params, tokens and loss; raises ScalingError naming the line."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = {"params", "tokens", "loss"} - set(reader.fieldnames or ())
            if missing:
                raise ScalingError(f"{path}: no column {', '.join(sorted(missing))}; it needs params, tokens and loss")
            return [_run(row, f"{path}:{reader.line_num}") for row in reader]
    except OSError as problem:
        raise ScalingError(f"{path}: {problem.strerror}; give a CSV file of runs") from None


def _run(row: Mapping[str, str], where: str) -> Run:
    try:
        run = Run(float(row["params"]), float(row["tokens"]), float(row["loss"]))
    except (TypeError, ValueError):
        raise ScalingError(f"{where}: params, tokens and loss have to be numbers, found {dict(row)}") from None
    if not all(math.isfinite(value) and value > 0 for value in run):
        raise ScalingError(f"{where}: params, tokens and loss have to be above zero, found {dict(row)}")
    return run
