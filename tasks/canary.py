"""Try a version in service before it is champion: the model server compares, its verdict goes into the ledger."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx

from llm_core.config import Deploy
from tasks import challenges
from tasks.ledger import Entry, Ledger, LedgerError

if TYPE_CHECKING:
    from llm_core.serving.canary import Canary

POLL_SECONDS = 1.0
SETTINGS = ("percent", "shadow", "min_requests", "alpha", "max_slowdown", "max_loss")
NO_SERVER = "no server of the line runs here, so nothing asks it"

State = Mapping[str, Any]
"""What a server's /version says about a line."""


def is_tried(cfg: Deploy, decision: Entry) -> bool:
    """Whether a decision is one to promote that waits for what the traffic says."""
    return bool(cfg.canary_percent) and decision.kind == "decided" and decision.body["outcome"] == "promote"


def settings(cfg: Deploy) -> Canary:
    """How the recipe wants versions to be tried."""
    from llm_core.serving.canary import Canary

    return Canary(**{name: getattr(cfg, f"canary_{name}") for name in SETTINGS})


def begin(cfg: Deploy, decision: Entry, ledger: Ledger) -> Entry:
    """The challenge of a decided version; raises LedgerError where the gate compared it with another champion."""
    champion = ledger.champion(decision.line)
    known = ledger.find("challenged", decision.hash)
    if known is not None:
        return known
    opponent = decision.body["evidence"]["opponent"]
    if champion is None or opponent != f"{champion.line}@{champion.body['version']}":
        raise LedgerError(f"{decision.line}: the champion changed since this decision; run the gate again")
    return challenges.begin(ledger, decision, settings(cfg), decision.body["reason"], key=decision.hash)


def conclude(cfg: Deploy, challenge: Entry, url: str | None, ledger: Ledger) -> Entry:
    """Wait for the verdict of the server at `url` and note it; what is noted already is given back.

    Where too little traffic comes in `canary_minutes`, the version has passed on the gate's word alone.
    """
    deadline = datetime.fromisoformat(challenge.at) + timedelta(minutes=cfg.canary_minutes)
    while (done := challenges.ended(ledger, challenge)) is None:
        if challenges.current(ledger, challenge.line) != challenge:
            return challenges.end(ledger, challenge, "stopped", "another champion or challenger took its place", {})
        state = line_state(url, challenge.line) if url else {}
        verdict = _verdict(challenge, state or {})
        if verdict is None and (url is None or datetime.now(UTC) >= deadline):
            verdict = "passed", _too_little(cfg, challenge, url, state or {}), trial_of(challenge, state or {})
        if verdict is not None:
            return challenges.end(ledger, challenge, *verdict)
        time.sleep(POLL_SECONDS)
    return done


def line_state(url: str, line: str) -> State | None:
    """What the server at `url` says about a line; None where it cannot be asked or does not serve it."""
    try:
        response = httpx.get(f"{url}/version", timeout=10.0, trust_env=False)
        return response.json()["lines"].get(line) if response.is_success else None
    except (httpx.HTTPError, ValueError, KeyError):
        return None


def trial_of(challenge: Entry, state: State) -> dict[str, Any]:
    """What the server has seen in this very challenge; empty where it knows nothing of it."""
    trial = state.get("trial") or {}
    return dict(trial) if trial.get("challenge") == challenge.hash else {}


def _verdict(challenge: Entry, state: State) -> tuple[challenges.Outcome, str, dict[str, Any]] | None:
    registry = state.get("registry") or {}
    name = f"{challenge.line}@{challenge.body['version']}"
    if registry.get("challenger") == name and registry.get("challenger_refused_because"):
        return "reverted", f"the server refuses it: {registry['challenger_refused_because']}", {}
    trial = trial_of(challenge, state)
    if trial.get("verdict") not in ("passed", "reverted"):
        return None
    return trial["verdict"], str(trial["reason"]), trial


def _too_little(cfg: Deploy, challenge: Entry, url: str | None, state: State) -> str:
    if url is None:
        return f"on the gate's word alone: {NO_SERVER}"
    seen = trial_of(challenge, state).get("answers", {}).get("challenger", 0)
    return f"on the gate's word alone: too little traffic, {seen} answers in {cfg.canary_minutes:g} minutes"
