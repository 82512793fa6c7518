"""Bring one pure stage up to date: leave it, adopt it, restore it, or run it — and say why."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from llm_core.artifact import Artifact, ArtifactError, Observer
from llm_core.config import Recipe
from tasks.accounts import account, make
from tasks.stages import Origin, Stage, origin
from tasks.versioning import Versioning
from tasks.workspace import Workspace

State = Literal["up to date", "adopted", "restored", "made"]


@dataclass(frozen=True)
class Update:
    """What became of a stage."""

    artifact: Artifact
    state: State
    because: str
    seconds: float


def update(stage: Stage, recipe: Recipe, ws: Workspace, versioning: Versioning, observer: Observer) -> Update:
    """Make the stage's artifact be the one of the present recipe, inputs and code.

    A finished artifact that a killed run left uncommitted is adopted; an artifact whose bytes were changed is refused.
    """
    began = time.monotonic()
    reasons = versioning.reasons((stage.name,)).get(stage.name, [])
    if not reasons:
        artifact = Artifact.peek(ws.out / stage.name, stage.makes)
        return Update(artifact, "up to date", "recipe, inputs and code are unchanged", time.monotonic() - began)
    wanted = origin(stage, recipe, ws)  # raises where an input is missing
    because = _shorten(reasons) if (ws.out / stage.name).exists() else "it was not here"
    with versioning.working(stage.name):
        found = _adopt(stage, wanted, ws) or _restore(stage, wanted, ws, versioning)
        artifact, state = found or (make(stage, recipe, ws, observer), "made")
        versioning.commit(stage.name)
        account(ws, recipe, artifact)
    return Update(artifact, state, because, time.monotonic() - began)


def up_to_date(stage: Stage, ws: Workspace) -> Update:
    """The answer for a stage that is known to need nothing."""
    artifact = Artifact.peek(ws.out / stage.name, stage.makes)
    return Update(artifact, "up to date", "recipe, inputs and code are unchanged", 0.0)


def _adopt(stage: Stage, wanted: Origin, ws: Workspace) -> tuple[Artifact, State] | None:
    place = ws.out / stage.name
    if not place.exists() or not wanted.made(Artifact.peek(place)):
        return None
    return Artifact.open(place, stage.makes), "adopted"


def _restore(stage: Stage, wanted: Origin, ws: Workspace, versioning: Versioning) -> tuple[Artifact, State] | None:
    if not versioning.restore(stage.name):
        return None
    try:
        artifact = Artifact.open(ws.out / stage.name, stage.makes)
    except ArtifactError:
        return None  # a damaged copy: the stage is run instead
    return (artifact, "restored") if wanted.made(artifact) else None


def _shorten(reasons: list[str], most: int = 3) -> str:
    more = f" and {len(reasons) - most} more" if len(reasons) > most else ""
    return ", ".join(reasons[:most]) + more
