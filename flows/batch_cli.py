"""`tidemill batch`: a model over all rows of a table, without a server. Mounted by flows/cli.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.options import Json


def batch(
    model: Annotated[
        str,
        typer.Option(help="A folder, a registered version or a line's champion.", metavar="FOLDER|NAME@VERSION|LINE"),
    ],
    source: Annotated[
        Path,
        typer.Option("--input", help="A .csv, .tsv, .json, .jsonl or .parquet file, or a folder that datasets saved."),
    ],
    output: Annotated[Path, typer.Option(help="A .csv, .tsv, .jsonl or .parquet file.")],
    column: Annotated[
        list[str] | None,
        typer.Option(help="The column to read (default: text); twice for a question and its context, or a pair."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Another task than what the model is for.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens (default: 64).")] = None,
    temperature: Annotated[float | None, typer.Option(help="Randomness (default: 0, the likeliest token).")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the likeliest tokens of together this probability (default: 1).")
    ] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text before which an answer ends; may be repeated.")] = None,
    seed: Annotated[int | None, typer.Option(help="Row number i draws from this + i (default: 0).")] = None,
    batch_size: Annotated[int, typer.Option(help="Rows that the model reads at a time.", min=1)] = 32,
    column_prefix: Annotated[str, typer.Option(help="Put in front of the new columns' names.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from where a stopped run was.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which rows can be read, and write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Score a table: each row goes out with what the model says to it, in the same order."""
    from flows import report
    from tasks import batch as scoring
    from tasks.fetch import fetch
    from tasks.observers import Terminal

    given = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "stop": stop, "seed": seed}
    options = {name: value for name, value in given.items() if value is not None}
    _check_usage(output, task, options)
    cfg = scoring.Batch(source, output, tuple(column or ()), task, options, batch_size, column_prefix)
    found = fetch(model)
    if dry_run:
        report.print_facts(scoring.preview(cfg, found), as_json)
        return
    with Terminal("batch") as observer:
        account = scoring.batch(cfg, found, observer, resume)
    report.print_facts(account, as_json)


def _check_usage(output: Path, task: str | None, options: dict[str, Any]) -> None:
    from llm_core.pipeline import task_named
    from llm_core.pipeline.batch import writing_options
    from tasks.scored_tables import check_name

    try:
        check_name(output)
        writing_options(**options)
        if task is not None:
            task_named(task)
    except ValueError as problem:
        raise typer.BadParameter(str(problem)) from None
