"""`tidemill clean`: any readable files in, clean text out, without a recipe or a registry. Mounted by flows/cli.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.options import Json, Overrides, recipe_named, workspace


def clean(
    inputs: Annotated[list[str], typer.Option("--input", help="File, folder, glob, pkg:// or URL; may be repeated.")],
    output: Annotated[Path, typer.Option(help="A .txt or .jsonl file, or a folder.")],
    more: Annotated[list[str] | None, typer.Argument(help="More inputs.", metavar="PATH")] = None,
    accounts: Annotated[Path | None, typer.Option(help="Write the account of all records here, as JSON.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Take the collect and clean sections of this recipe.")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Clean files: any readable format in, clean text out, with an account of every record that is not kept."""
    from flows import report
    from tasks.clean_files import clean_files, recipe_of
    from tasks.observers import Terminal

    base = recipe_named(workspace(), recipe, overrides) if recipe else None
    chosen = recipe_of([*inputs, *(more or ())], base, overrides)
    with Terminal("clean") as observer:
        result = clean_files(chosen, output, observer, accounts)
    report.print_cleaned(result, as_json)
