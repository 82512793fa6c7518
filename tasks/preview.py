"""What a run would do, without doing it."""

from __future__ import annotations

from typing import Any

from llm_core.artifact import Artifact, ArtifactError
from llm_core.config import Recipe
from llm_core.inventory import take_inventory
from tasks.pinned import pinned
from tasks.stages import STAGES, Stage, origin
from tasks.workspace import Workspace


def preview(ws: Workspace, recipe: Recipe) -> list[dict[str, Any]]:
    """A row per pure stage: whether its artifact follows from this recipe, the present sources and code.

    Nothing is written. A stage after one that would run is listed as running too.
    """
    recipe = pinned(ws, recipe)
    inventory = take_inventory(recipe.collect, ws.project, ws.sources, earlier=ws.inventory)
    rows: list[dict[str, Any]] = []
    stale: set[str] = set()
    for stage in STAGES.values():
        upstream = sorted(stale & set(stage.takes))
        because = f"after {', '.join(upstream)}" if upstream else _why(ws, recipe, stage, inventory.digest)
        if because:
            stale.add(stage.name)
        rows.append({"stage": stage.name, "would": "run" if because else "stay", "because": because or "unchanged"})
    return rows


def _why(ws: Workspace, recipe: Recipe, stage: Stage, inventory: str) -> str:
    try:
        found = Artifact.peek(ws.out / stage.name, stage.makes)
    except ArtifactError:
        return "never made here"
    if stage.name == "collect" and dict(found.parents) != {"inventory": inventory}:
        return "source files changed"
    now = origin(stage, recipe, ws)
    if found.recipe != now.recipe:
        return "recipe changed: " + ", ".join(key for key in now.recipe if now.recipe[key] != found.recipe.get(key))
    if found.code != now.code:
        return "code changed"
    return "" if stage.name == "collect" or found.parents == now.parents else "inputs changed"
