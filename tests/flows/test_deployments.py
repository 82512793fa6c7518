from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import cast
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule

from flows import deployments
from flows.deployments import DeploymentError
from flows.supervisor import Settings
from llm_core.config import Recipe, RecipeError
from tasks.services import environment
from tasks.workspace import Workspace
from tests.flows.small_project import Api, git, is_gone, wait_for


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.yaml").write_text("seed: 11\n")
    (tmp_path / "configs" / "small.yaml").write_text("inherit: demo\nname: small\n")
    (tmp_path / "configs" / "nightly.yaml").write_text("inherit: demo\nname: nightly\n")
    return Workspace(root=tmp_path, home=tmp_path / ".tidemill")


def test_each_recipe_has_a_deployment_and_only_the_nightly_a_schedule(ws: Workspace) -> None:
    planned = deployments.plan(ws, cron="30 3 * * *", timezone="Europe/Berlin")
    assert [(each.name, each.cron) for each in planned] == [
        ("lifecycle/demo", None),
        ("lifecycle/small", None),
        ("label/label", None),
        ("nightly/nightly", "30 3 * * *"),
    ]
    assert planned[-1].timezone == "Europe/Berlin"
    assert planned[0].recipe.seed == 11


def test_only_the_named_recipes_are_planned(ws: Workspace) -> None:
    assert [each.name for each in deployments.plan(ws, ["small"])] == ["lifecycle/small"]


def test_the_recipes_sha256_changes_with_any_value(ws: Workspace) -> None:
    first = deployments.Deployment("lifecycle/demo", deployments.LIFECYCLE, Recipe(seed=1))
    same = deployments.Deployment("lifecycle/demo", deployments.LIFECYCLE, Recipe(seed=1))
    other = deployments.Deployment("lifecycle/demo", deployments.LIFECYCLE, Recipe(seed=2))
    assert first.recipe_sha256 == same.recipe_sha256 != other.recipe_sha256


def test_an_unknown_recipe_is_refused(ws: Workspace) -> None:
    with pytest.raises(RecipeError, match=r"nope\.yaml: no such recipe"):
        deployments.plan(ws, ["nope"])


def test_a_wrong_schedule_says_how_to_write_it(ws: Workspace) -> None:
    with pytest.raises(DeploymentError, match=r"cron 'at two': not five fields"):
        deployments.plan(ws, cron="at two")
    with pytest.raises(DeploymentError, match=r"timezone 'Berlin/Europe': not known"):
        deployments.plan(ws, timezone="Berlin/Europe")


def nightly_at(active: bool, cron: str = "0 2 * * *", timezone: str = "UTC") -> DeploymentResponse:
    """The nightly deployment as the server would describe it."""
    schedule = {"schedule": {"cron": cron, "timezone": timezone}, "active": active, "slug": deployments.SCHEDULE}
    return DeploymentResponse.model_validate({"name": "nightly", "flow_id": uuid4(), "schedules": [schedule]})


def test_a_schedule_that_a_person_paused_stays_paused(ws: Workspace) -> None:
    nightly = deployments.plan(ws)[-1]
    assert [each.active for each in deployments._schedules(nightly, None)] == [True]
    assert [each.active for each in deployments._schedules(nightly, nightly_at(active=True))] == [True]
    assert [each.active for each in deployments._schedules(nightly, nightly_at(active=False))] == [False]


@pytest.mark.parametrize(
    ("given", "known", "expected"),
    [
        ({}, None, ("0 2 * * *", "UTC")),
        ({}, ("30 3 * * 1-5", "Europe/Berlin"), ("30 3 * * 1-5", "Europe/Berlin")),
        ({"cron": "0 5 * * *"}, ("30 3 * * 1-5", "Europe/Berlin"), ("0 5 * * *", "Europe/Berlin")),
        ({"timezone": "UTC"}, ("30 3 * * 1-5", "Europe/Berlin"), ("30 3 * * 1-5", "UTC")),
    ],
)
def test_a_schedule_stays_as_it_was_where_nothing_else_is_said(
    ws: Workspace, given: dict[str, str], known: tuple[str, str] | None, expected: tuple[str, str]
) -> None:
    existing = nightly_at(True, *known) if known else None
    (schedule,) = deployments._schedules(deployments.plan(ws, **given)[-1], existing)
    assert isinstance(schedule.schedule, CronSchedule)
    assert (schedule.schedule.cron, schedule.schedule.timezone) == expected


class _WaitingRuns:
    """The part of Prefect's client that knows three missed nights and a run that a person asked for."""

    def __init__(self) -> None:
        nights = [FlowRun(flow_id=uuid4(), name=f"night {day}", auto_scheduled=True) for day in (3, 2, 1)]
        self.runs = [FlowRun(flow_id=uuid4(), name="asked for", auto_scheduled=False), *nights]

    def read_flow_runs(self, **_: object) -> list[FlowRun]:
        return list(self.runs)

    def delete_flow_run(self, run_id: UUID) -> None:
        self.runs = [run for run in self.runs if run.id != run_id]


def test_of_several_missed_nights_the_last_one_is_caught_up_with() -> None:
    client = _WaitingRuns()
    deployments._drop_missed_runs(cast(SyncPrefectClient, client), nightly_at(active=True))
    assert [run.name for run in client.runs] == ["asked for", "night 3"]


def apply_again(ws: Workspace, settings: Settings) -> None:
    command = [sys.executable, "-m", "flows.deployments", "", ""]
    subprocess.run(command, cwd=ws.root, env=environment(ws.home), check=True, timeout=60)


@pytest.mark.e2e
def test_the_nightly_deployment_has_runs_scheduled_by_the_server(served: tuple[Workspace, Settings]) -> None:
    _, settings = served
    api = Api(settings.prefect_port)
    (schedule,) = api.deployment("nightly/nightly")["schedules"]
    assert (schedule["slug"], schedule["active"]) == ("nightly", True)
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("0 2 * * *", "Europe/Berlin")
    wait_for(lambda: bool(api.waiting("nightly")))
    assert all(run["auto_scheduled"] for run in api.waiting("nightly"))


@pytest.mark.e2e
def test_the_form_is_typed_and_what_does_not_fit_it_is_refused(served: tuple[Workspace, Settings]) -> None:
    _, settings = served
    api = Api(settings.prefect_port)
    deployment = api.deployment("lifecycle/demo")
    schema = deployment["parameter_openapi_schema"]
    assert deployment["enforce_parameter_schema"]
    assert schema["properties"]["recipe"]["$ref"] == "#/definitions/Recipe"
    learning_rate = schema["definitions"]["Train"]["properties"]["lr"]
    assert (learning_rate["type"], learning_rate["exclusiveMinimum"]) == ("number", 0)
    assert "Peak learning rate" in learning_rate["description"]
    refusals = {
        "'trian' was unexpected": {"recipe": {"trian": {}}},
        "'recpie' was unexpected": {"recpie": {}},
        "-1 is less than": {"recipe": {"train": {"lr": -1}}},
    }
    for reason, parameters in refusals.items():
        answer = api.run("lifecycle/demo", parameters)
        assert answer.status_code == 409
        assert reason in answer.json()["detail"]


@pytest.mark.e2e
def test_a_run_uses_the_last_commit_in_the_workers_worktree(served: tuple[Workspace, Settings]) -> None:
    ws, settings = served
    api = Api(settings.prefect_port)
    with open(ws.root / "flows" / "lifecycle.py", "a") as file:
        file.write("\nNEXT = 1\n")
    git(ws.root, "commit", "--quiet", "--all", "--message", "Next")
    with open(ws.root / "flows" / "lifecycle.py", "a") as file:
        file.write("\nraise SystemExit('somebody is editing here')\n")
    recipe = api.deployment("lifecycle/demo")["parameters"]["recipe"]
    run = api.run("lifecycle/demo", {"recipe": {**recipe, "seed": 5}}).raise_for_status().json()["id"]
    wait_for(lambda: api.state(run) not in ("SCHEDULED", "PENDING", "RUNNING"))
    git(ws.root, "checkout", "--", ".")
    assert api.state(run) == "COMPLETED"
    place = ws.home / "workspaces" / "worker"
    assert json.loads((ws.home / "proof-5.json").read_text()) == {
        "flows": str(place / "flows" / "lifecycle.py"),
        "llm_core": str(place / "llm_core" / "config" / "__init__.py"),
        "folder": str(place),
        "seed": 5,
    }
    assert "NEXT" in (place / "flows" / "lifecycle.py").read_text()


@pytest.mark.e2e
def test_cancelling_a_run_ends_its_children_and_applying_again_keeps_waiting_runs(
    served: tuple[Workspace, Settings],
) -> None:
    ws, settings = served
    api = Api(settings.prefect_port)
    run = api.run("lifecycle/demo", {"recipe": {"seed": 7}}).raise_for_status().json()["id"]
    queued = api.run("lifecycle/demo", {"recipe": {"seed": 6}}).raise_for_status().json()["id"]
    wait_for((ws.home / "proof-7.json").exists)
    nights = {night["id"] for night in api.waiting("nightly")}
    apply_again(ws, settings)
    assert {night["id"] for night in api.waiting("nightly")} >= nights
    assert api.state(queued) == "SCHEDULED"  # one run at a time
    assert api.automations() == [deployments.STALE_RUNS]

    child = json.loads((ws.home / "proof-7.json").read_text())["child"]
    assert not is_gone(child)
    api.cancel(run)
    wait_for(lambda: is_gone(child) and api.state(run) == "CANCELLED")
    wait_for(lambda: api.state(queued) == "COMPLETED")
