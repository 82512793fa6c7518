"""The data report: one HTML file about a clean artifact, with plots and samples, that asks for nothing from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm_core.artifact import Artifact
from llm_core.config import Contract
from llm_core.text.contract import Judgement, breaches, judge
from llm_core.text.drift import drift_of_last
from llm_core.text.profile import DUPLICATE_REASONS, Profile, read_profiles, total
from llm_core.text.split import SPLITS
from tasks.data_plots import plots, ranked, shown_bytes, shown_count
from tasks.data_samples import dropped_samples, kept_samples
from tasks.pages import PRIVATE, PUBLIC, render, write_page

TEMPLATE = "data_report.html"
NUM_BATCHES = 30
NUM_LANGUAGES = 12
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def data_report(documents: Artifact, quarantine: Sequence[Path] | None, out: Path, tokens: int | None = None) -> Path:
    """Write the report about a clean artifact to the file `out`.

    With the files of a quarantine it shows dropped records, is private and only its owner can read it; a report for
    other eyes is made without. `tokens` is a headline where it is known. Equal artifacts give equal bytes.
    """
    content = _render(documents, quarantine, tokens)
    return write_page(content, out, PUBLIC if quarantine is None else PRIVATE)


def summary_markdown(documents: Artifact, tokens: int | None = None) -> str:
    """The report's main numbers as a short table in Markdown, and the broken expectations if there are any."""
    batches, contract = read_profiles(documents.path), _contract(documents)
    broken = breaches(contract, batches)
    verdict = f"The data contract is broken in {len(broken)} place(s):" if broken else "The data keep their contract."
    rows = [f"| {label} | {value} |" for value, label in _headline(batches, tokens)]
    rows += [f"| {row['outcome']} | {row['records']:,} ({row['share']:.1%}) |" for row in _accounts(total(batches))]
    rows += [f"| drift of {name} | {each.distance:.3f} |" for name, each in drift_of_last(batches).items()]
    return "\n".join(["| data | |", "|---|---:|", *rows, "", verdict, *(f"- {breach}" for breach in broken), ""])


def metrics(documents: Artifact, tokens: int | None = None) -> dict[str, float]:
    """The report's numbers for a tracker; shares are from 0 to 1, and what is not known is left out."""
    batches = read_profiles(documents.path)
    together = total(batches)
    records = max(together.records_in, 1)
    values: dict[str, float] = {
        "records_in": together.records_in,
        "documents": together.kept,
        "bytes": together.kept_bytes,
        "batches": len(batches),
        "rejected_share": (together.rejected.total() - together.duplicates) / records,
        "duplicate_share": together.duplicates / records,
        "redactions": together.redactions.total(),
        "contaminated": together.rejected["contaminated"],
    }
    if tokens is not None:
        values["tokens"] = tokens
    if together.kept:
        values |= {f"bytes_p{100 * q:.0f}": together.quantile(q) for q in QUANTILES}
    drifts = drift_of_last(batches)
    values |= {f"drift_{name}": each.distance for name, each in drifts.items()}
    return {f"data/{name}": float(value) for name, value in values.items()}


def _render(documents: Artifact, quarantine: Sequence[Path] | None, tokens: int | None) -> str:
    batches, contract = read_profiles(documents.path), _contract(documents)
    return render(
        TEMPLATE,
        **_numbers(batches, tokens),
        **_history(batches, contract),
        digest=documents.digest,
        rules=documents.recipe.get("clean", {}).get("rules", ()),
        kept_samples=kept_samples(documents),
        dropped_samples=dropped_samples(quarantine, documents.digest) if quarantine else [],
    )


def _contract(documents: Artifact) -> Contract:
    """The contract that the artifact was made under."""
    return Contract.model_validate(documents.recipe.get("clean", {}).get("contract", {}))


def _numbers(batches: Sequence[Profile], tokens: int | None) -> dict[str, Any]:
    """What the report says about all batches together."""
    together = total(batches)
    accounts = _accounts(together)
    copies = [row for row in accounts if row["outcome"] in DUPLICATE_REASONS]
    return {
        "all": together,
        "headline": _headline(batches, tokens),
        "accounts": accounts,
        "duplicates": copies or [_account(together, "duplicate", 0, 0, "copy")],
        "splits": _shares(together.split_documents, together.split_bytes, SPLITS),
        "languages": _languages(together),
        "bytes_per_character": together.kept_bytes / together.characters if together.characters else 0.0,
        "quantiles": [(q, shown_bytes(together.quantile(q)) if together.kept else "") for q in QUANTILES],
        "redactions": ranked(together.redactions),
        "suites": ranked(together.contaminated),
    }


def _history(batches: Sequence[Profile], contract: Contract) -> dict[str, Any]:
    """What the report says about the batches one by one."""
    return {
        "batches": batches,
        "newest": batches[-1].batch if batches else "none",
        "history": list(reversed(batches[-NUM_BATCHES:])),
        "num_earlier": max(len(batches) - NUM_BATCHES, 0),
        "drifts": drift_of_last(batches),
        "contract": contract,
        "breaches": breaches(contract, batches),
        "judged": [_judged(each) for each in judge(contract, batches)],
        "plots": plots(batches, contract.max_drift),
    }


def _headline(batches: Sequence[Profile], tokens: int | None) -> list[tuple[str, str]]:
    together = total(batches)
    known = [code for code in together.language_documents if code]
    lost = together.rejected.total() / max(together.records_in, 1)
    return [
        (f"{together.kept:,}", "documents kept"),
        (f"{together.records_in:,}", "records in"),
        (shown_bytes(together.kept_bytes), "clean text"),
        *([(shown_count(tokens), "tokens")] if tokens is not None else []),
        (f"{lost:.1%}", "of the records dropped"),
        *([(f"{len(known)}", "language" if len(known) == 1 else "languages")] if known else []),
        *([(f"{len(batches):,}", "batches")] if len(batches) > 1 else []),
    ]


def _accounts(profile: Profile) -> list[dict[str, Any]]:
    """The kept records and those of each reason, most first: they add up to records_in."""
    rows = [_account(profile, "kept", profile.kept, profile.kept_raw_bytes, "")]
    for reason, records in ranked(profile.rejected):
        kind = "copy" if reason in DUPLICATE_REASONS else "lost"
        rows.append(_account(profile, reason, records, profile.rejected_bytes[reason], kind))
    return rows


def _account(profile: Profile, outcome: str, records: int, size: int, kind: str) -> dict[str, Any]:
    share = records / max(profile.records_in, 1)
    return {"outcome": outcome, "records": records, "share": share, "bytes": size, "kind": kind}


def _languages(profile: Profile) -> list[dict[str, Any]]:
    """The commonest languages, and the others in one row."""
    order = [code for code, _ in ranked(profile.language_documents)]
    names, rest = order[:NUM_LANGUAGES], order[NUM_LANGUAGES:]
    documents, sizes = dict(profile.language_documents), dict(profile.language_bytes)
    for counts in (documents, sizes):
        counts["others"] = sum(counts.pop(code) for code in rest)
    return _shares(documents, sizes, [*names, "others"] if rest else names)


def _shares(documents: Mapping[str, int], sizes: Mapping[str, int], names: Sequence[str]) -> list[dict[str, Any]]:
    kept = max(sum(documents.values()), 1)
    return [
        {"name": name or "unknown", "documents": documents[name], "share": documents[name] / kept, "bytes": sizes[name]}
        for name in names
    ]


def _judged(each: Judgement) -> dict[str, Any]:
    expectation = each.expectation
    sign = "≥" if expectation.is_minimum else "≤"
    return asdict(each) | {
        "says": expectation.says,
        "key": expectation.key,
        "bound": "none" if each.bound is None else f"{sign} {expectation.shown(each.bound)}",
        "is_bound": each.bound is not None,
        "value": expectation.shown(each.value) if each.batch else "",
    }
