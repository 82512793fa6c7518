"""A version is registered only when it can be traced and its kept copy is the model; a cut ledger is noticed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llm_core.artifact import Artifact, Draft
from llm_core.config import Register
from llm_core.tokenizer import Tokenizer, tokenizer_digest
from tasks import champions
from tasks.ledger import Entry, Ledger, LedgerError
from tasks.register import TRACED, RegistrationError, register
from tasks.tracking import Tracker
from tasks.workspace import HOME_VARIABLE, Workspace
from tests.tasks.tiny_model import publish

FACTS = dict.fromkeys(TRACED, "known")
LINE = Register(line="tiny")


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    folder = tmp_path_factory.mktemp("project")
    (folder / "dvc.yaml").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME_VARIABLE, str(folder / ".tidemill"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(folder)
        yield Workspace.here()


@pytest.fixture
def ledger(ws: Workspace) -> Ledger:
    return Ledger(ws.home)


class Store(Tracker):
    """A registry that keeps one file wrong, as a broken disk or a cut connection would."""

    damaged = True

    def model_folder(self, version: object) -> Path:
        folder = super().model_folder(version)  # type: ignore[arg-type]
        place, kept = folder / "model.safetensors", folder.parent / "kept"
        if self.damaged and not kept.exists():
            kept.write_bytes(place.read_bytes())
            place.write_bytes(kept.read_bytes()[:-4] + b"\0\0\0\1")
        elif not self.damaged and kept.exists():
            place.write_bytes(kept.read_bytes())
            kept.unlink()
        return folder


def add(ws: Workspace, ledger: Ledger, tracker: Tracker, model: Artifact, facts: dict[str, str] = FACTS) -> Entry:
    found = tracker.client.get_experiment_by_name("tiny")
    experiment = found.experiment_id if found else tracker.client.create_experiment("tiny", (ws.home / "k").as_uri())
    run_id = tracker.client.create_run(experiment).info.run_id
    return register(LINE, model, tracker, ledger, ws, run_id, facts)


def test_what_cannot_be_traced_is_not_registered(ws: Workspace, ledger: Ledger) -> None:
    model = publish(ws.root / "untraced", seed=1)
    with pytest.raises(RegistrationError, match=r"without dvc\.lock\.md5, environment\.sha256; start it"):
        add(ws, ledger, Tracker(ws), model, {**FACTS, "dvc.lock.md5": "", "environment.sha256": ""})
    assert ledger.entries("tiny") == []


def test_a_damaged_copy_is_no_version_until_it_is_whole(ws: Workspace, ledger: Ledger) -> None:
    model, store = publish(ws.root / "model", seed=2), Store(ws)
    with pytest.raises(RegistrationError, match=r"tiny@1: .*model\.safetensors.*delete this version in MLflow"):
        add(ws, ledger, store, model)
    assert [entry.kind for entry in ledger.entries("tiny")] == ["reserved"]
    store.damaged = False
    entry = add(ws, ledger, store, model)
    assert (entry.kind, entry.body["version"]) == ("registered", 1)  # adopted: there is no second version
    assert entry.body["memory_bytes"] > 4 * 10_000 and 0 < entry.body["milliseconds_per_token"] < 1000
    assert store.version("tiny", 1).tags["tidemill.ledger"] == entry.hash


def test_a_ledger_whose_end_was_cut_off_is_noticed(ws: Workspace, ledger: Ledger) -> None:
    tracker = Tracker(ws)
    add(ws, ledger, tracker, publish(ws.root / "cut", seed=3))
    champions.promote(ledger, "tiny", ledger.entries("tiny")[-1].body["version"], "a test")
    champions.project(ledger, tracker, "tiny")
    champions.require_whole(ledger, tracker)
    last = ledger.entries()[-1]
    with sqlite3.connect(ws.home / "ledger.db") as connection:
        connection.execute("DELETE FROM entries WHERE sequence = ?", (last.sequence,))
    assert ledger.verify() == last.sequence - 1  # by itself the rest is in order
    with pytest.raises(LedgerError, match=f"names entry {last.sequence} .* its end was cut off"):
        champions.require_whole(ledger, tracker)
    champions.promote(ledger, "tiny", last.body["version"], "another story")  # a new end hides nothing
    with pytest.raises(LedgerError, match="its end was cut off"):
        champions.require_whole(ledger, tracker)


def test_the_command_says_so(ws: Workspace) -> None:
    from typer.testing import CliRunner

    from flows.cli import app

    done = CliRunner().invoke(app, ["ledger", "--json"])
    assert done.exit_code != 0 and "cut off" in str(done.exception or done.output)


def test_the_runs_own_tokenizer_is_kept_for_the_next_run(ws: Workspace, ledger: Ledger) -> None:
    with Draft(ws.out / "tokenizer", "tokenizer", "tokenizer") as out:
        Tokenizer.train(["words of the run"] * 9, vocab_size=300).save(out.path)
        plain = out.publish({})
    model = publish(ws.root / "tuned", seed=9)
    own = replace(model, key="k" * 64, parents={"tokenizer": plain.digest})
    others = replace(model, key="o" * 64, parents={"tokenizer": "another"})
    kept = [add(ws, ledger, Tracker(ws), each).body["tokenizer"] for each in (own, others)]
    assert kept == [tokenizer_digest(plain.path), tokenizer_digest(model.path)]
