"""`tidemill batch` from the command line: its exit codes, and a kill at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from llm_core.closure import ROOT
from tests.tasks.tiny_model import publish

NUM_ROWS = 240


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "train"
    publish(folder)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    path.write_text("id,text\n" + "".join(f"{n},One {'and two ' * (n % 5)}\n" for n in range(NUM_ROWS)))
    return path


def arguments(model: Path, source: Path, name: str) -> list[str]:
    options = ["--max-tokens", "30", "--temperature", "1", "--batch-size", "2"]
    return ["batch", "--model", str(model), "--input", str(source), "--output", str(source.with_name(name)), *options]


def start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(folder / "log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *command], cwd=folder, env=environment, stdout=log, stderr=log
        )


def wait_for_chunks(process: subprocess.Popen[bytes], partial: Path, num_chunks: int) -> None:
    """Until so many finished chunks are on disk; the run is still at work then."""
    deadline = time.monotonic() + 120
    while not partial.exists() or partial.read_bytes().count(b"\n") < 1 + num_chunks:
        assert process.poll() is None and time.monotonic() < deadline, (partial.parent / "log").read_text()
        time.sleep(0.02)


@pytest.mark.e2e
def test_a_run_that_was_stopped_and_then_killed_goes_on_to_equal_bytes(model: Path, source: Path) -> None:
    whole = CliRunner().invoke(app, [*arguments(model, source, "whole.csv"), "--json"], catch_exceptions=False)
    assert whole.exit_code == 0 and json.loads(whole.stdout)["scored"] == NUM_ROWS
    partial, command = source.with_name(".out.csv.partial"), arguments(model, source, "out.csv")

    stopped = start(command, source.parent)
    wait_for_chunks(stopped, partial, 2)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(timeout=60) == 4
    assert "SIGTERM after" in (source.parent / "log").read_text()

    num_chunks = partial.read_bytes().count(b"\n") - 1
    killed = start([*command, "--resume"], source.parent)
    wait_for_chunks(killed, partial, num_chunks + 2)
    killed.kill()
    assert killed.wait(timeout=60) == -signal.SIGKILL
    assert not source.with_name("out.csv").exists()

    result = CliRunner().invoke(app, [*command, "--resume", "--json"], catch_exceptions=False)
    account = json.loads(result.stdout)
    assert account["resumed_at"] >= 16 * (num_chunks + 2) and account["records_in"] == NUM_ROWS
    assert source.with_name("out.csv").read_bytes() == source.with_name("whole.csv").read_bytes()
    assert not partial.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--max-tokens", "0"], "max_tokens 0 must be"),
        (["--batch-size", "0"], "batch-size"),
        (["--task", "translate"], "is not known"),
        (["--output", "out.doc"], "must end with one of"),
    ],
)
def test_wrong_use_is_exit_code_2(model: Path, source: Path, more: list[str], message: str) -> None:
    result = CliRunner().invoke(app, [*arguments(model, source, "out.csv"), *more])
    assert result.exit_code == 2 and message in " ".join(result.output.split())


def test_a_wrong_table_is_exit_code_1_and_one_line(model: Path, source: Path) -> None:
    source.write_text("text\nOne\nTwo,3\n")
    process = start(arguments(model, source, "out.csv"), source.parent)
    assert process.wait(timeout=60) == 1
    log = (source.parent / "log").read_text()
    assert log == f"error: {source}: line 3: 2 fields, the header has 1; mend the row\n"


def test_a_dry_run_writes_nothing(model: Path, source: Path) -> None:
    result = CliRunner().invoke(app, [*arguments(model, source, "out.csv"), "--dry-run", "--json"])
    found = json.loads(result.stdout)
    assert found["scored"] == NUM_ROWS and found["refused"] == {}
    assert [path.name for path in source.parent.iterdir()] == ["in.csv"]
