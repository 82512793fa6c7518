"""What a new champion may not lose: a recipe's guards, checked on the examples that both models were scored on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llm_core.config import Gate, Guard

if TYPE_CHECKING:
    import pandas as pd

State = Literal["held", "not_shown", "worse", "too_few", "unmeasured"]
EXAMPLE, SLICE = "example", "slice"
SMALL_SLICES = "small slices together"


@dataclass(frozen=True)
class Guarded:
    """What became of a guard, or of one slice of it."""

    guard: str
    """SUITE/SCORE."""
    slice: str
    """Empty where all examples are compared at once."""
    examples: int
    loss: float | None
    """How much worse the challenger is on these examples; below 0 it is better."""
    margin: float
    p_value: float | None
    """Chance of what was seen, were it worse by the whole margin, one-sided."""
    p_worse: float | None
    """Chance of what was seen, were it not worse at all, one-sided."""
    state: State
    """held: it is not worse by the margin; not_shown, worse: not proved, or even worse than before; too_few: of
    examples; unmeasured: no scores of both models."""

    @property
    def is_broken(self) -> bool:
        """Whether it keeps the challenger out."""
        return self.state in ("not_shown", "worse")

    @property
    def needs_person(self) -> bool:
        """Whether nobody can tell, and what there is does not look harmless."""
        return self.state == "unmeasured" or (self.state == "too_few" and (self.loss or 0.0) > self.margin)

    def __str__(self) -> str:
        where = f"{self.guard}{f' of {self.slice}' if self.slice else ''}"
        if self.state == "unmeasured":
            return f"{where} has no scores of both models"
        loss, count = f"{self.loss:+.4f} against the margin {self.margin:g}", f"{self.examples} examples"
        said = {
            "held": "holds",
            "not_shown": "is not shown to hold",
            "worse": "is worse",
            "too_few": "has too few examples",
        }
        return f"{where} {said[self.state]} (loss {loss}, {count})"


def check_guard(
    cfg: Gate, seed: int, guard: Guard, challenger: pd.DataFrame | None, champion: pd.DataFrame | None
) -> Iterator[Guarded]:
    """One result, or one a slice; examples are paired by their id. Slices that are too small are put together."""
    needed = {guard.score, *filter(None, [guard.over]), *([SLICE] if guard.each_slice else [])}
    if challenger is None or champion is None or not needed <= {*challenger} or not _has_numbers(champion, guard):
        yield Guarded(_name(guard), "", 0, None, guard.margin, None, None, "unmeasured")
        return
    theirs = champion.drop_duplicates(EXAMPLE).set_index(EXAMPLE)[guard.score].rename("theirs")
    pairs = challenger.drop_duplicates(EXAMPLE).set_index(EXAMPLE).join(theirs, how="inner")
    if not len(pairs):
        yield Guarded(_name(guard), "", 0, None, guard.margin, None, None, "unmeasured")
        return
    if not guard.each_slice:
        yield _check(cfg, seed, guard, "", pairs)
        return
    sizes = pairs[SLICE].map(pairs[SLICE].value_counts())
    for name, rows in pairs.groupby(pairs[SLICE].where(sizes >= cfg.min_documents, SMALL_SLICES)):
        yield _check(cfg, seed, guard, str(name), rows)


def _has_numbers(rows: pd.DataFrame, guard: Guard) -> bool:
    """Rows may hold texts that only their suite knows how to put together: no margin compares these."""
    return guard.score in rows and rows[guard.score].dtype.kind in "bif"


def _check(cfg: Gate, seed: int, guard: Guard, name: str, pairs: pd.DataFrame) -> Guarded:
    """Costs are compared, scores of which less is better: a loss is above 0."""
    import numpy as np

    from llm_core.evals.stats.power import non_inferior

    sign = 1.0 if guard.less_is_better else -1.0
    mine, theirs = (sign * np.asarray(pairs[column], dtype=np.float64) for column in (guard.score, "theirs"))
    over = pairs[guard.over].to_numpy() if guard.over else np.ones(len(pairs), dtype=np.int64)
    loss = float((mine - theirs).sum() / over.sum())
    if len(pairs) < cfg.min_documents:
        return Guarded(_name(guard), name, len(pairs), loss, guard.margin, None, None, "too_few")
    result = non_inferior(mine, theirs, over, margin=guard.margin, resamples=cfg.resamples, seed=seed)
    p_worse = _p_worse(cfg, seed, guard, pairs, mine - theirs)
    state: State = "held" if result.p_value < cfg.alpha else "worse" if p_worse < cfg.alpha else "not_shown"
    return Guarded(_name(guard), name, len(pairs), loss, guard.margin, result.p_value, p_worse, state)


def _p_worse(cfg: Gate, seed: int, guard: Guard, pairs: pd.DataFrame, losses: Any) -> float:
    """By McNemar's test where answers are right or wrong, else by the signs of the losses."""
    from llm_core.evals.stats.permutation import mcnemar, sign_flip

    mine, theirs = pairs[guard.score], pairs["theirs"]
    if mine.dtype == bool and theirs.dtype == bool:
        is_mine, is_theirs = mine.to_numpy() ^ guard.less_is_better, theirs.to_numpy() ^ guard.less_is_better
        return mcnemar(is_theirs, is_mine).p_value
    return sign_flip(-losses, resamples=cfg.resamples, seed=seed)


def _name(guard: Guard) -> str:
    return f"{guard.suite}/{guard.score}"
