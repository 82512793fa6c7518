"""What people read of a decision, put where they look: the home, the version's MLflow run, its tags."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.decision import Decision
from tasks.decision_text import decision_json, decision_markdown
from tasks.explain_page import explain_page
from tasks.explained import explained, load, training_index
from tasks.model_card import model_card
from tasks.pages import write_page
from tasks.report_page import report_page
from tasks.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from tasks.tracking import Tracker

PAGE, CARD = "report.html", "README.md"
JSON, MARKDOWN, EXPLANATIONS = "decision.json", "decision.md", "explain.html"


def report_folder(home: Path, line: str, number: int) -> Path:
    """Where page, card and tables of a version lie."""
    return home / "reports" / line / str(number)


def card_of(home: Path, version: str) -> Path | None:
    """The model card of LINE@VERSION, where the gate has decided about one of this name."""
    line, _, number = version.rpartition("@")
    place = report_folder(home, line, int(number)) / CARD if line and number.isdigit() else None
    return place if place and place.is_file() else None


def publish(decision: Decision, tracker: Tracker, ws: Workspace) -> Path:
    """Write them and log them to the run of the version; the page's place. What is there unchanged is logged once."""
    number = int(decision.version.body["version"])
    folder = report_folder(ws.home, decision.version.line, number)
    contents = {
        PAGE: report_page(decision),
        CARD: model_card(decision),
        JSON: decision_json(decision.decided),
        MARKDOWN: decision_markdown(decision.decided),
        **_explanations(decision, ws),
        "documents.csv": documents_table(decision).to_csv(lineterminator="\n"),
        "suites.csv": suites_table(decision).to_csv(index=False, lineterminator="\n"),
    }
    for name, content in contents.items():
        place = folder / name
        if place.exists() and place.read_text(encoding="utf-8") == content:
            continue
        write_page(content, place)
        tracker.log_report(decision.version.body["run"], place, metrics(decision) if name == PAGE else {})
    _, _, body = contents[CARD].removeprefix("---\n").partition("---\n\n")  # no page shows what is in front
    tracker.describe_version(tracker.version(decision.version.line, number), body)
    return folder / PAGE


def _explanations(decision: Decision, ws: Workspace) -> dict[str, str]:
    """A page about the recipe's texts, for a model that goes on from one; made once for a version."""
    cfg = decision.recipe.evaluate
    texts = cfg.explained or cfg.prompts[:1]
    if not texts or not decision.recipe.model.goes_on:
        return {}
    place = report_folder(ws.home, decision.version.line, int(decision.version.body["version"])) / EXPLANATIONS
    if place.exists():
        return {EXPLANATIONS: place.read_text(encoding="utf-8")}
    model, index = load(decision.name, decision.model.path), training_index(ws, decision.model)
    found = []
    for text in texts:
        try:
            found.append(explained(model, text, index=index))
        except ValueError as problem:  # the decision is made: a page less must not end the night
            print(f"evaluate.explained: {text!r} is not explained: {problem}", file=sys.stderr)
    return {EXPLANATIONS: explain_page(decision.name, found)} if found else {}


def metrics(decision: Decision) -> dict[str, float]:
    """The decision's numbers, beside the report's own, under names that MLflow's page compares runs by."""
    names = ("gain", "p_value", "detectable_gain", "power", "challenger_bits_per_byte", "opponent_bits_per_byte")
    return {f"decision/{name}": float(decision.evidence[name]) for name in names}


def documents_table(decision: Decision) -> pd.DataFrame:
    """Both sides' bits per byte of every held-out document, the greatest loss first."""
    scores = decision.scores
    sides = {"challenger": scores["bits"] / scores["num_bytes"], "opponent": scores["theirs"] / scores["num_bytes"]}
    return scores[["source", "num_bytes"]].assign(**sides, gain=scores["gain"])


def suites_table(decision: Decision) -> pd.DataFrame:
    """Both sides' numbers of every suite, with the ends of their intervals."""
    import pandas as pd

    names = ("suite", "metric", "higher_is_better", "challenger", "low", "high", "champion", "their_low", "their_high")
    rows = [
        (each.suite, each.name, each.higher_is_better, each.value, *(each.ends or (None, None)))
        + (each.theirs, *(each.their_ends or (None, None)))
        for each in decision.numbers()
    ]
    return pd.DataFrame(rows, columns=list(names))
