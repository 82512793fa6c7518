"""Promoters that race on one ledger leave a linear history that replays to the champion of any moment."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm_core.closure import ROOT
from tasks import champions
from tasks.ledger import MOVES, Entry, Ledger, LedgerError

VERSIONS, OPERATIONS = 6, 12
PROMOTER = """
import random, sys, time
from pathlib import Path
from tasks import champions
from tasks.ledger import Ledger, LedgerError

home, seed = Path(sys.argv[1]), int(sys.argv[2])
rng, ledger = random.Random(seed), Ledger(home)
for number in range(int(sys.argv[3])):
    seen = ledger.champion("demo")
    version, kind = rng.randint(1, int(sys.argv[4])), rng.choice(("person", "rollback", "gate", "old gate"))
    if kind == "old gate":
        time.sleep(0.03)  # others move on meanwhile
    try:
        if kind == "person":
            champions.promote(ledger, "demo", version, f"by {seed}")
        elif kind == "rollback":
            champions.rollback(ledger, "demo", f"by {seed}")
        elif seen is None or seen.body["version"] != version:
            expected = seen.hash if seen else None
            body = {"version": version, "artifact": f"digest{version}", "run": "r", "decision": "d", "over": expected}
            ledger.move("promoted", "demo", f"{seed}-{number}", body, expected)
    except LedgerError:
        print("refused", flush=True)
"""


@pytest.mark.parametrize(
    "races", [pytest.param(3, id="3 races"), pytest.param(50, marks=pytest.mark.slow, id="50 races")]
)
def test_promoters_and_rollbacks_make_one_history(races: int, tmp_path: Path) -> None:
    refused = moved = 0
    for race in range(races):
        home = tmp_path / str(race)
        ledger = Ledger(home)
        for number in range(1, VERSIONS + 1):
            body = {"version": number, "artifact": f"digest{number}", "run": "r"}
            ledger.append("registered", "demo", f"demo:{number}", body)
        refused += _race(home, random.Random(race))
        moves = [entry for entry in ledger.entries("demo") if entry.kind in MOVES]
        assert ledger.verify() == VERSIONS + len(moves)
        _require_linear(moves)
        for entry, before in zip(moves, [None, *moves[:-1]], strict=True):
            assert ledger.champion("demo", entry.sequence) == entry
            assert ledger.champion("demo", entry.sequence - 1) == before
        moved += len(moves)
    assert refused and moved > 3 * races


def _race(home: Path, rng: random.Random) -> int:
    """2 to 4 promoters at once, one of which may be killed; how many moves were refused."""
    command = [sys.executable, "-c", PROMOTER, str(home)]
    arguments = [[str(rng.randrange(10**6)), str(OPERATIONS), str(VERSIONS)] for _ in range(rng.randint(2, 4))]
    racing = [subprocess.Popen([*command, *each], cwd=ROOT, stdout=subprocess.PIPE, text=True) for each in arguments]
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0.1, 0.5))
        racing[0].send_signal(signal.SIGKILL)
    told = [process.communicate(timeout=120)[0] for process in racing]
    assert all(process.returncode in (0, -signal.SIGKILL) for process in racing)
    return sum(text.count("refused") for text in told)


def _require_linear(moves: list[Entry]) -> None:
    """Every move is from the champion that it was decided against, or replaced the one before it."""
    for before, entry in zip([None, *moves[:-1]], moves, strict=True):
        if "over" in entry.body:
            assert entry.body["over"] == (before.hash if before else None)
        if entry.kind == "rolled_back":
            assert before is not None and entry.body["replaced"] == before.body["version"]
            assert entry.body["version"] != before.body["version"]


def test_an_older_run_never_takes_the_champion_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for number in (1, 2, 3):
        ledger.append("registered", "demo", f"demo:{number}", {"version": number, "artifact": "a", "run": "r"})
    first = champions.promote(ledger, "demo", 1, "first")
    champions.promote(ledger, "demo", 2, "newer")
    body = {"version": 3, "artifact": "a", "run": "r"}
    with pytest.raises(LedgerError, match="the champion changed while this decision was made"):
        ledger.move("promoted", "demo", "late", body, expected=first.hash)
    champion = ledger.champion("demo")
    assert champion is not None and champion.body["version"] == 2
