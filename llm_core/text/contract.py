"""The data contract: what batches of data must be before a model is trained on them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_core.config import Contract
from llm_core.text.drift import drift_of_last
from llm_core.text.profile import DUPLICATE_REASONS, Profile, total

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pa

ALL = "all batches"
# Largest counts that a sentence names.
NAMED = 3
UNKNOWN = "unknown"


class ContractError(ValueError):
    """Data that must not be trained on; the message lists every broken expectation and what to do."""

    exit_code = 3
    """Refused by a contract."""


@dataclass(frozen=True)
class Expectation:
    """A bound of the recipe's section clean.contract on one column of the batches' table."""

    key: str
    column: str
    no_bound: float
    """The value that sets no bound."""
    says: str
    advice: str

    def bound(self, contract: Contract) -> float | None:
        """The recipe's value; None where it sets no bound."""
        value = float(getattr(contract, self.key))
        is_open = value == self.no_bound or (self.column == "language_share" and not contract.languages)
        return None if is_open else value

    @property
    def is_minimum(self) -> bool:
        """Whether the bound is a lower one."""
        return self.key.startswith("min_")

    def shown(self, value: float) -> str:
        """A value of the column as people read it."""
        if self.column.endswith("_share"):
            return f"{value:.1%}"
        return f"{value:,.0f} bytes" if self.column.endswith("_bytes") else f"{value:.3f}"


EXPECTATIONS = (
    Expectation("max_rejected_share", "rejected_share", 1, "records rejected, duplicates aside", "mend the source"),
    Expectation("max_duplicate_share", "duplicate_share", 1, "duplicates", "see which source came again"),
    Expectation("min_language_share", "language_share", 0, "documents in the expected languages", "mend the source"),
    Expectation("min_median_bytes", "median_bytes", 0, "median document", "see whether the sources are cut short"),
    Expectation("max_median_bytes", "median_bytes", 0, "median document", "see whether documents run together"),
    Expectation("max_drift", "length_drift", 1, "length drift from the earlier batches", "see what is new in it"),
    Expectation("max_drift", "language_drift", 1, "language drift from the earlier batches", "see what is new in it"),
)


@dataclass(frozen=True)
class Judgement:
    """How the batch that came nearest to breaking an expectation, or broke it most, stands to it."""

    expectation: Expectation
    bound: float | None
    batch: str
    """Empty where no batch is large enough to be judged."""
    value: float
    is_met: bool


def check_contract(contract: Contract, batches: Sequence[Profile]) -> None:
    """Raise ContractError with all breaches at once; nothing may train on data that broke their contract."""
    if found := breaches(contract, batches):
        raise ContractError("\n- ".join([f"the data contract is broken in {len(found)} place(s):", *found]))


def breaches(contract: Contract, batches: Sequence[Profile]) -> list[str]:
    """What `batches`, oldest first, are not though the contract expects it: one sentence each, empty if all is well."""
    kept = total(batches).kept
    found = []
    if kept < contract.min_documents:
        advice = "add sources, relax the rules, or change clean.contract.min_documents"
        found.append(f"{ALL}: {kept:,} documents kept, at least {contract.min_documents:,} expected; {advice}")
    return found + [_sentence(case, contract, batches) for case in _failures(contract, batch_table(contract, batches))]


def judge(contract: Contract, batches: Sequence[Profile]) -> list[Judgement]:
    """The worst batch of each expectation, whether the contract sets a bound for it or not."""
    table = batch_table(contract, batches)
    broken = {failure.expectation for failure in _failures(contract, table)}
    judged = []
    for each in EXPECTATIONS:
        values = table[each.column].dropna()
        batch = "" if values.empty else str(values.idxmin() if each.is_minimum else values.idxmax())
        value = float(values[batch]) if batch else math.nan
        judged.append(Judgement(each, each.bound(contract), batch, value, is_met=each not in broken))
    return judged


def batch_table(contract: Contract, batches: Sequence[Profile]) -> pd.DataFrame:
    """A row for each batch that is large enough to be judged, and one for all together; not a number: not judged."""
    import pandas as pd

    rows = {batch.batch: _facts(batch, contract) for batch in batches if _is_judged(batch, contract)}
    if batches and batches[-1].batch in rows:
        rows[batches[-1].batch] |= _drifts(contract, batches)
    together = total(batches, ALL)
    if len(batches) > 1 and _is_judged(together, contract):
        rows[ALL] = _facts(together, contract)
    columns = list(dict.fromkeys(expectation.column for expectation in EXPECTATIONS))
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=float)


@dataclass(frozen=True)
class _Failure:
    expectation: Expectation
    batch: str
    value: float


def _failures(contract: Contract, table: pd.DataFrame) -> list[_Failure]:
    import pandera.pandas as pa

    try:
        _schema(contract).validate(table, lazy=True)
    except pa.errors.SchemaErrors as problem:
        by_name = {f"{each.key} {each.column}": each for each in EXPECTATIONS}
        cases = problem.failure_cases
        found = zip(cases["check"], cases["index"], cases["failure_case"], strict=True)
        return [_Failure(by_name[check], batch, float(value)) for check, batch, value in found]
    return []


def _schema(contract: Contract) -> pa.DataFrameSchema:
    import pandera.pandas as pa

    checks: dict[str, list[pa.Check]] = {each.column: [] for each in EXPECTATIONS}
    for each in EXPECTATIONS:
        if (bound := each.bound(contract)) is not None:
            check = pa.Check.ge if each.is_minimum else pa.Check.le
            checks[each.column].append(check(bound, error=f"{each.key} {each.column}"))
    return pa.DataFrameSchema({column: pa.Column(float, found, nullable=True) for column, found in checks.items()})


def _is_judged(batch: Profile, contract: Contract) -> bool:
    return batch.records_in >= contract.min_batch_documents


def _facts(batch: Profile, contract: Contract) -> dict[str, float]:
    expected = sum(batch.language_documents[code] for code in set(contract.languages))
    are_enough = batch.kept >= contract.min_batch_documents
    return {
        "rejected_share": (batch.rejected.total() - batch.duplicates) / batch.records_in,
        "duplicate_share": batch.duplicates / batch.records_in,
        "language_share": expected / batch.kept if contract.languages and are_enough else math.nan,
        "median_bytes": batch.quantile(0.5) if are_enough else math.nan,
    }


def _drifts(contract: Contract, batches: Sequence[Profile]) -> dict[str, float]:
    """The newest batch's drifts that are more than chance."""
    if min(batches[-1].kept, total(batches[:-1]).kept) < contract.min_batch_documents:
        return {}
    drifts = drift_of_last(batches).items()
    return {f"{name[:-1]}_drift": each.distance for name, each in drifts if each.distance > each.by_chance}


def _sentence(failure: _Failure, contract: Contract, batches: Sequence[Profile]) -> str:
    each, bound = failure.expectation, failure.expectation.bound(contract) or 0.0
    where = failure.batch if failure.batch == ALL else f"batch {failure.batch}"
    limit = f"at least {each.shown(bound)} needed" if each.is_minimum else f"at most {each.shown(bound)} allowed"
    advice = f"look at the data report and the quarantine, {each.advice}, or change clean.contract.{each.key}"
    return f"{where}: {each.says}: {each.shown(failure.value)}, {limit}{_evidence(failure, batches)}; {advice}"


def _evidence(failure: _Failure, batches: Sequence[Profile]) -> str:
    """The largest counts behind a share, or the drift that chance alone would show."""
    column = failure.expectation.column
    batch = next((batch for batch in batches if batch.batch == failure.batch), None) or total(batches)
    if column.endswith("_drift"):
        by_chance = drift_of_last(batches)[f"{column.removesuffix('_drift')}s"].by_chance
        return f" (chance alone: up to {by_chance:.3f})"
    if column == "median_bytes":
        return ""
    if column == "language_share":
        return _largest(batch.language_documents)
    is_copy = column == "duplicate_share"
    counts = {reason: n for reason, n in batch.rejected.items() if (reason in DUPLICATE_REASONS) == is_copy}
    return _largest(Counter(counts))


def _largest(counts: Counter[str]) -> str:
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:NAMED]
    return f" ({', '.join(f'{name or UNKNOWN} {count:,}' for name, count in order)})" if order else ""
