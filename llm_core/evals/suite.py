"""What every suite has in common: it asks a model, gives a row of scores for each example, and says how rows add up.

A suite is pure: examples come in, scores go out, and whoever reads files or moves champions does so elsewhere. Rows are
kept, not only means: two models are compared on the same examples in pairs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

EXAMPLE = "example"
"""The column that names an example by its content, the same whoever answers it."""
SLICE = "slice"
"""The column that names the part of the data an example is from, where there are parts."""


class Likelihood(NamedTuple):
    """How likely a model finds a text behind another one."""

    logprob: float
    """Natural logarithm of the probability."""
    num_tokens: int
    is_greedy: bool
    """Whether the model would write just this text at temperature 0."""


class Subject(Protocol):
    """A model under evaluation."""

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """Of each (context, continuation) the continuation's; an empty context is the beginning of a document."""

    def bits(self, texts: Sequence[str]) -> list[float]:
        """Bits of each whole text as a document, its end included."""

    def write(self, prompts: Sequence[str], max_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """How the model goes on at temperature 0, up to one of `stop` or the end of the document."""


Example = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """A number that the rows of a suite come to: the mean of a column, a ratio of two columns' sums, or a function."""

    name: str
    column: str = ""
    over: str | None = None
    """The column to divide by; None for the mean over the rows."""
    higher_is_better: bool = True
    function: Callable[[pd.DataFrame], float] | None = None
    """What it is of all rows together, instead of `column` and `over`, where it is no mean of single rows (BLEU, MCC).

    It reads only columns of the rows, so that it can be taken of resampled ones, and is NaN where it is not defined."""

    def of(self, rows: pd.DataFrame) -> float:
        """The number; NaN without rows, and where nothing is to be divided by."""
        if not len(rows):
            return float("nan")
        if self.function:
            return float(self.function(rows))
        below = float(np.sum(rows[self.over])) if self.over else len(rows)
        return float(np.sum(rows[self.column])) / below if below else float("nan")

    def interval(self, rows: pd.DataFrame, resamples: int = 1000) -> tuple[float, float] | None:
        """Ends of its interval of 95 %: Wilson's for a share of yes and no, else percentiles of resampled rows.

        None for a function, whose resamples may take long, and where the rows do not vary or are too few.
        """
        if self.function or len(rows) < 2:
            return None
        above = rows[self.column].to_numpy(dtype=np.float64)
        below = rows[self.over].to_numpy(dtype=np.float64) if self.over else np.ones(len(rows))
        if not self.over and np.isin(above, (0.0, 1.0)).all():
            return _wilson(float(above.mean()), len(above))
        if not np.isfinite(above).all() or np.ptp(above) == 0 or not below.sum():
            return None
        rng = np.random.default_rng(0)  # equal rows have equal intervals
        picks = (rng.integers(len(rows), size=len(rows)) for _ in range(resamples))
        sums = [(above[pick].sum(), below[pick].sum()) for pick in picks]
        low, high = np.quantile([total / over for total, over in sums if over], (0.025, 0.975))
        return float(low), float(high)


@dataclass(frozen=True)
class Suite:
    """Examples of one kind, and how a model is scored on them."""

    name: str
    metrics: tuple[Metric, ...]
    """The first is what the suite is about."""
    score: Callable[[Subject, Sequence[Example]], pd.DataFrame]
    """A row an example, in their order, with the metrics' columns."""

    def rows(self, subject: Subject, examples: Sequence[Example]) -> pd.DataFrame:
        """The scores, with the columns `example` and, where examples name one, `slice` in front."""
        scores = self.score(subject, examples)
        if len(scores) != len(examples):
            raise ValueError(f"{self.name}: {len(scores)} rows of scores for {len(examples)} examples")
        named = {EXAMPLE: [example_id(example) for example in examples]}
        if any(SLICE in example for example in examples):
            named[SLICE] = [str(example.get(SLICE, "")) for example in examples]
        return pd.concat([pd.DataFrame(named), scores.reset_index(drop=True)], axis=1)

    def totals(self, rows: pd.DataFrame) -> dict[str, float]:
        """Every metric over these rows, under SUITE/METRIC."""
        return {f"{self.name}/{metric.name}": metric.of(rows) for metric in self.metrics}

    def intervals(self, rows: pd.DataFrame) -> dict[str, tuple[float, float]]:
        """Those of the metrics that have one, under the same names."""
        found = {f"{self.name}/{metric.name}": metric.interval(rows) for metric in self.metrics}
        return {name: ends for name, ends in found.items() if ends is not None}


def _wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson (1927): unlike share plus or minus errors it has a width at 0 and 1 too."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def example_id(example: Example) -> str:
    """sha256 of an example's content, whatever the order of its keys."""
    text = json.dumps(example, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
