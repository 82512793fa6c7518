"""`tidemill clean` takes any readable files and gives clean text, with an account of every record."""

from __future__ import annotations

import bz2
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app
from llm_core.artifact import Artifact
from llm_core.text.document import CleanDocument
from llm_core.text.shards import read_documents
from tasks.clean_files import OutputError

TEXT = "We hold these truths to be self-evident, that all texts are created equal in this test. " * 6
OTHER = "Four score and seven years ago somebody wrote quite another sentence for this very file here. " * 6


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands run in, with some files of several formats in `in`."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text(TEXT + "One.\u200b [Applause]")
    (tmp_path / "in" / "b.jsonl.bz2").write_bytes(
        bz2.compress(json.dumps({"text": OTHER + " Two."}).encode() + b"\nbad\n")
    )
    (tmp_path / "in" / "c.weird").write_text(TEXT + "One. [Applause]")
    (tmp_path / "in" / "short.html").write_text("<html><body><p>Short.</p></body></html>")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _clean(*arguments: str, expect: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["clean", *arguments, "--json"], catch_exceptions=True)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == expect, result.output
    return json.loads(result.stdout)


def test_a_folder_becomes_one_text_file_with_accounts_quarantine_and_report(folder: Path) -> None:
    said = _clean("--input", "in", "--output", "out.txt", "--accounts", "deep/accounts.json")
    accounts = json.loads((folder / "deep" / "accounts.json").read_text())
    assert accounts == {
        "records_in": 5,
        "kept": 2,
        "rejected": {"duplicate": 1, "not_json": 1, "too_short": 1},
    }
    assert accounts.items() <= said.items()
    written = (folder / "out.txt").read_text()
    assert (
        written.count("We hold these truths") == written.count("Four score") == 6
        and "Applause" not in written
        and "\u200b" not in written
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        "deep",
        "in",
        "out.txt",
        "out.txt.quarantine",
        "out.txt.report.html",
    ]
    assert "<svg" in (folder / "out.txt.report.html").read_text()
    assert list((folder / "out.txt.quarantine").glob("*.parquet"))


def test_json_lines_say_where_each_text_comes_from(folder: Path) -> None:
    _clean("--input", "in/b.jsonl.bz2", "--output", "out.jsonl")
    [line] = (folder / "out.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry["source"] == "in/b.jsonl.bz2" and entry["start"] == 0 and entry["text"].endswith("Two.")


def test_any_other_output_is_a_folder_with_the_artifact(folder: Path) -> None:
    _clean("--input", "in/a.txt", "in/b.jsonl.bz2", "--output", "out")
    documents = list(read_documents(Artifact.open(folder / "out" / "documents").path, CleanDocument))
    assert {document.source for document in documents} == {"in/a.txt", "in/b.jsonl.bz2"}
    assert {path.name for path in (folder / "out").iterdir()} == {"documents", "quarantine", "report.html"}


def test_values_can_be_set(folder: Path) -> None:
    said = _clean("--input", "in", "--output", "out.txt", "--set", "clean.min_words=1")
    assert said["kept"] == 3


def test_files_without_one_good_record_give_an_empty_output_and_exact_accounts(folder: Path) -> None:
    (folder / "bad.bin").write_bytes(b"\x7fELF\0\0\0")
    (folder / "loop").symlink_to("loop")
    said = _clean("--input", "bad.bin", "loop", "--output", "out.txt")
    assert (said["records_in"], said["kept"], said["rejected"]) == (2, 0, {"binary": 1, "unreadable": 1})
    assert (folder / "out.txt").read_text() == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "absent", "--output", "out.txt"], "absent: no such file or folder"),
        (["--input", "in/none", "--output", "out.txt"], "in/none: no file; put texts there"),
        (["--input", "in", "--output", "out.txt", "--set", "clean.min_word=1"], "clean.min_word: unknown key"),
    ],
)
def test_a_wrong_command_is_one_clear_error_and_leaves_nothing(
    folder: Path, arguments: list[str], message: str
) -> None:
    (folder / "in" / "none").mkdir()
    with pytest.raises(ValueError, match=message):
        _clean(*arguments)
    assert [path.name for path in folder.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in/a.txt", "--output", "in/a.txt"], "in/a.txt: is an input and would be overwritten"),
        (["in", "--output", "in/a.txt"], "in/a.txt: is an input and would be overwritten"),
        (["in/a.txt", "--output", "out.txt", "--accounts", "in/a.txt"], "in/a.txt: is an input"),
        (["in", "--output", "mine"], "mine/documents: would be replaced, and no earlier cleaning made it"),
        (["in", "--output", "folder.txt"], "folder.txt: is a folder"),
        (["in", "--output", "in/c.weird"], r"in/c.weird: is a file; let the output end in .txt or .jsonl"),
        (["in", "--output", "out.txt", "--accounts", "mine"], "mine: is a folder or the output"),
        (["in", "--output", "out.txt", "--accounts", "out.txt"], "out.txt: is a folder or the output"),
    ],
)
def test_nothing_of_the_users_is_overwritten(folder: Path, arguments: list[str], message: str) -> None:
    (folder / "mine" / "documents").mkdir(parents=True)
    (folder / "mine" / "documents" / "thesis.txt").write_text("the only copy")
    (folder / "folder.txt").mkdir()
    before = {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
    with pytest.raises(OutputError, match=message):
        _clean("--input", *arguments)
    assert {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")} == before


@pytest.mark.parametrize("output", ["out.txt", "out"])
def test_cleaning_again_replaces_all_that_the_last_one_left(folder: Path, output: str) -> None:
    said = _clean("--input", "in", "--output", output)
    assert _num_quarantined(said) == 3
    beside = Path(said["report"]).parent
    (beside / f".{output}.cleaning" / "memo").mkdir(parents=True)  # what a killed one leaves
    said = _clean("--input", "in", "--output", output, "--set", "clean.min_words=1")
    assert _num_quarantined(said) == sum(said["rejected"].values()) == 2
    assert list(beside.glob(".*")) == []


def test_the_places_are_shown_whatever_they_are_called(folder: Path) -> None:
    result = CliRunner().invoke(app, ["clean", "--input", "in", "--output", "[/b].txt"])
    assert (result.exit_code, "output      [/b].txt\n" in result.stdout) == (0, True)


def _num_quarantined(said: dict[str, Any]) -> int:
    return sum(pq.read_metadata(place).num_rows for place in Path(said["quarantine"]).glob("*.parquet"))
