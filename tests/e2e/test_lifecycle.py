"""Whole runs of a tiny recipe on real text: the command line, a real Prefect server, a real MLflow store, real DVC."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_core.artifact import Artifact
from tasks.ledger import Ledger
from tasks.processes import free_port, start, stop
from tasks.services import environment, prefect_server
from tasks.stages import STAGES
from tasks.workspace import Workspace
from tests.conftest import in_project, make_project, project_environment

pytestmark = pytest.mark.timeout(900)
SOAK = pytest.mark.soak

PORT = f"deploy.port={free_port()}"
EFFECTS = {"register": "registered", "gate": "promoted", "deploy": "served"}


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A project with a Prefect server of its own, so that each run does not start one."""
    yield from project_with_server(tmp_path_factory.mktemp("lifecycle") / "project")


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Workspace]:
    yield from project_with_server(tmp_path / "project")


def project_with_server(root: Path) -> Iterator[Workspace]:
    workspace = make_project(root)
    workspace.home.mkdir()
    running = start(replace(prefect_server(workspace.home, free_port()), environment=environment(workspace.home)))
    try:
        yield workspace
    finally:
        stop(workspace.home, running)
        in_project(workspace, "flows.cli", "down")


def run(ws: Workspace, *arguments: str, expect: int = 0) -> dict[str, Any]:
    """`tidemill run tiny --json ...`; its document."""
    done = in_project(ws, "flows.cli", "run", "tiny", "--json", "--set", PORT, *arguments)
    assert done.returncode == expect, done.stderr[-3000:]
    return json.loads(done.stdout)


def cli_json(ws: Workspace, *arguments: str) -> Any:
    done = in_project(ws, "flows.cli", *arguments, "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def states(summary: dict[str, Any]) -> dict[str, str]:
    return {row["stage"]: row["state"] for row in summary["stages"]}


def digests(ws: Workspace) -> dict[str, str]:
    return {name: Artifact.open(ws.out / name).digest for name in STAGES}


@pytest.fixture(scope="module")
def first(ws: Workspace) -> dict[str, Any]:
    return run(ws)


@pytest.mark.e2e
def test_a_run_ends_with_a_promoted_version_and_a_served_answer(ws: Workspace, first: dict[str, Any]) -> None:
    assert states(first) == {**dict.fromkeys(STAGES, "made"), **EFFECTS}
    assert (first["version"], first["champion"], first["promoted"]) == ("tiny@1", "tiny@1", True)
    assert first["decision"]["evidence"]["p_value"] < 0.05
    assert first["metrics"]["bits_per_byte"] < first["metrics"]["unigram_bits_per_byte"]
    assert first["served"]["answer"]
    assert Ledger(ws.home).verify() == len(Ledger(ws.home).entries())


@pytest.mark.e2e
def test_a_second_run_finds_everything_up_to_date_and_makes_no_version(ws: Workspace, first: dict[str, Any]) -> None:
    entries = len(Ledger(ws.home).entries())
    again = run(ws)
    assert set(states(again).values()) == {"up to date"}
    assert all(row["because"] for row in again["stages"])
    assert len(Ledger(ws.home).entries()) == entries
    assert [model["version"] for model in cli_json(ws, "models")] == [1]


@pytest.mark.e2e
def test_one_changed_value_reruns_exactly_the_stages_downstream(ws: Workspace, first: dict[str, Any]) -> None:
    changed = states(run(ws, "--set", "evaluate.sample_tokens=9"))
    assert [stage for stage in STAGES if changed[stage] == "made"] == ["evaluate"]
    assert changed["register"] == "up to date"
    back = states(run(ws))
    assert [stage for stage in STAGES if back[stage] != "up to date"] == ["evaluate"]
    assert back["evaluate"] == "restored"


@pytest.mark.e2e
def test_a_dry_run_says_what_would_run_and_writes_nothing(ws: Workspace, first: dict[str, Any]) -> None:
    before = (ws.run_recipe.read_text(), digests(ws))
    done = in_project(ws, "flows.cli", "run", "tiny", "--dry-run", "--json", "--set", "tokenizer.vocab_size=300")
    would = {row["stage"]: row["would"] for row in json.loads(done.stdout)}
    assert [stage for stage, word in would.items() if word == "run"] == ["tokenizer", "tokenize", "train", "evaluate"]
    assert (ws.run_recipe.read_text(), digests(ws)) == before


@pytest.mark.e2e
def test_dvc_agrees_with_the_flow_and_makes_the_same_bytes(
    ws: Workspace, first: dict[str, Any], tmp_path: Path
) -> None:
    assert in_project(ws, "dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    clean = Workspace(tmp_path / "clone", tmp_path / "clone" / ".tidemill")
    subprocess.run(["git", "clone", "-q", str(ws.root), str(clean.root)], check=True)
    shutil.copytree(ws.root / "texts", clean.root / "texts")  # a person's texts are not in git
    assert in_project(clean, "flows.cli", "recipes", "use", "tiny", "--set", PORT).returncode == 0
    python_first = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = in_project(clean, "dvc", "repro", env=python_first)
    assert done.returncode == 0, done.stderr[-3000:]
    assert digests(clean) == digests(ws)
    assert done.stdout.count("Running stage") == len(STAGES)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["dag"], "evaluate"),
        (["metrics", "show"], "bits_per_byte"),
        (["metrics", "diff", "--all"], "bits_per_byte"),
        (["params", "diff", "--all"], "train.lr"),
        (["plots", "show", "out/train/loss.csv", "-o", "plots"], "index.html"),
    ],
)
def test_dvcs_own_commands_work_after_a_flow(
    ws: Workspace, first: dict[str, Any], command: list[str], expected: str
) -> None:
    done = in_project(ws, "dvc", *command)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


@pytest.mark.e2e
def test_data_travels_through_a_dvc_remote(ws: Workspace, first: dict[str, Any], tmp_path: Path) -> None:
    before = digests(ws)
    remote = ("remote", "add", "-f", "--local", "-d", "store", str(tmp_path / "store"))
    assert [in_project(ws, "dvc", *command).returncode for command in (remote, ("push",))] == [0, 0]
    shutil.rmtree(ws.out)
    shutil.rmtree(ws.root / ".dvc" / "cache")
    done = in_project(ws, "dvc", "pull")
    assert done.returncode == 0, done.stderr
    assert digests(ws) == before


@pytest.mark.e2e
def test_a_version_leads_back_to_data_code_recipe_and_runs(ws: Workspace, first: dict[str, Any]) -> None:
    lineage = cli_json(ws, "lineage", "tiny@1")
    commit = subprocess.run(["git", "-C", str(ws.root), "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert lineage["commit"] == commit.strip()
    texts = {f"texts/{path.name}" for path in (ws.root / "texts").iterdir()}
    assert {file["path"] for file in lineage["data"]} == texts
    assert all(len(file["sha256"]) == 64 for file in lineage["data"])
    assert "warmup_steps: 5" in lineage["recipe"]
    assert lineage["artifact"] == digests(ws)["train"]
    assert [entry["kind"] for entry in lineage["ledger"]][-1] in ("served", "decided")
    assert lineage["flow_run"] != "none"
    (model,) = cli_json(ws, "models")
    assert (model["name"], model["aliases"], model["run_id"]) == ("tiny", ["champion"], lineage["mlflow"])


@pytest.mark.e2e
def test_mlflow_holds_curves_params_datasets_and_system_metrics(ws: Workspace, first: dict[str, Any]) -> None:
    code = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1])
run = client.get_run(sys.argv[2])
print(json.dumps({
    "losses": len(client.get_metric_history(run.info.run_id, "train/loss")),
    "metrics": sorted(run.data.metrics), "params": run.data.params, "tags": run.data.tags, "status": run.info.status,
    "datasets": {entry.dataset.name: entry.dataset.digest for entry in run.inputs.dataset_inputs}}))
"""
    run_id = cli_json(ws, "models")[0]["run_id"]
    arguments = [sys.executable, "-c", code, f"sqlite:///{ws.home}/mlflow/mlflow.db", run_id]
    found = json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=ws.root).stdout)
    assert found["losses"] == int(found["params"]["train.steps"]) == 50
    assert found["status"] == "FINISHED"
    assert {"evaluate/bits_per_byte", "clean/kept", "system/cpu_utilization_percentage"} <= set(found["metrics"])
    assert set(found["datasets"]) == {"collect", "clean", "tokenize"}
    assert found["datasets"]["tokenize"] == found["tags"]["dvc.out.tokenize"][:36]


@pytest.mark.e2e
def test_a_person_promotes_and_rolls_back_and_the_registry_follows(ws: Workspace, first: dict[str, Any]) -> None:
    run(ws, "--set", "train.steps=30", expect=3)  # worse, so the gate keeps the champion
    for command, champion in ((["promote", "tiny@2"], 2), (["rollback", "tiny"], 1)):
        done = in_project(ws, "flows.cli", *command)
        assert done.returncode == 0, done.stderr
        aliases = {model["version"]: model["aliases"] for model in cli_json(ws, "models")}
        assert aliases == {champion: ["champion"], 3 - champion: ["previous"]}
    assert Ledger(ws.home).champion("tiny").kind == "rolled_back"  # type: ignore[union-attr]


@pytest.mark.e2e
def test_a_night_runs_once_and_again_only_for_new_data(ws: Workspace, first: dict[str, Any]) -> None:
    night = ("nightly", "tiny", "--set", PORT)
    assert cli_json(ws, *night)["version"] == "tiny@1"
    assert "no new data, recipe or code" in cli_json(ws, *night)["skipped"]
    arrived = ws.root / "texts" / "2099-New-1.txt"
    arrived.write_text("My fellow citizens, this is news from a year that has not come yet. " * 30, encoding="utf-8")
    try:
        assert cli_json(ws, *night)["version"] == "tiny@3"
    finally:
        arrived.unlink()


def start_run(ws: Workspace, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flows.cli", "run", "tiny", "--json", "--set", PORT, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ws.root, env=project_environment(ws), **pipes)  # type: ignore[call-overload]


def wait_for_checkpoint(ws: Workspace, process: subprocess.Popen[str], count: int = 1) -> None:
    while len(list((ws.home / "checkpoints").glob("*/step-*/checkpoint.json"))) < count:
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.02)


LONG = ("--set", "train.steps=400", "--set", "train.checkpoint_every=20")


@pytest.mark.e2e
def test_a_killed_training_resumes_to_the_bits_of_an_unbroken_one(fresh: Workspace, tmp_path: Path) -> None:
    killed = start_run(fresh, *LONG)
    wait_for_checkpoint(fresh, killed)
    killed.kill()
    killed.wait()
    resumed = run(fresh, *LONG)
    assert states(resumed)["train"] == "made"
    other = Workspace(tmp_path / "unbroken", tmp_path / "unbroken" / ".tidemill")
    make_project(other.root)
    for stage in list(STAGES)[:5]:
        done = in_project(other, "flows.cli", "stage", stage, "tiny", "--set", PORT, *LONG)
        assert done.returncode == 0, done.stderr
    weights = [Artifact.open(each.out / "train").files["model.safetensors"]["sha256"] for each in (fresh, other)]
    assert weights[0] == weights[1]
    assert resumed["version"] == "tiny@1"


@pytest.mark.e2e
def test_a_terminated_training_saves_exits_4_and_goes_on(fresh: Workspace) -> None:
    process = start_run(fresh, *LONG)
    wait_for_checkpoint(fresh, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert (process.returncode, "interrupted" in said) == (4, True), said[-3000:]
    assert run(fresh, *LONG)["version"] == "tiny@1"


KILLER = """
import os, signal, sys
from tasks import champions, ledger, orchestrate, tracking
def dies(owner, name, when=lambda *arguments: True, after=True):
    original = getattr(owner, name)
    def killing(*arguments, **named):
        if not after and when(*arguments):
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **named)
        if when(*arguments):
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, killing)
point = sys.argv.pop(1)
if point == "version made, not in the ledger":
    dies(tracking.Tracker, "create_version")
elif point == "promoted, aliases not moved":
    dies(champions, "project", after=False)
elif point == "artifact published, DVC not told":
    from tasks import update
    dies(update, "run_stage", when=lambda stage, *rest: stage.name == "clean")
else:
    dies(orchestrate.Run, "report", when=lambda run, row: row.stage == point)
from flows.cli import main
main()
"""
POINTS = (
    "collect", "artifact published, DVC not told", "clean", "tokenizer", "tokenize", "train", "evaluate",
    "version made, not in the ledger", "register", "promoted, aliases not moved", "gate", "deploy",
)  # fmt: skip


SAMPLE = tuple(point for point in POINTS if "," in point or point in ("train", "gate"))
"""The points that leave a step half done, and two of the others; make soak kills at every one."""


@pytest.mark.parametrize("points", [pytest.param(SAMPLE, marks=pytest.mark.e2e), pytest.param(POINTS, marks=SOAK)])
def test_kills_between_any_two_steps_converge_to_one_version(
    fresh: Workspace, tmp_path: Path, points: tuple[str, ...]
) -> None:
    script = tmp_path / "killer.py"
    script.write_text(KILLER)
    for point in points:
        command = [sys.executable, str(script), point, "run", "tiny", "--json", "--set", PORT]
        # The script imports prefect before the command line can tell it where the server is.
        env = project_environment(fresh, environment(fresh.home))
        done = subprocess.run(command, cwd=fresh.root, env=env, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, f"{point}: {done.returncode} {done.stderr[-3000:]}"
    run(fresh)
    last = run(fresh)
    assert set(states(last).values()) == {"up to date"}
    assert (last["version"], last["champion"]) == ("tiny@1", "tiny@1")
    (model,) = cli_json(fresh, "models")
    assert model["aliases"] == ["champion"]
    kinds = [entry.kind for entry in Ledger(fresh.home).entries()]
    assert kinds == ["reserved", "registered", "decided", "promoted", "served"]


def await_version(client: httpx.Client, name: str) -> None:
    """Ask until the answers come from `name`; every answer on the way has to be a good one."""
    deadline = time.monotonic() + 60
    seen = []
    while time.monotonic() < deadline:
        try:
            ready = client.get("/ready").is_success
        except httpx.TransportError:
            ready = False  # not listening yet
        if ready:
            response = client.post("/v1/completions", json={"model": "tiny", "prompt": "The", "max_tokens": 4})
            response.raise_for_status()
            seen.append(response.headers["x-tidemill-version"])
            if seen[-1] == name:
                return
        time.sleep(0.2)
    raise AssertionError(f"{name} was not served within a minute; seen: {seen[-5:]}")
