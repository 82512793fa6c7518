"""Deployments: the flows as the Prefect server offers them, with typed forms and the nightly schedule.

Everything here is described first (`plan`) and then sent (`apply`); sending the same plan twice changes nothing. A run
executes the last commit: the first pull step brings the worker's worktree to it before the flow's modules are imported.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import DeploymentSchedule, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema
from prefect.utilities.importtools import import_object
from prefect.workers.process import ProcessWorker

from flows.worktrees import checkout_arguments
from llm_core.config import Recipe, load_recipe, recipe_names
from tasks.services import POOL, WORKSPACE_VARIABLE
from tasks.workspace import Workspace

LIFECYCLE = "flows.lifecycle.lifecycle"
NIGHTLY = "flows.nightly.nightly"
LABEL = "flows.label.label"
NIGHTLY_RECIPE = "nightly"
SCHEDULE = "nightly"
"""Slug of the nightly schedule: Prefect updates a schedule in place only when it can name it."""
FIRST_CRON, FIRST_TIMEZONE = "0 2 * * *", "UTC"
"""When the nightly runs until somebody says otherwise."""
STALE_RUNS = "runs-without-heartbeat"
NOT_LABELLING = {"prefect.resource.role": "flow", "prefect.resource.name": "!label"}
# Three heartbeats of 30 s and a bit: a smaller window was measured to crash healthy runs.
STALE_SECONDS = 95


class DeploymentError(ValueError):
    """A deployment that cannot be described or sent; the message says why."""


@dataclass(frozen=True)
class Deployment:
    """One deployment as it is going to be."""

    name: str
    """FLOW/NAME, as Prefect shows it."""
    entrypoint: str
    """Dotted name of the flow, imported from the worker's worktree."""
    recipe: Recipe | None = None
    """What a run without changes gets; None where every value is asked for in the form."""
    cron: str | None = None
    """When the nightly runs; None leaves the schedule that the server has."""
    timezone: str | None = None
    """Time zone of the schedule; None leaves the server's."""

    @property
    def is_nightly(self) -> bool:
        """Whether it has a schedule."""
        return self.entrypoint == NIGHTLY

    @property
    def parameters(self) -> dict[str, Any]:
        """The flow's parameters as the form begins with them."""
        return {"recipe": self.recipe.resolved()} if self.recipe else {}

    @property
    def recipe_sha256(self) -> str:
        """sha256 of the resolved recipe that a run without changes gets."""
        values = self.parameters.get("recipe", {})
        canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


def plan(
    ws: Workspace, names: Sequence[str] = (), cron: str | None = None, timezone: str | None = None
) -> tuple[Deployment, ...]:
    """Describe the deployments of the named recipes (default: all of the workspace, and labelling).

    Raises RecipeError for an unusable recipe, DeploymentError for a wrong schedule.
    """
    _require_schedule(cron, timezone)
    known = recipe_names(ws.configs)
    chosen = list(names) or known
    planned = [
        Deployment(name=f"lifecycle/{name}", entrypoint=LIFECYCLE, recipe=load_recipe(name, ws.configs))
        for name in chosen
        if name != NIGHTLY_RECIPE
    ]
    if not names:
        planned.append(Deployment("label/label", LABEL))
    if NIGHTLY_RECIPE in chosen:
        recipe = load_recipe(NIGHTLY_RECIPE, ws.configs)
        planned.append(Deployment("nightly/nightly", NIGHTLY, recipe, cron=cron, timezone=timezone))
    return tuple(planned)


def apply(planned: Sequence[Deployment]) -> None:
    """Send deployments to the Prefect server of PREFECT_API_URL, with the work pool and the automation they need."""
    with get_client(sync_client=True) as client:
        _apply_pool(client)
        for deployment in planned:
            _apply_deployment(client, deployment)
        _apply_stale_run_automation(client)


def _require_schedule(cron: str | None, timezone: str | None) -> None:
    try:
        CronSchedule(cron=cron or FIRST_CRON)
    except ValueError:
        raise DeploymentError(
            f"cron {cron!r}: not five fields such as '0 2 * * *' (minute hour day month weekday)"
        ) from None
    try:
        ZoneInfo(timezone or FIRST_TIMEZONE)
    except (ZoneInfoNotFoundError, ValueError):
        raise DeploymentError(f"timezone {timezone!r}: not known; write it as in Europe/Berlin, or UTC") from None


def _apply_pool(client: SyncPrefectClient) -> None:
    """Make the work pool; its limit keeps runs that share a worktree apart.

    A deployment's own concurrency limit would be a lease in the server's memory: a restart kills healthy runs.
    """
    try:
        pool = client.read_work_pool(POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(
            WorkPoolCreate(name=POOL, type="process", base_job_template=template, concurrency_limit=1)
        )
        return
    if pool.type != "process":
        raise DeploymentError(
            f"work pool {POOL!r}: is of type {pool.type}, a process pool is needed; delete or rename it"
        )
    if pool.concurrency_limit is None:
        client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=1))


def _apply_deployment(client: SyncPrefectClient, deployment: Deployment) -> None:
    """Create or change a deployment; one that is right is left alone, for a change drops its waiting runs."""
    flow_name, _, name = deployment.name.partition("/")
    wanted = _content(deployment, flow_name)
    try:
        existing = client.read_deployment_by_name(deployment.name)
    except ObjectNotFound:
        existing = None
    schedules = _schedules(deployment, existing)
    if existing is None or not _is_as_wanted(existing, wanted, schedules):
        flow_id = client.create_flow_from_name(flow_name)
        client.create_deployment(flow_id=flow_id, name=name, schedules=schedules, **wanted)
    elif schedules:
        _drop_missed_runs(client, existing)


def _content(deployment: Deployment, flow_name: str) -> dict[str, Any]:
    flow = import_object(deployment.entrypoint)
    if flow.name != flow_name:
        raise DeploymentError(f"{deployment.entrypoint}: is flow {flow.name!r}, {flow_name!r} is expected")
    schema = parameter_schema(flow).model_dump(mode="json", exclude_unset=True)
    return {
        "entrypoint": deployment.entrypoint,
        "description": flow.description,
        "version": deployment.recipe_sha256[:12],
        "tags": [f"recipe-sha256:{deployment.recipe_sha256}", "tidemill"],
        "parameters": deployment.parameters,
        # Closed on top too: the server accepts unknown parameters otherwise, and the run crashes on them.
        "parameter_openapi_schema": {**schema, "additionalProperties": False},
        "enforce_parameter_schema": True,
        "work_pool_name": POOL,
        "pull_steps": _pull_steps(),
    }


def _is_as_wanted(
    existing: DeploymentResponse, wanted: dict[str, Any], schedules: list[DeploymentScheduleCreate]
) -> bool:
    def facts(items: Sequence[DeploymentSchedule | DeploymentScheduleCreate]) -> list[tuple[Any, ...]]:
        return [
            (item.slug, item.active, getattr(item.schedule, "cron", None), getattr(item.schedule, "timezone", None))
            for item in items
        ]

    same_content = all(getattr(existing, key) == value for key, value in wanted.items())
    return same_content and facts(existing.schedules) == facts(schedules)


def _pull_steps() -> list[dict[str, Any]]:
    workspace = f"{{{{ ${WORKSPACE_VARIABLE} }}}}"
    git = " ".join(("git", "-C", f'"{workspace}"', *checkout_arguments()))
    return [
        {"prefect.deployments.steps.run_shell_script": {"script": git, "stream_output": True}},
        {"prefect.deployments.steps.set_working_directory": {"directory": workspace}},
    ]


def _schedules(deployment: Deployment, existing: DeploymentResponse | None) -> list[DeploymentScheduleCreate]:
    """The nightly's schedule; what a person set or paused earlier stays so unless this deployment says otherwise."""
    if not deployment.is_nightly:
        return []
    schedules = existing.schedules if existing is not None else []
    known = next((schedule for schedule in schedules if schedule.slug == SCHEDULE), None)
    before = CronSchedule(cron=FIRST_CRON, timezone=FIRST_TIMEZONE)
    if known is not None and isinstance(known.schedule, CronSchedule):
        before = known.schedule
    schedule = CronSchedule(cron=deployment.cron or before.cron, timezone=deployment.timezone or before.timezone)
    return [DeploymentScheduleCreate(schedule=schedule, active=known is None or known.active, slug=SCHEDULE)]


def _drop_missed_runs(client: SyncPrefectClient, existing: DeploymentResponse) -> None:
    """After days without a server every missed night waits to be run: one of them is enough to catch up."""
    due = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[existing.id]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=FlowRunFilterExpectedStartTime.model_validate({"before_": datetime.now(UTC)}),
    )
    newest_first = FlowRunSort.EXPECTED_START_TIME_DESC
    missed = [run for run in client.read_flow_runs(flow_run_filter=due, sort=newest_first) if run.auto_scheduled]
    for run in missed[1:]:
        client.delete_flow_run(run.id)


def _apply_stale_run_automation(client: SyncPrefectClient) -> None:
    """Mark a run crashed whose process and worker are both gone: nobody else would, and it would hold the pool.

    Not so a labelling run: it has no process, on purpose, while it waits for a person.
    """
    related = ResourceSpecification.model_validate(NOT_LABELLING)
    for known in client.read_automations_by_name(STALE_RUNS):
        if isinstance(known.trigger, EventTrigger) and known.trigger.match_related == related:
            return
        client.delete_automation(known.id)
    ends = {f"prefect.flow-run.{end}" for end in ("Completed", "Failed", "Cancelled", "Crashed")}
    trigger = EventTrigger(
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.heartbeat", *ends},
        match={"prefect.resource.id": ["prefect.flow-run.*"]},
        match_related=related,
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=STALE_SECONDS),
    )
    crash = ChangeFlowRunState(
        name=None, state=StateType.CRASHED, message=f"no heartbeat for {STALE_SECONDS} s", force=False
    )
    Automation(name=STALE_RUNS, trigger=trigger, actions=[crash]).create()


if __name__ == "__main__":  # the supervisor applies deployments in a process of its own, to stay small
    given_cron, given_timezone = sys.argv[1:]
    apply(plan(Workspace.here(), cron=given_cron or None, timezone=given_timezone or None))
