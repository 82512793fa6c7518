"""The command line. Every command imports what it needs when it runs, so that ``--help`` is instant.

Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a gate or contract, 4 interrupted and resumable.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.batch_cli import batch
from flows.challenge_cli import challenge
from flows.data_cli import clean
from flows.explain_cli import explain
from flows.generate_cli import generate
from flows.keys_cli import keys_app
from flows.label_cli import label_app
from flows.ledger_cli import ledger
from flows.lr_cli import lr_find
from flows.models_cli import export_model, import_model
from flows.options import Json, Overrides, RecipeName, recipe_named, workspace
from flows.plan_cli import plan
from flows.report_cli import report as report_command
from flows.serve_cli import serve

if TYPE_CHECKING:
    from llm_core.config import Recipe
    from tasks.workspace import Workspace

DONE, FAILED, USAGE, REFUSED, INTERRUPTED = 0, 1, 2, 3, 4

app = typer.Typer(
    name="tidemill",
    help="From raw text to a served language model, every night, with proof of where each model came from.",
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a gate or contract, 4 interrupted and resumable.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
deployments_app = typer.Typer(help="The flows as the Prefect server offers them.", no_args_is_help=True)
recipes_app = typer.Typer(help="The recipes in configs/.", no_args_is_help=True)
app.add_typer(deployments_app, name="deployments")
app.add_typer(recipes_app, name="recipes")
app.add_typer(label_app, name="label")
app.add_typer(keys_app, name="keys")

Cron = Annotated[
    str | None, typer.Option(help="When the nightly runs (default: as before, at first 0 2 * * *).", metavar="CRON")
]
Timezone = Annotated[
    str | None, typer.Option(help="Time zone of the schedule (default: as before, at first UTC).", metavar="ZONE")
]
Line = Annotated[str, typer.Option(help="The line (registered model name).")]


@app.command()
def run(
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    as_json: Json = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run and why, and stop.")] = False,
    keep_serving: Annotated[bool, typer.Option("--keep-serving", help="Leave the model server running.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Prefect's own log lines too.")] = False,
) -> None:
    """Run the lifecycle: sources to served model; what is up to date is left alone."""
    from flows import report
    from flows.local import run_lifecycle, serve_on
    from tasks.settled import settled

    ws = workspace()
    chosen = recipe_named(ws, recipe, overrides)
    if dry_run:
        report.print_plan(_plan(ws, chosen), as_json)
        return
    _prepare(ws, chosen)
    summary = settled(ws, chosen)
    if summary and keep_serving:
        serve_on(ws, chosen)
    plain = summary.plain() if summary else run_lifecycle(ws, chosen, keep_serving=keep_serving, verbose=verbose)
    report.print_summary(plain, as_json)
    if not plain["promoted"]:
        raise typer.Exit(REFUSED)


@app.command()
def nightly(recipe: RecipeName = "nightly", overrides: Overrides = None, as_json: Json = False) -> None:
    """Run one night here and now: the lifecycle if data, recipe or code are new, else a skip that says why."""
    from flows import report
    from flows.local import run_nightly

    ws = workspace()
    outcome = run_nightly(ws, recipe_named(ws, recipe, overrides))
    if "skipped" in outcome:
        report.print_facts(outcome, as_json)
        return
    report.print_summary(outcome, as_json)


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="collect, clean, tokenizer, tokenize, train or evaluate.")],
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Bring one pure stage up to date, without Prefect and MLflow; its inputs must be there."""
    from flows import report
    from tasks.observers import Terminal
    from tasks.stages import find_stage, use_recipe
    from tasks.update import update
    from tasks.versioning import Versioning, only_run

    ws = workspace()
    chosen, found = recipe_named(ws, recipe, overrides), find_stage(name)
    with only_run(ws), Terminal(name) as observer:
        chosen, _ = use_recipe(ws, chosen)
        result = update(found, chosen, ws, Versioning(ws), observer)
    facts = {"stage": name, "state": result.state, "because": result.because, "seconds": round(result.seconds, 2)}
    report.print_facts({**facts, "digest": result.artifact.digest, "stats": dict(result.artifact.stats)}, as_json)


@app.command()
def up(
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server.")] = 5000,
    model_port: Annotated[int, typer.Option(help="Port of the model server.")] = 8000,
    line: Line = "demo",
    cron: Cron = None,
    timezone: Timezone = None,
) -> None:
    """Keep Prefect, MLflow, a worker and the model server running, and apply the deployments."""
    from flows import report, supervisor

    ws = workspace()
    settings = supervisor.Settings(prefect_port, mlflow_port, model_port, line, cron, timezone)
    print("starting Prefect, MLflow, a worker and the model server ...", file=sys.stderr)
    fresh = supervisor.up(ws, settings)
    report.print_services(supervisor.status(ws.home), as_json=False)
    print("everything is up" if fresh else "it was up already; tidemill down stops it")


@app.command()
def status(as_json: Json = False) -> None:
    """Show which servers run, where, since when."""
    from flows import report, supervisor

    report.print_services(supervisor.status(workspace().home), as_json)


@app.command()
def down() -> None:
    """Stop everything that `up` started."""
    from flows import supervisor

    stopped = supervisor.down(workspace().home)
    print(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


app.command()(clean)
app.command()(serve)
app.command()(generate)
app.command()(batch)
app.command("import")(import_model)
app.command("export")(export_model)
app.command()(plan)
app.command("lr-find")(lr_find)


@app.command()
def models(
    line: Annotated[str | None, typer.Argument(help="Only this line.", metavar="LINE")] = None, as_json: Json = False
) -> None:
    """List the registered versions with their aliases."""
    from flows import report

    report.print_models(_tracker().versions(line), as_json)


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="The version to make champion.", metavar="NAME@VERSION")],
    reason: Annotated[str, typer.Option(help="Why; it goes into the ledger.")] = "by hand",
) -> None:
    """Make a registered version champion because you say so; the ledger records who and why."""
    from tasks import champions

    line, number = _name_and_number(version)
    ledger, tracker = _ledger(), _tracker()
    entry = champions.promote(ledger, line, number, reason)
    champions.project(ledger, tracker, line)
    print(f"{line}@{number} is champion (ledger entry {entry.sequence}); a running server follows within seconds")


@app.command()
def rollback(
    line: Annotated[str, typer.Argument(help="The line to roll back.", metavar="LINE")] = "demo",
    reason: Annotated[str, typer.Option(help="Why; it goes into the ledger.")] = "by hand",
) -> None:
    """Make the previous champion champion again."""
    from tasks import champions

    ledger, tracker = _ledger(), _tracker()
    entry = champions.rollback(ledger, line, reason)
    champions.project(ledger, tracker, line)
    print(f"{line}@{entry.body['version']} is champion again (ledger entry {entry.sequence})")


app.command()(challenge)
app.command()(explain)
app.command()(ledger)
app.command("report")(report_command)


@app.command()
def lineage(
    version: Annotated[str, typer.Argument(help="The version to explain.", metavar="NAME@VERSION")],
    as_json: Json = False,
) -> None:
    """Show where a version came from: data files, commit, recipe, runs, decisions."""
    from flows import report
    from tasks.provenance import provenance

    line, number = _name_and_number(version)
    report.print_facts(provenance(_tracker(), _ledger(), line, number), as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check versions, disk, ports and stores, and say what to do about what is wrong."""
    from flows import report
    from flows.doctor import examine

    findings = examine(Path.cwd())
    report.print_findings(findings, as_json)
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(FAILED)


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="Name of the recipe and of the line.")],
    texts: Annotated[Path | None, typer.Option(help="Folder of your texts (default: texts/NAME).")] = None,
) -> None:
    """Make a recipe and a folder for your own corpus."""
    from flows.scaffold import scaffold

    recipe, folder = scaffold(workspace(), name, texts)
    print(f"wrote {recipe}\nput .txt or .md files into {folder}, then: tidemill run {name}")


@deployments_app.command("apply")
def deployments_apply(
    names: Annotated[list[str] | None, typer.Argument(help="Recipes (default: all).", metavar="RECIPE")] = None,
    cron: Cron = None,
    timezone: Timezone = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show them and send nothing.")] = False,
) -> None:
    """Send the deployments (typed forms, the nightly schedule) to the running Prefect server."""
    ws = workspace()
    _use_environment(ws)
    if not dry_run and "PREFECT_API_URL" not in os.environ:
        raise ValueError("no Prefect server runs here; start one with tidemill up, or set PREFECT_API_URL")
    from flows import deployments

    planned = deployments.plan(ws, tuple(names or ()), cron, timezone)
    if not dry_run:
        deployments.apply(planned)
    for deployment in planned:
        when = deployment.cron or ("as scheduled" if deployment.is_nightly else "on demand")
        print(f"{deployment.name}  {when}  recipe {deployment.recipe_sha256[:12]}")


@recipes_app.command("list")
def recipes_list(as_json: Json = False) -> None:
    """List the recipes with what their headers say."""
    from flows import report
    from flows.scaffold import recipe_headers

    report.print_rows("Recipes", recipe_headers(workspace().configs), as_json)


@recipes_app.command("show")
def recipes_show(recipe: RecipeName = "demo", overrides: Overrides = None) -> None:
    """Print a recipe with all its values resolved."""
    import yaml

    print(
        yaml.safe_dump(recipe_named(workspace(), recipe, overrides).resolved(), sort_keys=False, allow_unicode=True),
        end="",
    )


@recipes_app.command("use")
def recipes_use(recipe: RecipeName = "demo", overrides: Overrides = None) -> None:
    """Write configs/run.yaml and configs/inventory.json, which `dvc repro` works from."""
    from tasks.stages import use_recipe

    ws = workspace()
    _, inventory = use_recipe(ws, recipe_named(ws, recipe, overrides))
    print(f"{ws.run_recipe}\n{ws.inventory}: {len(inventory.files)} files, {inventory.bytes:,} bytes")


@recipes_app.command("schema")
def recipes_schema() -> None:
    """Print the JSON schema of recipe files, for editors."""
    from llm_core.config import recipe_schema

    print(json.dumps(recipe_schema(), indent=2))


def main() -> None:
    """Run the command line; a problem is one clear message and an exit code, never a traceback."""
    from llm_core.artifact import Interrupted

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported; see tasks/services.py
    try:
        app(standalone_mode=True)
    except Interrupted as stopped:
        print(f"interrupted: {stopped}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (ValueError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(getattr(problem, "exit_code", FAILED))


def _prepare(ws: Workspace, recipe: Recipe) -> None:
    from tasks.stages import use_recipe
    from tasks.versioning import only_run

    with only_run(ws):
        use_recipe(ws, recipe)


def _plan(ws: Workspace, recipe: Recipe) -> list[dict[str, Any]]:
    from tasks.preview import preview

    return preview(ws, recipe)


def _use_environment(ws: Workspace) -> None:
    from tasks.services import environment

    os.environ.update(environment(ws.home))


def _tracker() -> Any:
    from tasks.tracking import Tracker

    return Tracker(workspace())


def _ledger() -> Any:
    from tasks.ledger import Ledger

    return Ledger(workspace().home)


def _name_and_number(version: str) -> tuple[str, int]:
    line, at, number = version.rpartition("@")
    if not at or not line or not number.isdigit():
        raise typer.BadParameter(f"{version!r}: write it as NAME@VERSION, for example demo@3")
    return line, int(number)


if __name__ == "__main__":
    main()
