"""Challengers: which version is tried beside a line's champion, and how that ended, as the ledger has it."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from tasks.ledger import Entry, Ledger, LedgerError

if TYPE_CHECKING:
    from llm_core.serving.canary import Canary
    from llm_core.serving.registry import RegisteredVersion

Outcome = Literal["passed", "reverted", "stopped"]


def begin(ledger: Ledger, version: Entry, canary: Canary, reason: str, key: str | None = None) -> Entry:
    """Have a version tried beside the present champion of its line; what an earlier run began is given back.

    Without a `key` it is a person's wish, which may come again later.
    """
    champion = ledger.champion(version.line)
    if champion is None:
        raise LedgerError(f"{version.line}: there is no champion to compare with; promote a version first")
    if champion.body["version"] == version.body["version"]:
        raise LedgerError(
            f"{version.line}@{version.body['version']} is champion already; challenge with another version"
        )
    settings = {name: value for name, value in asdict(canary).items() if name != "challenge"}
    body = {name: version.body[name] for name in ("version", "artifact", "run")}
    body |= {"champion": champion.hash, "canary": settings, "reason": reason}
    if key is not None:
        return ledger.append("challenged", version.line, key, body)
    present = current(ledger, version.line)
    if present is not None and present.body["artifact"] == body["artifact"] and present.body["canary"] == settings:
        return present
    last = newest(ledger, version.line)
    body["person"] = getpass.getuser()
    key = f"{version.hash} against {champion.hash} after {last.hash if last else None}"
    return ledger.append("challenged", version.line, key, body)


def end(ledger: Ledger, challenge: Entry, outcome: Outcome, reason: str, evidence: Mapping[str, Any]) -> Entry:
    """Note how a challenge ended; the first to say so counts."""
    body = {name: challenge.body[name] for name in ("version", "artifact", "run")}
    body |= {"outcome": outcome, "reason": reason, "evidence": evidence}
    return ledger.append("challenge_ended", challenge.line, challenge.hash, body)


def newest(ledger: Ledger, line: str, number: int | None = None) -> Entry | None:
    """The last challenge of a line, or of one of its versions, over or not."""
    found = [entry for entry in ledger.entries(line) if entry.kind == "challenged"]
    return next((entry for entry in reversed(found) if number in (None, entry.body["version"])), None)


def current(ledger: Ledger, line: str) -> Entry | None:
    """The challenge that is open: not ended, and the champion is still the one that was challenged."""
    challenge, champion = newest(ledger, line), ledger.champion(line)
    if challenge is None or champion is None or champion.hash != challenge.body["champion"]:
        return None
    return None if ended(ledger, challenge) else challenge


def ended(ledger: Ledger, challenge: Entry) -> Entry | None:
    """How a challenge ended, if it did."""
    return ledger.find("challenge_ended", challenge.hash)


def lost(ledger: Ledger, decision: Entry) -> Entry | None:
    """The end of the challenge that a gate's decision led to, where the version did not pass."""
    challenge = ledger.find("challenged", decision.hash)
    end = ended(ledger, challenge) if challenge else None
    return end if end is not None and end.body["outcome"] != "passed" else None


def admit(ledger: Ledger, version: RegisteredVersion) -> Canary | None:
    """How a version is tried, None where its challenge is over.

    Raises LedgerError unless the version's last challenge names these bytes, with a valid signature.
    """
    from llm_core.serving.canary import Canary

    challenge = newest(ledger, version.line, int(version.version))
    if challenge is None:
        raise LedgerError(f"{version.name}: the ledger has no challenge of it; the registry's alias was moved by hand")
    ledger.check(challenge)
    if challenge.body["artifact"] != version.artifact:
        raise LedgerError(f"{version.name}: its artifact is not the one that was to be tried")
    if current(ledger, version.line) != challenge:
        return None
    return Canary(**challenge.body["canary"], challenge=challenge.hash)
