"""The page of a decision: one HTML file about what was compared, what it came to and why, as the ledger has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.data_plots import shown_count
from tasks.decision import GRAMS_PER_WH, OUTCOMES, WATTS_PER_CORE, Decision, training_flops
from tasks.pages import render
from tasks.report_plots import plots

TEMPLATE = "report_page.html"
LONGEST_SAMPLE = 1500
STATES = {
    "held": "held",
    "not_shown": "not shown to hold",
    "worse": "worse",
    "too_few": "too few examples",
    "unmeasured": "not measured",
}


def report_page(decision: Decision) -> str:
    """The page's HTML; equal decisions give equal pages."""
    evidence, body = decision.evidence, decision.decided.body
    return render(
        TEMPLATE,
        decision=decision,
        evidence=evidence,
        outcome=body["outcome"],
        headline=OUTCOMES[body["outcome"]],
        reason=body["reason"],
        tiles=_tiles(decision),
        bars=_bars(decision),
        test=_test(evidence),
        slices=_slices(evidence["slices"]),
        guards=[each | {"says": STATES[each["state"]]} for each in evidence["guards"]],
        changed=_changed(decision),
        numbers=list(decision.numbers()),
        samples=_samples(decision),
        plots=plots(decision),
        effort=_effort(decision),
        watts=WATTS_PER_CORE,
        grams=GRAMS_PER_WH,
        inputs=[(name.replace("_", " "), hash_) for name, hash_ in sorted(evidence["inputs"].items())],
        sources=_sources(decision),
    )


def number(value: float | None) -> str:
    """A suite's number, or that there is none."""
    return "not measured" if value is None else f"{value:.4g}"


def _tiles(decision: Decision) -> list[tuple[str, str]]:
    evidence, stats = decision.evidence, decision.model.stats
    return [
        (f"{evidence['challenger_bits_per_byte']:.4f}", "bits per byte"),
        (f"{evidence['gain']:+.4f}", f"gain over {evidence['opponent']}"),
        (f"{evidence['p_value']:.2g}", f"p value, below {evidence['level']:.2g} wanted"),
        (f"{evidence['documents']:,}", "held-out documents"),
        (shown_count(stats["parameters"]), "parameters"),
        (shown_count(stats["tokens_seen"]), "tokens of training"),
    ]


def _bars(decision: Decision) -> list[dict[str, Any]]:
    """The model and its references on one scale, best first."""
    mine = decision.evidence["challenger_bits_per_byte"]
    others = decision.references()
    rows: list[dict[str, Any]] = [
        {"name": each.name, "note": each.note, "value": each.bits_per_byte}
        for each in others
        if each.bits_per_byte is not None
    ]
    rows.append({"name": decision.name, "note": "this model", "value": mine})
    most = max(row["value"] for row in rows)
    return [
        row | {"share": row["value"] / most, "is_mine": row["note"] == "this model", "gain": row["value"] - mine}
        for row in sorted(rows, key=lambda row: row["value"])
    ] + [{"name": each.name, "note": each.note, "value": None} for each in others if each.bits_per_byte is None]


def _test(evidence: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "gain", f"{evidence['gain']:+.4f} bits per byte"
    yield "interval of the gain", f"{evidence['low']:+.4f} to {evidence['high']:+.4f}"
    mean = [f"{evidence[name]:+.4f}" for name in ("mean_gain", "mean_low", "mean_high")]
    yield "mean of the documents' own gains", f"{mean[0]} ({mean[1]} to {mean[2]})"
    yield "p value, by signs", f"{evidence['p_value']:.4g}"
    yield "p value, by the bootstrap", f"{evidence['bootstrap_p']:.4g}"
    yield f"level of look {evidence['look']}", f"{evidence['level']:.2g}"
    spent = evidence["alpha_spent"]
    yield "spent by earlier looks", f"{spent:.2g} of {spent + evidence['alpha_left']:.2g}"
    yield "least gain that it finds (power 0.8)", f"{evidence['detectable_gain']:.4f} bits per byte"
    yield f"power at a gain of {evidence['power_at']:.4f}", f"{evidence['power']:.0%}"
    yield "patterns drawn, at most", f"{evidence['resamples']:,}"


def _slices(slices: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Largest gain first, with bars on one scale."""
    most = max((abs(each["gain"]) for each in slices), default=0.0) or 1.0
    ordered = sorted(slices, key=lambda each: -each["gain"])
    return [{**each, "share": abs(each["gain"]) / most, "kind": "" if each["gain"] > 0 else "lost"} for each in ordered]


def _changed(decision: Decision) -> list[Mapping[str, Any]]:
    scores = decision.scores
    known = [each for each in decision.evidence["changed_most"] if each["sha256"] in scores.index]
    return [{**each, "num_bytes": int(scores.loc[each["sha256"], "num_bytes"])} for each in known]


def _samples(decision: Decision) -> list[dict[str, str | None]]:
    """Prompts of this recipe; the champion's text where it was asked the same."""
    theirs = {each["prompt"]: each["text"] for each in decision.theirs.get("samples", ())}
    return [
        {
            "prompt": each["prompt"],
            "text": each["text"][:LONGEST_SAMPLE],
            "theirs": theirs[each["prompt"]][:LONGEST_SAMPLE] if each["prompt"] in theirs else None,
        }
        for each in decision.told["samples"]
    ]


def _effort(decision: Decision) -> dict[str, Any]:
    """Sums over what was noted; none where a stage was made before CPU seconds were."""
    spent = [each.watt_hours for each in decision.costs]
    known = [each for each in spent if each is not None]
    flops = training_flops(decision.recipe, decision.model.stats["tokens_seen"])
    return {
        "stages": decision.costs,
        "seconds": sum(each.seconds for each in decision.costs),
        "watt_hours": sum(known) if known and len(known) == len(spent) else None,
        "flops": f"{flops:.2e}",
    }


def _sources(decision: Decision) -> list[tuple[str, str]]:
    """What leads back to code, data and records."""
    named = {"git.commit": "commit", "git.dirty": "uncommitted changes", "prefect.flow_run_id": "Prefect flow run"}
    named |= {"config.sha256": "recipe, sha256", "data.license": "licence of the data", "dvc.lock.md5": "dvc.lock, md5"}
    found = [(says, decision.facts[name]) for name, says in named.items() if name in decision.facts]
    run, entry = str(decision.version.body["run"]), f"{decision.decided.sequence}, {decision.decided.hash}"
    start = [("weights began as", decision.started_from)] if decision.started_from else []
    return [("recipe", decision.recipe.name), *start, ("MLflow run", run), *found, ("ledger entry", entry)]
