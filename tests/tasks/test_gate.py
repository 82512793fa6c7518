from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pandas as pd
import pytest

from llm_core.artifact import Artifact, Draft
from llm_core.config import Gate, Guard
from tasks import champions
from tasks.evidence import BASELINE, Evidence, Limit, ScoreOpponent
from tasks.gate import answer, decide, gate, tonight
from tasks.guards import Guarded
from tasks.ledger import Entry, Ledger

DOCUMENTS = 40
CFG = Gate(resamples=2000)
GUARDED = Guarded("documents/bits", "texts", 40, 0.1, 0.05, 0.9, 0.2, "not_shown")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "home")


def report(folder: Path, bits_per_byte: float, documents: int = DOCUMENTS, seed: int = 0, **facts: float) -> Artifact:
    """A report whose documents score around `bits_per_byte`, beside a unigram of 2.2."""
    num_bytes = np.random.default_rng(0).integers(1_000, 50_000, documents)
    noise = np.random.default_rng(seed).normal(0, 0.02, documents)
    table = pd.DataFrame(
        {
            "sha256": [f"{number:064x}" for number in range(documents)],
            "source": [f"pkg://texts/{number}.txt" for number in range(documents)],
            "num_bytes": num_bytes,
            "bits": num_bytes * (bits_per_byte + noise),
            "unigram_bits": num_bytes * 2.2,
        }
    )
    with Draft(folder, "report", "evaluate") as out:
        table.to_parquet(out.path / "documents.parquet")
        return out.publish({"heldout_digest": "h", **facts})


def registered(ledger: Ledger, number: int) -> Entry:
    body = {"version": number, "artifact": f"digest{number}", "run": f"run{number}"}
    return ledger.append("registered", "demo", f"demo:{number}", body)


def scores_of(other: Artifact) -> ScoreOpponent:
    return lambda champion: pd.read_parquet(other.path / "documents.parquet").set_index("sha256")["bits"]


def never(champion: Entry) -> pd.Series:
    raise AssertionError("nothing has to be scored here")


def test_a_first_version_has_to_beat_the_unigram_baseline(ledger: Ledger, tmp_path: Path) -> None:
    entry = gate(CFG, 1, registered(ledger, 1), report(tmp_path / "r", 1.5), never, ledger)
    assert (entry.kind, entry.body["version"]) == ("promoted", 1)
    decision = ledger.entries()[1]
    assert (decision.kind, decision.body["evidence"]["opponent"]) == ("decided", BASELINE)
    assert entry.body["decision"] == decision.hash


def test_a_first_version_that_is_worse_than_unigram_is_not_promoted(ledger: Ledger, tmp_path: Path) -> None:
    entry = gate(CFG, 1, registered(ledger, 1), report(tmp_path / "r", 2.5), never, ledger)
    assert entry.body["outcome"] == "keep"
    assert ledger.champion("demo") is None


@pytest.mark.parametrize(("challenger", "outcome"), [(1.45, "promoted"), (1.55, "keep"), (1.5, "keep")])
def test_a_challenger_must_be_better_than_the_champion_on_the_same_documents(
    ledger: Ledger, tmp_path: Path, challenger: float, outcome: str
) -> None:
    old = report(tmp_path / "old", 1.5)
    gate(CFG, 1, registered(ledger, 1), old, never, ledger)
    entry = gate(CFG, 1, registered(ledger, 2), report(tmp_path / "new", challenger, seed=0), scores_of(old), ledger)
    assert outcome in (entry.kind, entry.body.get("outcome"))
    champion = ledger.champion("demo")
    assert champion is not None
    assert champion.body["version"] == (2 if outcome == "promoted" else 1)


def test_evidence_is_in_the_ledger_with_every_figure(ledger: Ledger, tmp_path: Path) -> None:
    old, new = report(tmp_path / "old", 1.5), report(tmp_path / "new", 1.4, seed=1)
    gate(CFG, 1, registered(ledger, 1), old, never, ledger)
    gate(CFG, 1, registered(ledger, 2), new, scores_of(old), ledger)
    evidence = [entry for entry in ledger.entries() if entry.kind == "decided"][-1].body["evidence"]
    assert (evidence["opponent"], evidence["documents"], evidence["heldout"]) == ("demo@1", DOCUMENTS, "h")
    assert evidence["low"] < evidence["gain"] < evidence["high"]
    assert evidence["gain"] == pytest.approx(evidence["opponent_bits_per_byte"] - evidence["challenger_bits_per_byte"])
    assert evidence["gain"] == pytest.approx(0.1, abs=0.02)


def test_too_few_documents_need_a_person(ledger: Ledger, tmp_path: Path) -> None:
    entry = gate(CFG, 1, registered(ledger, 1), report(tmp_path / "r", 1.0, documents=29), never, ledger)
    assert (entry.body["outcome"], "only 29 held-out documents" in entry.body["reason"]) == ("needs_person", True)
    assert ledger.champion("demo") is None


def test_a_gain_below_the_recipes_minimum_is_kept_out(ledger: Ledger, tmp_path: Path) -> None:
    cfg = Gate(resamples=2000, min_gain=0.2)
    old = report(tmp_path / "old", 1.5)
    gate(cfg, 1, registered(ledger, 1), old, never, ledger)
    entry = gate(cfg, 1, registered(ledger, 2), report(tmp_path / "new", 1.4), scores_of(old), ledger)
    assert entry.body["outcome"] == "keep"


def test_an_equal_question_gets_the_earlier_answer_without_scoring(ledger: Ledger, tmp_path: Path) -> None:
    old, new = report(tmp_path / "old", 1.5), report(tmp_path / "new", 1.55)
    gate(CFG, 1, registered(ledger, 1), old, never, ledger)
    second = registered(ledger, 2)
    kept = gate(CFG, 1, second, new, scores_of(old), ledger)
    assert gate(CFG, 1, second, new, never, ledger) == kept
    assert answer(CFG, second, new, ledger) == kept


def test_the_champion_is_not_compared_with_itself(ledger: Ledger, tmp_path: Path) -> None:
    only = report(tmp_path / "r", 1.5)
    promoted = gate(CFG, 1, registered(ledger, 1), only, never, ledger)
    assert gate(CFG, 1, registered(ledger, 1), only, never, ledger) == promoted


def test_an_opponent_that_lacks_a_document_is_an_error(ledger: Ledger, tmp_path: Path) -> None:
    gate(CFG, 1, registered(ledger, 1), report(tmp_path / "old", 1.5), never, ledger)
    short = scores_of(report(tmp_path / "short", 1.5, documents=39))
    with pytest.raises(ValueError, match="was not scored on every held-out document"):
        gate(CFG, 1, registered(ledger, 2), report(tmp_path / "new", 1.4), short, ledger)


def test_what_a_person_rolled_back_is_not_promoted_again_by_itself(ledger: Ledger, tmp_path: Path) -> None:
    old, new = report(tmp_path / "old", 1.5), report(tmp_path / "new", 1.4, seed=1)
    gate(CFG, 1, registered(ledger, 1), old, never, ledger)
    second = registered(ledger, 2)
    gate(CFG, 1, second, new, scores_of(old), ledger)
    champions.rollback(ledger, "demo", "it insults people")
    entry = gate(CFG, 1, second, new, scores_of(old), ledger)
    assert (entry.body["outcome"], "it insults people" in entry.body["reason"]) == ("needs_person", True)
    assert champions.promote(ledger, "demo", 2, "mended by a filter").body["version"] == 2


def night(ledger: Ledger, number: int, new: Artifact, old: Artifact, cfg: Gate = CFG) -> Entry:
    return gate(cfg, 1, registered(ledger, number), new, scores_of(old), ledger)


def last_evidence(ledger: Ledger) -> dict[str, Any]:
    found: dict[str, Any] = [entry for entry in ledger.entries() if entry.kind == "decided"][-1].body["evidence"]
    return found


def test_each_night_spends_from_one_alpha_and_the_ledger_knows_how_much(ledger: Ledger, tmp_path: Path) -> None:
    old, same = report(tmp_path / "old", 1.5), report(tmp_path / "same", 1.5, seed=1)
    night(ledger, 1, old, old)
    levels = [last_evidence(ledger)["level"]]
    for number in range(2, 5):
        night(ledger, number, same, old)
        levels.append(last_evidence(ledger)["level"])
    assert levels == sorted(levels, reverse=True) and len(set(levels)) == 4
    assert tonight(CFG, ledger, "demo").spent == pytest.approx(sum(levels))
    assert last_evidence(ledger)["alpha_spent"] == pytest.approx(sum(levels[:3]))
    assert tonight(CFG, Ledger(tmp_path / "home"), "demo") == tonight(CFG, ledger, "demo")


def test_nights_draw_samples_of_their_own_that_every_machine_draws_alike(ledger: Ledger, tmp_path: Path) -> None:
    old, same = report(tmp_path / "old", 1.5), report(tmp_path / "same", 1.5, seed=1)
    lows = []
    for place in (ledger, Ledger(tmp_path / "other")):
        night(place, 1, old, old)
        for number in (2, 3):
            night(place, number, same, old)
            lows.append(last_evidence(place)["low"])
    assert lows[:2] == lows[2:] and lows[0] != lows[1]


def test_two_that_decide_at_the_same_time_spend_different_looks(ledger: Ledger, tmp_path: Path) -> None:
    old = report(tmp_path / "old", 1.5)
    gate(CFG, 1, registered(ledger, 1), old, never, ledger)
    versions = [(registered(ledger, number), report(tmp_path / str(number), 1.55, seed=number)) for number in (2, 3)]
    scored, barrier = [], Barrier(2)

    def both_have_read(champion: Entry) -> pd.Series:
        scored.append(champion)
        if len(scored) <= 2:  # the one that was overtaken comes a third time, alone
            barrier.wait(timeout=30)
        return scores_of(old)(champion)

    def decide_one(each: tuple[Entry, Artifact]) -> Entry:
        return gate(CFG, 1, *each, both_have_read, Ledger(tmp_path / "home"))

    with ThreadPoolExecutor(2) as pool:
        decided = list(pool.map(decide_one, versions))
    assert sorted(entry.body["evidence"]["look"] for entry in decided) == [2, 3]
    assert len(scored) == 3


def test_a_repeated_equal_question_spends_nothing(ledger: Ledger, tmp_path: Path) -> None:
    old, same = report(tmp_path / "old", 1.5), report(tmp_path / "same", 1.5, seed=1)
    night(ledger, 1, old, old)
    night(ledger, 2, same, old)
    before = tonight(CFG, ledger, "demo")
    night(ledger, 2, same, old)
    assert tonight(CFG, ledger, "demo") == before


def test_a_decision_without_a_look_spends_nothing(ledger: Ledger, tmp_path: Path) -> None:
    before = tonight(CFG, ledger, "demo")
    gate(CFG, 1, registered(ledger, 1), report(tmp_path / "few", 1.0, documents=29), never, ledger)
    cfg = CFG.model_copy(update={"max_milliseconds": 1.0})
    slow = report(tmp_path / "slow", 1.0, milliseconds_per_token=2.0)
    assert gate(cfg, 1, registered(ledger, 2), slow, never, ledger).body["outcome"] == "keep"
    assert tonight(CFG, ledger, "demo") == before


def test_a_gain_that_one_test_would_believe_is_too_little_for_a_look_among_many(ledger: Ledger, tmp_path: Path) -> None:
    old, new = report(tmp_path / "old", 1.5), report(tmp_path / "new", 1.484, seed=1)
    night(ledger, 1, old, old)
    kept = night(ledger, 2, new, old)
    evidence = last_evidence(ledger)
    assert evidence["level"] < evidence["p_value"] < 0.05
    assert (kept.body["outcome"], "may spend" in kept.body["reason"]) == ("keep", True)
    alone = CFG.model_copy(update={"horizon_nights": 1})
    assert night(ledger, 2, new, old, alone).kind == "promoted"


def test_one_source_that_is_forgotten_keeps_a_gain_elsewhere_out(ledger: Ledger, tmp_path: Path) -> None:
    old, new = report(tmp_path / "old", 1.5, 80), report(tmp_path / "new", 1.2, 80)
    table = pd.read_parquet(new.path / "documents.parquet")
    is_other = np.arange(80) < 35
    old_bits = pd.read_parquet(old.path / "documents.parquet")["bits"]
    table["source"] = np.where(is_other, "inbox/", "texts/") + table["source"].str.rpartition("/")[2]
    forgotten = table.assign(bits=np.where(is_other, old_bits + 0.1 * table["num_bytes"], table["bits"]))
    night(ledger, 1, old, old)
    kept = night(ledger, 2, published(tmp_path / "forgotten", forgotten), old)
    assert (kept.body["outcome"], "documents/bits of inbox is worse" in kept.body["reason"]) == ("keep", True)
    assert {each["slice"]: each["verdict"] for each in kept.body["evidence"]["slices"]} == {
        "inbox": "lost",
        "texts": "won",
    }
    unguarded = CFG.model_copy(update={"guards": ()})
    assert night(ledger, 2, published(tmp_path / "again", forgotten), old, unguarded).kind == "promoted"


def published(folder: Path, documents: pd.DataFrame, **suites: pd.DataFrame) -> Artifact:
    with Draft(folder, "report", "evaluate") as out:
        for name, rows in {"documents": documents, **suites}.items():
            rows.to_parquet(out.path / f"{name}.parquet")
        return out.publish({"heldout_digest": "h"})


def test_a_guard_reads_the_examples_of_another_suite(ledger: Ledger, tmp_path: Path) -> None:
    old, better = report(tmp_path / "old", 1.5), report(tmp_path / "better", 1.2)
    table = pd.read_parquet(better.path / "documents.parquet")
    examples = [str(number) for number in range(200)]
    right = pd.DataFrame({"example": examples, "right": [True] * 200})
    wrong = right.assign(right=np.arange(200) >= 40)
    cfg = CFG.model_copy(update={"guards": (Guard(suite="choice", score="right", margin=0.05),)})
    night(ledger, 1, old, old, cfg)

    def ask(name: str, mine: pd.DataFrame | None, theirs: pd.DataFrame | None) -> Entry:
        new = published(tmp_path / name, table, **({} if mine is None else {"choice": mine}))
        version = registered(ledger, 2)
        return gate(cfg, 1, version, new, scores_of(old), ledger, True, lambda champion, suite: theirs)

    worse, unmeasured = ask("worse", wrong, right), ask("unmeasured", None, right)
    assert (worse.body["outcome"], "choice/right is worse (loss +0.2" in worse.body["reason"]) == ("keep", True)
    assert unmeasured.body["outcome"] == "needs_person"
    assert ask("unknown", right, None).body["outcome"] == "needs_person"
    assert ask("held", right.assign(asked=2), right).body["outcome"] == "promote"
    as_text = right.assign(right="[1, 2]")  # of a metric that only its suite puts together
    assert ask("text", as_text, as_text).body["outcome"] == "needs_person"
    assert worse.body["evidence"]["inputs"]["champion's choice"] != unmeasured.body["evidence"]["inputs"]["report"]


def test_a_version_that_is_too_large_or_of_unknown_size_is_not_promoted_by_itself(
    ledger: Ledger, tmp_path: Path
) -> None:
    cfg = CFG.model_copy(update={"max_bytes": 1000})
    body = {"version": 1, "artifact": "d", "run": "r", "model_bytes": 1001}
    large = ledger.append("registered", "demo", "demo:large", body)
    fits = ledger.append("registered", "demo", "demo:fits", {**body, "version": 2, "model_bytes": 1000})
    new = report(tmp_path / "r", 1.5)
    kept = gate(cfg, 1, large, new, never, ledger)
    assert (kept.body["outcome"], "model_bytes 1001 is above 1000" in kept.body["reason"]) == ("keep", True)
    unknown = gate(cfg, 1, registered(ledger, 3), new, never, ledger)
    assert (unknown.body["outcome"], "is limited and not known" in unknown.body["reason"]) == ("needs_person", True)
    assert gate(cfg, 1, fits, new, never, ledger).kind == "promoted"


def test_the_evidence_says_what_the_test_could_have_seen_and_names_every_input(ledger: Ledger, tmp_path: Path) -> None:
    old, new = report(tmp_path / "old", 1.5), report(tmp_path / "new", 1.4, seed=1)
    cfg = CFG.model_copy(update={"min_gain": 0.01})
    night(ledger, 1, old, old, cfg)
    night(ledger, 2, new, old, cfg)
    evidence = last_evidence(ledger)
    assert evidence["p_value"] < evidence["level"] and evidence["bootstrap_p"] < cfg.alpha
    assert evidence["power_at"] == 0.02 and 0 < evidence["power"] < 1
    assert cfg.min_gain < evidence["detectable_gain"] < 0.1
    assert evidence["mean_low"] < evidence["mean_gain"] < evidence["mean_high"]
    assert evidence["resamples"] >= 10 / evidence["level"]
    changes = [abs(each["gain"]) for each in evidence["changed_most"]]
    assert len(changes) == 20 and changes == sorted(changes, reverse=True)
    assert evidence["slices"] == [
        {"slice": "pkg://texts", "documents": DOCUMENTS, "gain": pytest.approx(evidence["gain"]), "verdict": "won"}
    ]
    assert evidence["inputs"]["report"] == new.digest
    assert evidence["inputs"]["champion_model"] == "digest1"
    assert {"version", "model", "heldout", "champion", "champion's documents", "gate"} < set(evidence["inputs"])


def test_deciding_asks_nothing_but_the_evidence(ledger: Ledger, tmp_path: Path) -> None:
    old, new = report(tmp_path / "old", 1.5), report(tmp_path / "new", 1.4, seed=1)
    night(ledger, 1, old, old)
    night(ledger, 2, new, old)
    values = {**last_evidence(ledger), "guards": [], "limits": []}
    evidence = Evidence(**values)
    assert decide(CFG, evidence)[0] == "promote"
    assert decide(CFG, replace(evidence, p_value=evidence.level))[0] == "keep"
    assert decide(CFG, replace(evidence, bootstrap_p=CFG.alpha))[0] == "keep"
    assert decide(CFG, replace(evidence, guards=[GUARDED]))[0] == "keep"
    assert decide(CFG, replace(evidence, guards=[replace(GUARDED, state="unmeasured")]))[0] == "needs_person"
    assert decide(CFG, replace(evidence, guards=[replace(GUARDED, state="too_few")]))[0] == "needs_person"
    assert decide(CFG, replace(evidence, guards=[replace(GUARDED, state="too_few", loss=0.0)]))[0] == "promote"
    assert decide(CFG, replace(evidence, limits=[Limit("memory_bytes", 5, 6)]))[0] == "keep"
    assert decide(CFG, replace(evidence, limits=[Limit("memory_bytes", 5, None)]))[0] == "needs_person"
