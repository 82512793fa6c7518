"""`tidemill label`: tasks for Label Studio out, people's results in. Mounted by flows/cli.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.options import Json
from llm_core.labels.adjudicate import Method
from llm_core.labels.task import Kind

if TYPE_CHECKING:
    from llm_core.artifact import Artifact
    from llm_core.labels.agreement import Agreement
    from llm_core.labels.label_studio import Proposed
    from llm_core.labels.task import Task

MODEL_SERVER = "http://127.0.0.1:8000"
SECONDS_PER_ANSWER = 300.0

label_app = typer.Typer(help="Tasks for people who label, in Label Studio's format, and their results.")

KindOption = Annotated[Kind, typer.Option("--task", help="What people decide.", show_default=False)]
Results = Annotated[Path, typer.Argument(help="Label Studio's JSON export.", metavar="RESULTS")]


@label_app.command("export")
def export(
    task: KindOption,
    documents: Annotated[
        list[Path], typer.Option(help="A text file, a .jsonl file or a documents artifact; may be repeated.")
    ],
    out: Annotated[
        Path, typer.Option(help="The tasks (.json); the labelling configuration is written beside as .xml.")
    ],
    more: Annotated[list[Path] | None, typer.Argument(help="More documents.", metavar="PATH")] = None,
    labels: Annotated[str, typer.Option(help="The labels of a classification or sequence, as in good,bad.")] = "",
    instruction: Annotated[str, typer.Option(help="What people, and the model, are told to do.")] = "",
    sample: Annotated[int | None, typer.Option(min=1, help="Only this many tasks, chosen by their content.")] = None,
    preannotate: Annotated[bool, typer.Option("--preannotate", help="Add the served champion's proposals.")] = False,
    server: Annotated[str, typer.Option(help="The model server (default: the running one).", metavar="URL")] = "",
) -> None:
    """Write tasks and configuration for a Label Studio project; exporting the same again gives the same bytes."""
    from llm_core.labels.files import write_whole
    from llm_core.labels.label_studio import Proposed, labelling_config, tasks_json
    from llm_core.labels.sources import read_tasks, sample_tasks
    from llm_core.labels.task import TEXT_KEYS, LabelError

    if out.is_dir():
        raise LabelError(f"{out}: is a folder; name a file in it, as in --out {out / 'tasks.json'}")
    config = out.with_suffix(".xml")
    if config == out:
        raise LabelError(f"{out}: is the place of the labelling configuration; let --out end in .json")
    words = tuple(labels.split(",")) if labels else ()
    page = labelling_config(task, words, instruction)
    tasks = sample_tasks(read_tasks([*documents, *(more or ())], task), sample)
    proposed = _proposals(server, tasks, words, instruction) if preannotate else [Proposed(each) for each in tasks]
    if not all(each.task.content.keys() >= set(TEXT_KEYS[task]) for each in proposed):
        raise LabelError(
            "left and right are missing; put two answers into each record, or let --preannotate ask for them"
        )
    if not proposed:
        raise LabelError(f"{', '.join(map(str, documents))}: no task is left; name documents with text in them")
    write_whole(config, page)
    write_whole(out, tasks_json(proposed))
    drafts = sum(each.draft is not None for each in proposed)
    left_out = f", {gone} left out for want of two different answers" if (gone := len(tasks) - len(proposed)) else ""
    print(f"{out}: {len(proposed)} tasks, {drafts} with a proposal{left_out}")
    print(f"{config}: the project's labelling configuration")


@label_app.command("import")
def import_(
    results: Results,
    task: KindOption,
    out: Annotated[Path, typer.Option(help="Folder of the labels artifact.")],
    adjudicate: Annotated[Method, typer.Option(help="Who decides where people differ.")] = "majority",
    report: Annotated[Path | None, typer.Option(help="Write the agreement as a page (Markdown) too.")] = None,
    as_json: Json = False,
) -> None:
    """Make a labels artifact of what people decided; a malformed record stops it and nothing is written."""
    from flows.report import print_facts
    from llm_core.labels.files import write_whole
    from llm_core.labels.report import agreement_report
    from tasks.label import label_results

    artifact, found, agreement = label_results(task, adjudicate, results, out)
    if report is not None:
        write_whole(report, agreement_report(agreement, found.labelled))
    print_facts(_facts(artifact), as_json)


@label_app.command("agreement")
def agreement(
    results: Results,
    task: Annotated[
        Kind | None, typer.Option(help="What people decided (default: found by the results).", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how far the annotators agree."""
    from flows import report
    from llm_core.labels.agreement import measure
    from llm_core.labels.results import find_kind, read_results

    kind = task or find_kind(results)
    measured = measure(kind, read_results(results, kind).labelled)
    if as_json:
        report.print_facts(asdict(measured), as_json)
    else:
        _print_tables(measured)


@label_app.command("tokens")
def tokens(
    labels: Annotated[Path, typer.Argument(help="A labels artifact of chat or pairs.", metavar="LABELS")],
    tokenizer: Annotated[Path, typer.Option(help="Folder of the tokenizer, or of the model to tune.")],
    out: Annotated[Path, typer.Option(help="Folder of the tokens artifact.")],
    instruction: Annotated[str, typer.Option(help="What stands above the source of every pair.")] = "",
    test_share: Annotated[
        float | None, typer.Option(help="Share of documents kept for tests (default: clean's).", show_default=False)
    ] = None,
    validation_share: Annotated[
        float | None, typer.Option(help="Share kept for the validation loss (default: clean's).", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Make tokens to tune on: conversations in the chat template, with a mask over the assistant's words."""
    from flows.report import print_facts
    from tasks.tokenize_labels import Tuning, tokenize_labels_folder

    shares = {"test_share": test_share, "validation_share": validation_share}
    cfg = Tuning(instruction=instruction, **{name: share for name, share in shares.items() if share is not None})
    print_facts(_facts(tokenize_labels_folder(cfg, labels, tokenizer, out)), as_json)


def _proposals(server: str, tasks: Sequence[Task], labels: tuple[str, ...], instruction: str) -> list[Proposed]:
    import httpx

    from llm_core.labels.champion import Champion

    with httpx.Client(base_url=server or _running_server(), timeout=SECONDS_PER_ANSWER, trust_env=False) as client:
        return list(Champion(client).propose(tasks, labels, instruction))


def _running_server() -> str:
    """The workspace's model server; its usual address outside of a workspace or where none is known."""
    from tasks.processes import find
    from tasks.workspace import Workspace, WorkspaceError

    try:
        running = find(Workspace.here().home, "model")
    except WorkspaceError:
        running = None
    return running.url if running is not None and running.url else MODEL_SERVER


def _print_tables(measured: Agreement) -> None:
    from flows.report import print_rows
    from llm_core.labels.report import number

    annotators = [asdict(each) for each in measured.annotators]
    print_rows("Annotators, the best first", _shown(annotators), as_json=False)
    print_rows("Pairs", _shown([asdict(pair) for pair in measured.pairs]), as_json=False)
    print(f"Krippendorff's alpha (nominal, by {measured.unit}): {number(measured.alpha)}")


def _shown(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    from llm_core.labels.report import number

    def cell(value: Any) -> Any:
        return number(value) if value is None or isinstance(value, float) else value

    return [{name.replace("_", " "): cell(value) for name, value in row.items()} for row in rows]


def _facts(artifact: Artifact) -> dict[str, Any]:
    return {"artifact": str(artifact.path), "digest": artifact.digest, **artifact.stats}
