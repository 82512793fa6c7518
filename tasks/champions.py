"""Moving the champion by hand, back again, and showing the ledger's champion to the registry and the server."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING

from tasks import challenges
from tasks.ledger import MOVES, Entry, Ledger, LedgerError

if TYPE_CHECKING:
    from llm_core.serving.registry import RegisteredVersion
    from tasks.tracking import Tracker


HEAD_TAG = "tidemill.ledger.head"
"""Of a version: number and hash of the ledger's last entry when it was shown to the registry."""


def project(ledger: Ledger, tracker: Tracker, line: str) -> None:
    """Make MLflow's aliases `champion`, `previous` and `challenger` say what the ledger says; harmless to repeat."""
    from tasks.tracking import CHALLENGER, CHAMPION, PREVIOUS

    challenge = challenges.current(ledger, line)
    if challenge is not None:
        tracker.point(line, CHALLENGER, challenge.body["version"])
    elif challenges.newest(ledger, line) is not None:
        tracker.unpoint(line, CHALLENGER)
    champion, previous = ledger.champion(line), previous_champion(ledger, line)
    if previous is not None:
        tracker.point(line, PREVIOUS, previous.body["version"])
    if champion is not None:
        tracker.point(line, CHAMPION, champion.body["version"])
        last = ledger.entries()[-1]
        tracker.tag_version(tracker.version(line, champion.body["version"]), {HEAD_TAG: f"{last.sequence} {last.hash}"})


def require_whole(ledger: Ledger, tracker: Tracker) -> None:
    """Raise LedgerError where the registry's versions name an entry that the ledger lacks: its end was cut off."""
    known = {f"{entry.sequence} {entry.hash}" for entry in ledger.entries()}
    for version in tracker.versions():
        head = version["tags"].get(HEAD_TAG)
        if head and head not in known:
            number, _, digest = head.partition(" ")
            name = f"{version['line']}@{version['number']}"
            raise LedgerError(
                f"{name} in MLflow names entry {number} ({digest[:12]}), which the ledger lacks: its end was cut off; "
                "restore ledger.db from a backup"
            )


def previous_champion(ledger: Ledger, line: str) -> Entry | None:
    """The move that the present champion replaced, where it was of another version."""
    moves = [entry for entry in ledger.entries(line) if entry.kind in MOVES]
    others = [move for move in moves if move.body["version"] != moves[-1].body["version"]]
    return others[-1] if others else None


def promote(ledger: Ledger, line: str, number: int, reason: str) -> Entry:
    """Make a registered version champion because a person says so."""
    version = registered(ledger, line, number)
    champion = ledger.champion(line)
    if champion is not None and champion.body["version"] == number:
        return champion
    return _move("promoted", ledger, version, champion, reason)


def rollback(ledger: Ledger, line: str, reason: str) -> Entry:
    """Make the champion before this one champion again."""
    champion, previous = ledger.champion(line), previous_champion(ledger, line)
    if champion is None or previous is None:
        raise LedgerError(f"{line}: there is no earlier champion to roll back to")
    restored = registered(ledger, line, previous.body["version"])
    return _move("rolled_back", ledger, restored, champion, reason, replaced=champion.body["version"])


def admit(ledger: Ledger, version: RegisteredVersion) -> None:
    """Raise LedgerError unless the ledger names this version and these bytes as champion, with a valid signature."""
    champion = ledger.champion(version.line)
    if champion is None or str(champion.body["version"]) != version.version:
        holder = f"version {champion.body['version']}" if champion else "nothing"
        raise LedgerError(f"{version.name}: the ledger's champion is {holder}; the registry's alias was moved by hand")
    ledger.check(champion)
    if champion.body["artifact"] != version.artifact:
        raise LedgerError(f"{version.name}: its artifact is not the one that was promoted")


def admit_registered(ledger: Ledger, version: RegisteredVersion) -> None:
    """Raise LedgerError unless the ledger knows this version with these bytes, champion or not."""
    entry = registered(ledger, version.line, int(version.version))
    ledger.check(entry)
    if entry.body["artifact"] != version.artifact:
        raise LedgerError(f"{version.name}: its artifact is not the one that was registered")


def registered(ledger: Ledger, line: str, number: int) -> Entry:
    """The ledger's entry of a registered version; raises LedgerError when there is none."""
    found = [entry for entry in ledger.entries(line) if entry.kind == "registered"]
    for entry in found:
        if entry.body["version"] == number:
            return entry
    known = ", ".join(str(entry.body["version"]) for entry in found) or "none"
    raise LedgerError(f"{line}@{number}: no such version; {line} has: {known}")


def _move(kind: str, ledger: Ledger, version: Entry, champion: Entry | None, reason: str, **facts: object) -> Entry:
    expected = champion.hash if champion else None
    body = {name: version.body[name] for name in ("version", "artifact", "run")}
    body |= {"reason": reason, "person": getpass.getuser(), **facts}
    # A person may ask the same thing again later, so the key is of this moment: after that move.
    return ledger.move(kind, version.line, f"{version.hash} after {expected}", body, expected)
