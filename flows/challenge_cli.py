"""`tidemill challenge`: try a version beside the champion, look at it, end it. Mounted by flows/cli.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.options import Json, workspace

if TYPE_CHECKING:
    from llm_core.serving.canary import Canary
    from tasks.ledger import Entry
    from tasks.workspace import Workspace

DEFAULT_URL = "http://127.0.0.1:8000"


def challenge(
    version: Annotated[
        str, typer.Argument(help="The version to try; with --stop and --status its line.", metavar="NAME[@VERSION]")
    ],
    percent: Annotated[
        float, typer.Option(help="Share of the askers that it answers, in percent.", min=0.01, max=50)
    ] = 10.0,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="It gets copies of that share; its answers are thrown away.")
    ] = False,
    min_requests: Annotated[int, typer.Option(help="Its answers before it is compared first.", min=1)] = 50,
    alpha: Annotated[float, typer.Option(help="Risk of reverting a version that is not worse.")] = 0.05,
    max_slowdown: Annotated[float, typer.Option(help="How many times the champion's its times may be.", min=1)] = 1.5,
    max_loss: Annotated[float, typer.Option(help="Bits per byte more it may need for users' texts.", min=0)] = 0.01,
    reason: Annotated[str, typer.Option(help="Why; it goes into the ledger.")] = "by hand",
    stop: Annotated[bool, typer.Option("--stop", help="End the line's challenge.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Show what the server has seen of the challenger.")] = False,
    url: Annotated[str | None, typer.Option(help="The model server (default: this home's).")] = None,
    as_json: Json = False,
) -> None:
    """Try a registered version on a share of the traffic; a worse one is taken out of service by the server itself."""
    line, at, number = version.rpartition("@") if "@" in version else (version, "", "")
    if stop and status:
        raise typer.BadParameter("give either --stop or --status")
    ws = workspace()
    if stop or status:
        _stop(ws, line, url, reason) if stop else _show(ws, line, url, as_json)
        return
    if not (line and at and number.isdigit()):
        raise typer.BadParameter(f"{version!r}: write it as NAME@VERSION, for example demo@3")
    from llm_core.serving.canary import Canary

    canary = Canary(percent, shadow, min_requests, alpha=alpha, max_slowdown=max_slowdown, max_loss=max_loss)
    entry = _begin(ws, line, int(number), canary, reason)
    what = "gets copies of" if shadow else "answers"
    print(
        f"{version} {what} {percent:g} % of the askers (ledger entry {entry.sequence}); "
        f"a running server follows within seconds\ntidemill challenge {line} --status   what was seen of it\n"
        f"tidemill challenge {line} --stop     end it;  tidemill promote {version}   make it champion"
    )


def _begin(ws: Workspace, line: str, number: int, canary: Canary, reason: str) -> Entry:
    from tasks import challenges, champions
    from tasks.ledger import Ledger
    from tasks.tracking import Tracker

    ledger = Ledger(ws.home)
    entry = challenges.begin(ledger, champions.registered(ledger, line, number), canary, reason)
    champions.project(ledger, Tracker(ws), line)
    return entry


def _stop(ws: Workspace, line: str, url: str | None, reason: str) -> None:
    """End the challenge; where the server has reverted it, that is what the ledger gets to know."""
    from tasks import canary, challenges, champions
    from tasks.ledger import Ledger, LedgerError
    from tasks.tracking import Tracker

    ledger = Ledger(ws.home)
    present = challenges.current(ledger, line)
    if present is None:
        raise LedgerError(f"{line}: there is no challenge to stop")
    seen = canary.trial_of(present, _asked(ws, line, url) or {})
    is_reverted = seen.get("verdict") == "reverted"
    entry = challenges.end(
        ledger, present, "reverted" if is_reverted else "stopped", seen["reason"] if is_reverted else reason, seen
    )
    champions.project(ledger, Tracker(ws), line)
    print(f"{line}@{entry.body['version']} is {entry.body['outcome']} (ledger entry {entry.sequence})")


def _show(ws: Workspace, line: str, url: str | None, as_json: bool) -> None:
    from flows import report

    state = _asked(ws, line, url)
    if state is None:
        raise ValueError(f"no server answers for {line}; start one with tidemill up, or give its address with --url")
    registry: Any = state["registry"]
    trial = state["trial"] or {"challenger": None}
    if registry["challenger_refused_because"]:
        trial |= {"refused": registry["challenger"], "refused_because": registry["challenger_refused_because"]}
    report.print_facts(trial, as_json)


def _asked(ws: Workspace, line: str, url: str | None) -> Any:
    """What the server says about the line; None where none answers."""
    from tasks.canary import line_state
    from tasks.services import running_server_of_line

    running = None if url else running_server_of_line(ws.home, line)
    return line_state((url or (running.url if running else None) or DEFAULT_URL).rstrip("/"), line)
