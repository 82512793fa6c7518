"""`tidemill report`: the page and the card of a version, for people. Mounted by flows/cli.py."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from flows.options import Json, workspace


def report(
    version: Annotated[str, typer.Argument(help="The version to read about.", metavar="NAME@VERSION")],
    output: Annotated[Path | None, typer.Option(help="Write a copy to this file.", metavar="FILE")] = None,
    card: Annotated[bool, typer.Option("--card", help="The model card, in Markdown, instead of the page.")] = False,
    decision: Annotated[bool, typer.Option("--decision", help="The signed decision, in Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """Say where the page of the gate's decision about a version lies; print its card or the decision itself."""
    from flows import report
    from tasks.published import CARD, MARKDOWN, PAGE, report_folder

    line, _, number = version.rpartition("@")
    if not line or not number.isdigit():
        raise typer.BadParameter(f"{version!r}: write it as NAME@VERSION, for example demo@3")
    folder = report_folder(workspace().home, line, int(number))
    place = folder / (CARD if card else MARKDOWN if decision else PAGE)
    if not place.is_file():
        raise typer.BadParameter(
            f"{version}: no report at {place}; `tidemill run RECIPE` writes one when the gate decides, "
            "`tidemill models` lists versions"
        )
    if output is not None:
        shutil.copyfile(place, output)
    if as_json:
        places = {path.name: str(path) for path in sorted(folder.iterdir())}
        report.print_facts({"version": version, "report": str(output or place), "files": places}, as_json)
    elif (card or decision) and output is None:
        print(place.read_text(encoding="utf-8"))
    else:
        print(output or place)
