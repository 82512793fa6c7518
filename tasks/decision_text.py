"""A decision as text: the signed entry as JSON, and what it says as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tasks.ledger import Entry


def decision_json(entry: Entry) -> str:
    """The whole entry of the ledger, with its hash and signature."""
    return json.dumps(asdict(entry), indent=1, ensure_ascii=False) + "\n"


def decision_markdown(entry: Entry) -> str:
    """Outcome and reason, the test, guards, limits, slices, documents that changed most, every input's sha256."""
    return "\n".join(_lines(entry)) + "\n"


def _lines(entry: Entry) -> Iterator[str]:
    body, evidence = entry.body, entry.body["evidence"]
    yield f"# {entry.line}@{body['version']}: {body['outcome'].replace('_', ' ')}"
    yield from ("", f"{plain(body['reason'])}.", "", f"Decided {entry.at} by the {entry.actor}.")
    yield from _table("The paired test", ("", ""), _test(evidence))
    yield from _table("Guards", ("guard", "slice", "examples", "loss", "allowed", "state"), _guards(evidence))
    limits = [(each["name"], _number(each["limit"]), _number(each["value"])) for each in evidence["limits"]]
    yield from _table("Limits", ("limit", "allowed", "found"), limits)
    slices = [(each["slice"], each["documents"], _number(each["gain"]), each["verdict"]) for each in evidence["slices"]]
    yield from _table("Slices", ("sources", "documents", "gain", ""), slices)
    changed = [(each["source"], f"`{each['sha256']}`", _number(each["gain"])) for each in evidence["changed_most"]]
    yield from _table("Documents that changed most", ("document", "sha256", "gain, bits per byte"), changed)
    inputs = [(name, f"`{digest or 'none'}`") for name, digest in evidence["inputs"].items()]
    yield from _table("What was compared", ("input", "sha256"), inputs)
    signed = [("entry", entry.sequence), ("hash", f"`{entry.hash}`"), ("signature", f"`{entry.signature}`")]
    yield from _table("In the ledger", ("", ""), signed)


def _test(evidence: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = ["opponent", "documents", "challenger_bits_per_byte", "opponent_bits_per_byte", "gain", "low", "high"]
    names += ["p_value", "bootstrap_p", "look", "level", "alpha_spent", "detectable_gain", "power_at", "power"]
    return [(name.replace("_", " "), _number(evidence[name])) for name in names]


def _guards(evidence: Mapping[str, Any]) -> list[Sequence[Any]]:
    names = ("guard", "slice", "examples", "loss", "margin", "state")
    return [[_number(each[name]) for name in names] for each in evidence["guards"]]


def _table(title: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    if not rows:
        return
    yield from ("", f"## {title}", "", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}")
    yield from (f"| {' | '.join(plain(str(cell)) for cell in row)} |" for row in rows)


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "not known" if value is None else str(value)


def plain(text: str) -> str:
    """On one line, and without what would end a cell or begin HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
