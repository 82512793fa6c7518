"""Arguments and options that several commands share, and what they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from llm_core.config import Recipe
    from tasks.workspace import Workspace

RecipeName = Annotated[str, typer.Argument(help="A recipe of configs/, or the path of a YAML file.", metavar="RECIPE")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one value, as in train.lr=3e-4; may be repeated.", metavar="KEY=VALUE"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, everything else on stderr.")]


def workspace() -> Workspace:
    """The workspace that the command runs in."""
    from tasks.workspace import Workspace

    return Workspace.here()


def recipe_named(ws: Workspace, name: str, overrides: list[str] | None) -> Recipe:
    """The recipe of that name or path, with the values that the command line changes."""
    from llm_core.config import load_recipe

    return load_recipe(name, ws.configs, tuple(overrides or ()))


def model_folder(name: str) -> Path:
    """The folder that a command means: a path, or a registered version as NAME@VERSION."""
    if Path(name).is_dir():
        return Path(name)
    line, at, number = name.rpartition("@")
    if not at or not line or not number.isdigit():
        raise typer.BadParameter(f"{name!r} is no folder; write a version as NAME@VERSION, for example demo@3")
    from tasks.tracking import Tracker

    tracker: Any = Tracker(workspace())
    folder: Path = tracker.model_folder(tracker.version(line, int(number)))
    return folder
