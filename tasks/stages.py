"""The pure stages in one table, and the one way a stage is run.

``python -m tasks STAGE`` (what ``dvc.yaml`` calls) and the Prefect task call the same `run_stage`, so they make the
same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from llm_core.artifact import Artifact, ArtifactError, Draft, Observer
from llm_core.closure import closure_paths, code_digest
from llm_core.config import Recipe, RecipeError, parse_recipe
from llm_core.inventory import Inventory, take_inventory
from tasks.pinned import pinned
from tasks.workspace import Workspace

RUN_HEADER = "# The resolved recipe of this workspace, written by tidemill: the only parameters that DVC reads.\n"


@dataclass(frozen=True)
class Stage:
    """A pure stage: the function ``tasks.NAME.NAME(*recipe values, *input artifacts, out)``."""

    name: str
    makes: str
    """Kind of its artifact, published as out/NAME."""
    reads: tuple[str, ...]
    """Top-level recipe keys that it gets, in the order of its parameters."""
    takes: tuple[str, ...]
    """Stages whose artifacts it gets, in the order of its parameters."""

    @property
    def module(self) -> str:
        """Module of the stage's function."""
        return f"tasks.{self.name}"

    @property
    def function(self) -> Callable[..., Artifact]:
        """The stage's function, imported when first asked for (train and evaluate bring torch)."""
        function: Callable[..., Artifact] = getattr(import_module(self.module), self.name)
        return function


STAGES: Mapping[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("collect", makes="documents", reads=("collect",), takes=()),
        Stage("clean", makes="documents", reads=("clean",), takes=("collect",)),
        Stage("tokenizer", makes="tokenizer", reads=("tokenizer",), takes=("clean",)),
        Stage("tokenize", makes="tokens", reads=("tokenize",), takes=("clean", "tokenizer")),
        Stage("train", makes="model", reads=("train", "model", "seed"), takes=("tokenize", "tokenizer")),
        Stage("evaluate", makes="report", reads=("evaluate", "seed"), takes=("train", "tokenize", "clean")),
    )
}


@dataclass(frozen=True)
class Origin:
    """What an artifact of a stage would follow from, now: equal origins make equal bytes."""

    recipe: Mapping[str, Any]
    parents: Mapping[str, str]
    code: str

    def made(self, artifact: Artifact) -> bool:
        """Whether `artifact` came from exactly this."""
        return (artifact.recipe, artifact.parents, artifact.code) == (self.recipe, self.parents, self.code)

    @property
    def key(self) -> str:
        """sha256 that names the stage's scratch folder."""
        content = json.dumps([self.recipe, self.parents, self.code], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def read_run_recipe(ws: Workspace) -> Recipe:
    """The resolved recipe that the workspace's stages run with."""
    try:
        values = yaml.safe_load(ws.run_recipe.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{ws.run_recipe}: missing; write it with: tidemill recipes use NAME") from None
    return parse_recipe(values, where=str(ws.run_recipe))


def use_recipe(ws: Workspace, recipe: Recipe) -> tuple[Recipe, Inventory]:
    """Make `recipe` the one that this workspace's stages run with, and list its source files afresh.

    What it leaves to the champion is pinned: the recipe that comes back is the one to go on with. Both files are
    written only where they change, so that nothing looks newer than it is.
    """
    ws.inbox.mkdir(parents=True, exist_ok=True)
    recipe = pinned(ws, recipe)
    inventory = take_inventory(recipe.collect, ws.project, ws.sources, earlier=ws.inventory)
    content = RUN_HEADER + yaml.safe_dump(recipe.resolved(), sort_keys=False, allow_unicode=True)
    if not ws.run_recipe.exists() or ws.run_recipe.read_text(encoding="utf-8") != content:
        draft = ws.run_recipe.with_suffix(".draft")
        draft.write_text(content, encoding="utf-8")
        os.replace(draft, ws.run_recipe)
    if not ws.inventory.exists() or ws.inventory.read_text(encoding="utf-8") != inventory.content:
        inventory.write(ws.inventory)
    return recipe, inventory


def origin(stage: Stage, recipe: Recipe, ws: Workspace) -> Origin:
    """What `stage` would work from in this workspace; its inputs' manifests are read, not yet verified."""
    parents = {name: Artifact.peek(ws.out / name, STAGES[name].makes).digest for name in stage.takes}
    if stage.name == "collect":
        parents = {"inventory": Inventory.read(ws.inventory, ws.project).digest}
    return Origin(recipe=recipe.slice(stage.reads), parents=parents, code=code_digest(stage.module))


def run_stage(stage: Stage, recipe: Recipe, ws: Workspace, observer: Observer) -> Artifact:
    """Run one stage in this workspace and publish its artifact; inputs are verified by sha256 first."""
    inputs, draft = prepare(stage, recipe, ws, observer)
    values = [getattr(recipe, key) for key in stage.reads]
    with draft as out:
        return stage.function(*values, *inputs, out)


def prepare(stage: Stage, recipe: Recipe, ws: Workspace, observer: Observer) -> tuple[list[Any], Draft]:
    """The stage's inputs, verified by sha256, and the draft that it writes into once that is entered."""
    inputs: list[Any] = [Artifact.open(ws.out / name, STAGES[name].makes) for name in stage.takes]
    if stage.name == "collect":
        inputs = [Inventory.read(ws.inventory, ws.project, ws.sources)]
    source = origin(stage, recipe, ws)
    scratch = ws.home / "checkpoints" / source.key[:32]
    draft = Draft(
        target=ws.out / stage.name,
        kind=stage.makes,
        stage=stage.name,
        parents=source.parents,
        recipe=source.recipe,
        code=source.code,
        observer=observer,
        scratch=scratch,
        memo=ws.memo,
        workers=recipe.workers,
        pins=ws.tokenizers,
        starts=ws.starts,
        refused=ws.refused / stage.name,
    )
    return inputs, draft


def dvc_pipeline() -> dict[str, Any]:
    """The content of ``dvc.yaml``: the same stages, their code closures, parameters and outputs."""
    stages = {stage.name: _dvc_stage(stage) for stage in STAGES.values()}
    curve = {"x": "step", "y": ["train_loss", "validation_loss"], "title": "Loss", "x_label": "step", "y_label": "nats"}
    return {"stages": stages, "metrics": ["out/evaluate/metrics.json"], "plots": [{"out/train/loss.csv": curve}]}


def _dvc_stage(stage: Stage) -> dict[str, Any]:
    sources = [f"out/{name}" for name in stage.takes] or ["configs/inventory.json"]
    return {
        "cmd": f"python -m tasks {stage.name}",
        "deps": [*sources, *closure_paths(stage.module)],
        "params": [{"configs/run.yaml": list(stage.reads)}],
        "outs": [f"out/{stage.name}"],
    }


def find_stage(name: str) -> Stage:
    """The stage called `name`; an unknown name is an error that lists the known ones."""
    if name not in STAGES:
        raise ArtifactError(f"{name}: no such stage; stages are {', '.join(STAGES)}")
    return STAGES[name]


def artifacts(ws: Workspace) -> dict[str, Artifact]:
    """Every artifact that lies in the workspace, by stage, unverified (for inspection)."""
    folders: dict[str, Path] = {name: ws.out / name for name in STAGES if (ws.out / name).exists()}
    return {name: Artifact.peek(folder) for name, folder in folders.items()}
