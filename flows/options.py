"""Arguments and options that several commands share, and what they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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
