"""Whole runs of a tiny recipe on real text: the command line, a real Prefect server, a real MLflow store, real DVC."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from llm_core.artifact import Artifact
from llm_core.models import load_pretrained
from llm_core.tokenizer import Tokenizer
from tasks.accounts import report_place
from tasks.ledger import Ledger
from tasks.processes import find, stop
from tasks.stages import STAGES
from tasks.tracking import Tracker
from tasks.workspace import Workspace
from tests.conftest import in_project
from tests.e2e.runs import PORT, await_version, cli_json, project_with_server, run, start_run, states

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

EFFECTS = {"register": "registered", "gate": "promoted", "deploy": "served"}


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """One project for all tests of this file; each goes on from where the last one left it."""
    yield from project_with_server(tmp_path_factory.mktemp("lifecycle") / "project")


def digests(ws: Workspace) -> dict[str, str]:
    return {name: Artifact.open(ws.out / name).digest for name in STAGES}


def prefect(ws: Workspace, path: str, body: dict[str, Any]) -> Any:
    """What the Prefect server of the project answers."""
    server = find(ws.home, "prefect")
    assert server is not None
    return httpx.post(f"{server.url}/api/{path}", json=body, timeout=30, trust_env=False).raise_for_status().json()


def flow_runs(ws: Workspace) -> Any:
    return prefect(ws, "flow_runs/filter", {"sort": "START_TIME_ASC"})


@pytest.fixture(scope="module")
def first(ws: Workspace) -> dict[str, Any]:
    return run(ws)


def test_a_run_ends_with_a_promoted_version_and_a_served_answer(ws: Workspace, first: dict[str, Any]) -> None:
    assert states(first) == {**dict.fromkeys(STAGES, "made"), **EFFECTS}
    assert (first["version"], first["champion"], first["promoted"]) == ("tiny@1", "tiny@1", True)
    assert first["decision"]["evidence"]["p_value"] < 0.05
    assert first["metrics"]["bits_per_byte"] < first["metrics"]["unigram_bits_per_byte"]
    assert first["served"]["answer"]
    assert Ledger(ws.home).verify() == len(Ledger(ws.home).entries())


def test_the_trained_model_gives_the_same_logits_in_transformers(ws: Workspace, first: dict[str, Any]) -> None:
    from transformers import LlamaForCausalLM

    folder = ws.out / "train"
    ids = torch.tensor([Tokenizer.load(folder).encode("My fellow citizens, the state of our union is strong.")])
    reference, report = LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.inference_mode():
        ours, theirs = load_pretrained(folder)(ids).logits, reference(ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_an_exported_version_writes_in_transformers_own_pipeline(
    ws: Workspace, first: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import pipeline

    done = in_project(ws, "flows.cli", "export", "tiny@1", "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr[-3000:]
    writer = pipeline("text-generation", model=str(tmp_path / "out"))
    prompt = "Fellow citizens of the Senate"
    (answer,) = writer(prompt, max_new_tokens=8, do_sample=False)
    assert answer["generated_text"].startswith(prompt) and len(answer["generated_text"]) > len(prompt)


def test_a_second_run_finds_everything_up_to_date_and_makes_no_version(ws: Workspace, first: dict[str, Any]) -> None:
    before = len(Ledger(ws.home).entries()), len(flow_runs(ws))
    again = run(ws)
    assert set(states(again).values()) == {"up to date"}
    assert all(row["because"] for row in again["stages"])
    assert (len(Ledger(ws.home).entries()), len(flow_runs(ws))) == before, "no flow was needed to find that out"
    assert [model["version"] for model in cli_json(ws, "models")] == [1]


def test_the_server_can_be_left_running_where_nothing_else_had_to_be_done(ws: Workspace, first: dict[str, Any]) -> None:
    done = in_project(ws, "flows.cli", "run", "tiny", "--set", PORT, "--keep-serving")
    server = find(ws.home, "model")
    assert done.returncode == 0 and server is not None, done.stderr[-3000:]
    try:
        assert f"the model server stays at {server.url}" in done.stderr
        assert "answered over HTTP by tiny@1" in done.stdout
        with httpx.Client(base_url=server.url or "", trust_env=False, timeout=60) as client:
            await_version(client, "tiny@1")
    finally:
        stop(ws.home, server)


def test_prefect_shows_each_stage_with_an_artifact_and_its_progress(ws: Workspace, first: dict[str, Any]) -> None:
    (flow_run,) = [run for run in flow_runs(ws) if run["state_type"] == "COMPLETED"][:1]
    artifacts = prefect(ws, "artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [flow_run["id"]]}}})
    shown = {artifact["key"]: artifact for artifact in artifacts}
    assert {*STAGES, *EFFECTS, "train-progress", "decision"} <= set(shown)
    assert first["stages"][0]["digest"] in shown["collect"]["data"]
    assert "The data keep their contract." in shown["data-report"]["data"]
    assert (shown["train-progress"]["data"], "50/50 steps" in shown["train-progress"]["description"]) == (100.0, True)


def test_the_decision_has_a_page_and_a_card_in_the_home_and_in_mlflow(ws: Workspace, first: dict[str, Any]) -> None:
    files = cli_json(ws, "report", "tiny@1")["files"]
    texts = ["README.md", "decision.json", "decision.md"]
    assert sorted(files) == [*texts, "documents.csv", "explain.html", "report.html", "suites.csv"]
    drawn = Path(files["explain.html"]).read_text(encoding="utf-8")
    assert drawn.count("<svg") >= 3 and "in its training documents" in drawn
    page = unescape(Path(files["report.html"]).read_text(encoding="utf-8"))
    assert first["decision"]["reason"] in page
    assert "run the recipe whose line is lstm" in page
    assert "not measured</span></td><td>" not in page.split("Time and energy")[1]
    version, card = Tracker(ws).version("tiny", 1), Path(files["README.md"]).read_text(encoding="utf-8")
    described = Tracker(ws).client.get_model_version("tiny", "1").description
    assert card.startswith("---\n") and described.startswith("# tiny@1\n") and described.rstrip(" …") in card
    cli_json(ws, "export", "tiny@1", "--output", "exported")
    assert (ws.root / "exported" / "README.md").read_text(encoding="utf-8") == card
    logged = Tracker(ws).client.list_artifacts(version.run_id, "reports")
    assert {f"reports/{name}" for name in files} <= {entry.path for entry in logged}
    numbers = Tracker(ws).client.get_run(version.run_id).data.metrics
    assert numbers["decision/gain"] == first["decision"]["evidence"]["gain"]


def test_one_changed_value_reruns_exactly_the_stages_downstream(ws: Workspace, first: dict[str, Any]) -> None:
    changed = states(run(ws, "--set", "evaluate.sample_tokens=9"))
    assert [stage for stage in STAGES if changed[stage] == "made"] == ["evaluate"]
    assert changed["register"] == "up to date"
    back = states(run(ws))
    assert [stage for stage in STAGES if back[stage] != "up to date"] == ["evaluate"]
    assert back["evaluate"] == "restored"


def test_a_bad_data_day_stops_before_training_and_the_last_good_data_stay(ws: Workspace, first: dict[str, Any]) -> None:
    before, runs = digests(ws), len(flow_runs(ws))
    expectation = "clean.contract.min_documents=1000"
    done = in_project(ws, "flows.cli", "run", "tiny", "--set", PORT, "--set", expectation)
    assert done.returncode == 3, done.stderr[-3000:]
    assert "min_documents" in done.stderr and "the last good data stay" in done.stderr
    assert digests(ws) == before and len(flow_runs(ws)) == runs + 1
    refused = Artifact.open(ws.refused / "clean", "documents")
    assert report_place(ws, refused).is_file() and str(report_place(ws, refused)) in done.stderr
    assert set(states(run(ws)).values()) == {"up to date"}


def test_a_dry_run_says_what_would_run_and_writes_nothing(ws: Workspace, first: dict[str, Any]) -> None:
    before = (ws.run_recipe.read_text(), digests(ws))
    done = in_project(ws, "flows.cli", "run", "tiny", "--dry-run", "--json", "--set", "tokenizer.vocab_size=300")
    would = {row["stage"]: row["would"] for row in json.loads(done.stdout)}
    assert [stage for stage, word in would.items() if word == "run"] == ["tokenizer", "tokenize", "train", "evaluate"]
    assert (ws.run_recipe.read_text(), digests(ws)) == before


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


def test_data_travels_through_a_dvc_remote(ws: Workspace, first: dict[str, Any], tmp_path: Path) -> None:
    before = digests(ws)
    remote = ("remote", "add", "-f", "--local", "-d", "store", str(tmp_path / "store"))
    assert [in_project(ws, "dvc", *command).returncode for command in (remote, ("push",))] == [0, 0]
    shutil.rmtree(ws.out)
    shutil.rmtree(ws.root / ".dvc" / "cache")
    done = in_project(ws, "dvc", "pull")
    assert done.returncode == 0, done.stderr
    assert digests(ws) == before


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


def test_mlflow_holds_curves_params_datasets_and_system_metrics(ws: Workspace, first: dict[str, Any]) -> None:
    code = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1])
run = client.get_run(sys.argv[2])
print(json.dumps({
    "losses": len(client.get_metric_history(run.info.run_id, "train/loss")),
    "reports": [entry.path for entry in client.list_artifacts(run.info.run_id, "reports")],
    "metrics": sorted(run.data.metrics), "params": run.data.params, "tags": run.data.tags, "status": run.info.status,
    "datasets": {entry.dataset.name: entry.dataset.digest for entry in run.inputs.dataset_inputs}}))
"""
    run_id = cli_json(ws, "models")[0]["run_id"]
    arguments = [sys.executable, "-c", code, f"sqlite:///{ws.home}/mlflow/mlflow.db", run_id]
    found = json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=ws.root).stdout)
    assert found["losses"] == int(found["params"]["train.steps"]) == 50
    assert found["status"] == "FINISHED"
    assert {
        "train/mfu",
        "evaluate/bits_per_byte",
        "clean/kept",
        "data/tokens",
        "system/cpu_utilization_percentage",
    } <= set(found["metrics"])
    assert {"reports/data.html", "reports/report.html", "reports/decision.json"} <= set(found["reports"])
    assert set(found["datasets"]) == {"collect", "clean", "tokenize"}
    assert found["datasets"]["tokenize"] == found["tags"]["dvc.out.tokenize"][:36]


def test_a_person_promotes_and_rolls_back_and_the_registry_follows(ws: Workspace, first: dict[str, Any]) -> None:
    run(ws, "--set", "train.steps=30", expect=3)  # worse, so the gate keeps the champion
    for command, champion in ((["promote", "tiny@2"], 2), (["rollback", "tiny"], 1)):
        done = in_project(ws, "flows.cli", *command)
        assert done.returncode == 0, done.stderr
        aliases = {model["version"]: model["aliases"] for model in cli_json(ws, "models")}
        assert aliases == {champion: ["champion"], 3 - champion: ["previous"]}
    assert Ledger(ws.home).champion("tiny").kind == "rolled_back"  # type: ignore[union-attr]


def test_a_night_runs_once_and_again_only_for_new_data(ws: Workspace, first: dict[str, Any]) -> None:
    night = ("nightly", "tiny", "--set", PORT)
    assert cli_json(ws, *night)["version"] == "tiny@1"
    assert "no new data, recipe or code" in cli_json(ws, *night)["skipped"]
    arrived = ws.root / "texts" / "2099-New-1.txt"
    arrived.write_text("My fellow citizens, this is news from a year that has not come yet. " * 30, encoding="utf-8")
    champions = (ws.out / "tokenizer" / "tokenizer.json").read_bytes()
    try:
        assert cli_json(ws, *night, "--set", "tokenizer.source=champion")["version"] == "tiny@3"
    finally:
        arrived.unlink()
    kept = Artifact.open(ws.out / "tokenizer")
    assert (kept.recipe["tokenizer"]["source"], kept.recipe["tokenizer"]["folder"]) == ("champion", "tiny@1")
    assert (kept.path / "tokenizer.json").read_bytes() == champions


def test_a_better_version_is_tried_in_service_before_it_is_champion(ws: Workspace, first: dict[str, Any]) -> None:
    done = in_project(ws, "flows.cli", "run", "tiny", "--set", PORT, "--keep-serving")
    server = find(ws.home, "model")
    assert server is not None and server.url is not None, done.stderr[-3000:]
    settings = ("deploy.canary_percent=50", "deploy.canary_min_requests=4", "train.steps=90")
    champion, seen = Ledger(ws.home).champion("tiny"), Counter[str]()
    assert champion is not None
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
        await_version(client, f"tiny@{champion.body['version']}")
    running = start_run(ws, *(word for setting in settings for word in ("--set", setting)))
    try:
        with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
            while running.poll() is None:
                answer = client.post("/v1/completions", json={"model": "tiny", "prompt": "The state", "max_tokens": 4})
                seen[answer.raise_for_status().headers["x-tidemill-version"]] += 1
                time.sleep(0.1)
        said, errors = running.communicate()
        assert running.returncode == 0, errors[-3000:]
        summary = json.loads(said)
        assert summary["promoted"] and summary["champion"] == summary["version"], summary["decision"]
        assert summary["trial"]["outcome"] == "passed" and summary["trial"]["reason"].startswith("nothing is worse: ")
        assert summary["trial"]["evidence"]["answers"]["challenger"] >= 16
        assert seen[summary["version"]] >= 16
        kinds = [entry.kind for entry in Ledger(ws.home).entries("tiny")]
        assert kinds[-4:] == ["challenged", "challenge_ended", "promoted", "served"]
    finally:
        running.kill()
        stop(ws.home, server)
