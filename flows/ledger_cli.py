"""`tidemill ledger`: what was decided, who or what did it, who was champion when. Mounted by flows/cli.py."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.options import Json, workspace

if TYPE_CHECKING:
    from tasks.ledger import Entry, Ledger


def ledger(
    line: Annotated[str | None, typer.Argument(help="A line; without one, all of them.", metavar="LINE")] = None,
    at: Annotated[
        str | None,
        typer.Option(help="As it was at this entry's number or time (2026-11-23, 2026-11-23T08:00).", metavar="WHEN"),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the ledger's entries, check its whole chain, and name the champions, now or at any time before."""
    from flows import report
    from tasks.ledger import Ledger

    book = Ledger(workspace().home)
    length = book.verify()
    _compare_with_registry(book)
    moment = _moment(at) if at else None
    entries = book.entries(line, moment)
    lines = dict.fromkeys(entry.line for entry in entries)
    champions = [move for name in lines if (move := book.champion(name, moment)) is not None]
    facts: dict[str, Any] = {
        "verified": length,
        "head": book.head,
        "champions": {move.line: move.body["version"] for move in champions},
        "entries": [_row(entry) for entry in entries],
    }
    if as_json:
        report.print_facts(facts, as_json)
        return
    report.print_rows(f"Ledger, {length} entries verified", facts["entries"], as_json)
    for name, version in facts["champions"].items():
        print(f"champion of {name}{f' at {at}' if at else ''}: {name}@{version}")


def _compare_with_registry(book: Ledger) -> None:
    """What was cut off at the end is seen by the heads that versions carry; without a registry there is none."""
    from tasks.services import mlflow_store, tracking_uri

    home = workspace().home
    uri = tracking_uri(home)
    if uri == mlflow_store(home) and not Path(uri.removeprefix("sqlite:///")).exists():
        return
    from tasks.champions import require_whole
    from tasks.ledger import LedgerError
    from tasks.tracking import Tracker

    try:
        require_whole(book, Tracker(workspace()))
    except LedgerError:
        raise
    except Exception as problem:  # of a server that is away, in many forms: the chain itself was checked
        print(f"warning: MLflow is not there to compare with ({problem})", file=sys.stderr)


def _moment(at: str) -> int | str:
    """An entry's number, or a time in the form that entries have; one without a zone is this machine's."""
    if at.isdigit():
        return int(at)
    try:
        return datetime.fromisoformat(at).astimezone(UTC).isoformat(timespec="milliseconds")
    except ValueError:
        raise typer.BadParameter(f"--at {at!r}: write an entry's number, or a time as 2026-11-23T08:00") from None


def _row(entry: Entry) -> dict[str, Any]:
    body = entry.body
    said = body.get("reason") or body.get("outcome") or ""
    return {
        "entry": entry.sequence,
        "at": entry.at,
        "line": entry.line,
        "kind": entry.kind,
        "version": body.get("version"),
        "by": entry.actor,
        "why": str(said),
    }
